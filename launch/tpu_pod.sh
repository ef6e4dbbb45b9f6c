#!/usr/bin/env bash
# Makes a Cloud TPU slice, trains on all of its hosts, and deletes it.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: launch/tpu_pod.sh STEP... [OPTIONS] [-- FLAGS]

Steps, done in the order given:
  create   Makes the slice, or the slices, and waits until they are ready.
  install  Copies this repository to every host and installs it there.
  run      Starts r1jax.main with FLAGS on every host; it goes on without
           this terminal. The hosts find each other. Started again, it resumes.
  tail     Shows the log of host 0, of each slice, until Ctrl-C.
  delete   Deletes the slices. They cost money until then.

Options:
  --name=NAME        Of the slice; of several, of NAME-0, NAME-1 ...
                     Default: r1jax.
  --type=TYPE        As v5p-128 or v6e-64. Needed by create.
  --zone=ZONE        As us-east5-a. Needed.
  --project=ID       Default: gcloud's.
  --version=VERSION  Of the TPU's software. Default: that of the TYPE.
  --slices=N         Slices that train as one. Default: 1.
  --spot             Asks for spot capacity: cheaper, and may be taken away.
  --dry-run          Prints the commands and runs none.

WORKDIR must be seen by every host, as a mounted Filestore or a bucket mounted
by gcsfuse is.

  launch/tpu_pod.sh create install run tail --type=v5p-128 --zone=us-east5-a \
    -- --config=configs/zero.py:qwen2.5-7b --config.mesh.fsdp=64 \
    --workdir=/mnt/shared/zero
  launch/tpu_pod.sh delete --zone=us-east5-a
TEXT
}

fail() {
  echo "tpu_pod.sh: $1 See --help." >&2
  exit 1
}

steps=() name="r1jax" type="" zone="" project="" version="" slices="1"
spot="" dry=""
while (($#)); do
  case "$1" in
    --help | -h) usage && exit ;;
    --name=*) name="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --slices=*) slices="${1#*=}" ;;
    --spot) spot=1 ;;
    --dry-run) dry=1 ;;
    --) shift && break ;;
    create | install | run | tail | delete) steps+=("$1") ;;
    *) fail "Unknown step or option $1; flags of r1jax.main come after --." ;;
  esac
  shift
done
((${#steps[@]})) || fail "Name a step."
[[ -n "$zone" ]] || fail "--zone is missing."
[[ "$slices" =~ ^[1-9][0-9]*$ ]] ||
  fail "--slices is '$slices', but must be 1 or more."

runtime() {
  case "$type" in
    v4-*) echo "tpu-ubuntu2204-base" ;;
    v5litepod-*) echo "v2-alpha-tpuv5-lite" ;;
    v5p-*) echo "v2-alpha-tpuv5" ;;
    v6e-*) echo "v2-alpha-tpuv6e" ;;
    *) fail "--type is '$type', whose software is not known. Give --version." ;;
  esac
}

where=("--zone=$zone")
[[ -z "$project" ]] || where+=("--project=$project")
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

call() {
  if [[ -n "$dry" ]]; then
    printf '%q ' "$@" && echo
  else
    "$@"
  fi
}

names() {
  local i
  if ((slices == 1)); then
    echo "$name"
  else
    for ((i = 0; i < slices; i++)); do echo "$name-$i"; done
  fi
}

on_hosts() {
  call gcloud compute tpus tpu-vm ssh "$1" "${where[@]}" "--worker=$2" \
    "--command=$3"
}

create() {
  [[ -n "$type" ]] || fail "--type is missing."
  local image="$version" request
  [[ -n "$image" ]] || image="$(runtime)"
  request=(gcloud compute tpus queued-resources create "$name" "${where[@]}"
    "--accelerator-type=$type" "--runtime-version=$image")
  if ((slices == 1)); then
    request+=("--node-id=$name")
  else
    request+=("--node-count=$slices" "--node-prefix=$name")
  fi
  [[ -z "$spot" ]] || request+=("--spot")
  call "${request[@]}"
  local show=(gcloud compute tpus queued-resources describe "$name"
    "${where[@]}" "--format=value(state.state)")
  if [[ -n "$dry" ]]; then
    call "${show[@]}"
    return
  fi
  local state=""
  until [[ "$state" == ACTIVE ]]; do
    state="$("${show[@]}")"
    case "$state" in
      FAILED | SUSPENDED) fail "The slice could not be had: $state." ;;
    esac
    echo "$name: $state"
    [[ "$state" == ACTIVE ]] || sleep 30
  done
}

install() {
  local pack each
  pack="${TMPDIR:-/tmp}/r1jax-$name.tar.gz"
  call git -C "$root" archive --format=tar.gz "--output=$pack" HEAD
  for each in $(names); do
    call gcloud compute tpus tpu-vm scp "$pack" "$each:r1jax.tar.gz" \
      "${where[@]}" --worker=all
    on_hosts "$each" all "mkdir -p r1jax && tar -xzf r1jax.tar.gz -C r1jax && \
      cd r1jax && { command -v uv || pip install --quiet --user uv; } && \
      export PATH=\$HOME/.local/bin:\$PATH && \
      uv venv --quiet --allow-existing --python '>=3.11' .venv && \
      uv pip install --quiet --python .venv/bin/python --editable '.[tpu]'"
  done
}

run() {
  local flags each
  (($#)) || fail "run wants flags of r1jax.main after --."
  flags="$(printf '%q ' "$@")"
  for each in $(names); do
    on_hosts "$each" all "cd r1jax && \
      nohup .venv/bin/python -u -m r1jax.main --peer_timeout_secs=300 $flags \
      >>../r1jax.log 2>&1 </dev/null &"
  done
}

tail_logs() {
  local each
  for each in $(names); do
    on_hosts "$each" 0 "tail -n 100 -F r1jax.log" &
  done
  wait
}

delete() {
  call gcloud compute tpus queued-resources delete "$name" "${where[@]}" \
    --force --quiet
}

for step in "${steps[@]}"; do
  case "$step" in
    run) run "$@" ;;
    tail) tail_logs ;;
    *) "$step" ;;
  esac
done
