#!/usr/bin/env bash
# Runs one training as several processes on this machine.
set -euo pipefail

here="$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'TEXT'
Usage: launch/multihost_local.sh N [--devices=K] [--dry-run] -- FLAGS

Runs r1jax.main with FLAGS as N processes that train together, as N hosts
would, each line of theirs behind [process]. They meet at a free port. Where
one ends badly, all end; the same command again resumes.

  N            Processes, 1 or more.
  --devices=K  Virtual CPU devices of each process. Without it each has the
               devices it finds.
  --dry-run    Prints the commands and runs none.

R1JAX_PYTHON is the Python to run; by default .venv's, installed if need be.

  launch/multihost_local.sh 2 --devices=4 -- \
    --config=configs/zero.py:smoke --config.mesh.fsdp=8 --workdir=runs/two
TEXT
}

fail() {
  echo "multihost_local.sh: $1 See --help." >&2
  exit 1
}

processes="" devices="" dry=""
while (($#)); do
  case "$1" in
    --help | -h) usage && exit ;;
    --devices=*) devices="${1#*=}" ;;
    --dry-run) dry=1 ;;
    --) shift && break ;;
    -*) fail "Unknown option $1; flags of r1jax.main come after --." ;;
    *)
      [[ -z "$processes" ]] || fail "Unknown argument $1."
      processes="$1"
      ;;
  esac
  shift
done
[[ "$processes" =~ ^[1-9][0-9]*$ ]] ||
  fail "N is '$processes', but must be 1 or more."
[[ "$devices" =~ ^([1-9][0-9]*)?$ ]] ||
  fail "--devices is '$devices', but must be 1 or more."

if [[ -n "${R1JAX_PYTHON:-}" ]]; then
  python="$R1JAX_PYTHON"
elif [[ -n "$dry" ]]; then
  python=".venv/bin/python"
else
  # shellcheck source=launch/install.sh
  source "$here/install.sh"
  install ""
  python="$root/.venv/bin/python"
fi
cd "$here/.."

settings=()
if [[ -n "$devices" ]]; then
  count="--xla_force_host_platform_device_count=$devices"
  settings=("JAX_PLATFORMS=cpu" "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$count")
fi
port="<a free port>"
if [[ -z "$dry" ]]; then
  port="$("$python" -c 'import socket
with socket.create_server(("", 0)) as s: print(s.getsockname()[1])')"
fi

pids=()
# Once: a second signal is for the processes to take.
trap 'trap - TERM INT; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT

for ((i = 0; i < processes; i++)); do
  command=(env "${settings[@]}" "$python" -u -m r1jax.main "$@"
    "--coordinator=localhost:$port" "--num_processes=$processes"
    "--process_id=$i")
  if [[ -n "$dry" ]]; then
    printf '%q ' "${command[@]}" && echo
  else
    "${command[@]}" > >(sed -u "s/^/[$i] /") 2> >(sed -u "s/^/[$i] /" >&2) &
    pids+=("$!")
  fi
done

status=0
while ((${#pids[@]})); do
  code=0
  wait -n -p ended "${pids[@]}" || code=$?
  # A signal to this script ends the wait alone.
  [[ -n "${ended:-}" ]] || continue
  ((code == 0)) || status="$code"
  left=()
  for pid in "${pids[@]}"; do
    [[ "$pid" == "$ended" ]] || left+=("$pid")
  done
  pids=("${left[@]}")
done
wait
exit "$status"
