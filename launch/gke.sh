#!/usr/bin/env bash
# Trains on a GKE cluster's TPU slices, as a JobSet.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: launch/gke.sh [STEP] [OPTIONS] [-- FLAGS]

Steps:
  print   Prints the JobSet that runs r1jax.main with FLAGS. The default.
  apply   Gives it to the cluster that kubectl is set to.
  tail    Shows the log of host 0 until Ctrl-C.
  delete  Deletes the JobSet.

Options:
  --name=NAME          Of the JobSet. Default: r1jax.
  --image=IMAGE        Container with this repository in /r1jax and its
                       dependencies. Needed by print and apply.
  --accelerator=KIND   As tpu-v5p-slice, tpu-v6e-slice. Needed likewise.
  --topology=TOPOLOGY  As 4x4x4. Needed likewise.
  --chips=N            Of one host. Default: 4.
  --slices=N           Slices that train as one. Default: 1.
  --claim=CLAIM        PersistentVolumeClaim, mounted at /shared in every
                       host, for --workdir=/shared/... Default: none.
  --restarts=N         Of the whole set, each of which resumes. Default: 3.
  --dry-run            Prints the commands and runs none.

The cluster needs the JobSet controller (jobset.sigs.k8s.io).

  launch/gke.sh apply --image=gcr.io/me/r1jax --accelerator=tpu-v5p-slice \
    --topology=4x4x4 --claim=shared -- --config=configs/zero.py:qwen2.5-7b \
    --config.mesh.fsdp=64 --workdir=/shared/zero
TEXT
}

fail() {
  echo "gke.sh: $1 See --help." >&2
  exit 1
}

step="" name="r1jax" image="" accelerator="" topology="" chips="4"
slices="1" claim="" restarts="3" dry=""
while (($#)); do
  case "$1" in
    --help | -h) usage && exit ;;
    --name=*) name="${1#*=}" ;;
    --image=*) image="${1#*=}" ;;
    --accelerator=*) accelerator="${1#*=}" ;;
    --topology=*) topology="${1#*=}" ;;
    --chips=*) chips="${1#*=}" ;;
    --slices=*) slices="${1#*=}" ;;
    --claim=*) claim="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    --dry-run) dry=1 ;;
    --) shift && break ;;
    print | apply | tail | delete)
      [[ -z "$step" ]] || fail "$step and $1 are two steps; name one."
      step="$1"
      ;;
    *) fail "Unknown step or option $1; flags of r1jax.main come after --." ;;
  esac
  shift
done
[[ "$name" =~ ^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$ ]] ||
  fail "--name is '$name', but must be up to 32 of a-z, 0-9 and -."
for number in chips slices restarts; do
  [[ "${!number}" =~ ^[1-9][0-9]*$ ]] ||
    fail "--$number is '${!number}', but must be 1 or more."
done

# A text as YAML, and JSON, write it.
quoted() {
  local text="${1//\\/\\\\}"
  text="${text//\"/\\\"}"
  printf '"%s"' "${text//$'\n'/\\n}"
}

manifest() {
  local field size=1 hosts part flag
  for field in image accelerator topology; do
    [[ -n "${!field}" ]] || fail "--$field is missing."
  done
  [[ "$topology" =~ ^[1-9][0-9]*(x[1-9][0-9]*)*$ ]] ||
    fail "--topology is '$topology', but must be as 4x4x4."
  (($#)) || fail "Give flags of r1jax.main after --."
  for part in ${topology//x/ }; do size=$((size * part)); done
  ((size % chips == 0)) ||
    fail "--chips is $chips, which does not divide the $size of $topology."
  hosts=$((size / chips))
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $restarts
  replicatedJobs:
  - name: slice
    replicas: $slices
    template:
      spec:
        parallelism: $hosts
        completions: $hosts
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            hostNetwork: true
            dnsPolicy: ClusterFirstWithHostNet
            terminationGracePeriodSeconds: 300
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $(quoted "$accelerator")
              cloud.google.com/gke-tpu-topology: $(quoted "$topology")
            containers:
            - name: r1jax
              image: $(quoted "$image")
              workingDir: /r1jax
              command:
              - python
              - -u
              - -m
              - r1jax.main
              - --peer_timeout_secs=600
YAML
  for flag in "$@"; do
    echo "              - $(quoted "$flag")"
  done
  cat <<YAML
              resources:
                limits:
                  google.com/tpu: $chips
YAML
  [[ -n "$claim" ]] || return 0
  cat <<YAML
              volumeMounts:
              - name: shared
                mountPath: /shared
            volumes:
            - name: shared
              persistentVolumeClaim:
                claimName: $(quoted "$claim")
YAML
}

call() {
  if [[ -n "$dry" ]]; then
    printf '%q ' "$@" && echo
  else
    "$@"
  fi
}

case "${step:-print}" in
  print) manifest "$@" ;;
  apply)
    text="$(manifest "$@")"
    if [[ -n "$dry" ]]; then
      call kubectl apply --filename=-
      echo "$text"
    else
      kubectl apply --filename=- <<<"$text"
    fi
    ;;
  tail)
    selector="jobset.sigs.k8s.io/jobset-name=$name"
    selector+=",jobset.sigs.k8s.io/job-index=0"
    selector+=",batch.kubernetes.io/job-completion-index=0"
    call kubectl logs --follow --tail=100 "--selector=$selector"
    ;;
  delete) call kubectl delete jobset "$name" ;;
esac
