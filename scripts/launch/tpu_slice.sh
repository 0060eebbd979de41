#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice: the same command on every worker, through gcloud.
#
#   scripts/launch/tpu_slice.sh TPU_NAME ZONE CONFIG RUN [key=value ...]
#   scripts/launch/tpu_slice.sh gplan-v5e-16 us-west4-a picd_qwen3_1_7b \
#     /shared/runs/picd data.train=/shared/train.csv
#
# Once, before: on every worker, clone the repository to ~/gplan-jax, make ~/gplan-jax/.venv with
# `pip install -e '.[tpu]'`, and mount one disk (Filestore, or a bucket through gcsfuse) under the
# same path; RUN and all files that the config names lie there. CONFIG is a path on the workers.
#
# JAX finds address, number of processes and index in the slice's metadata; none need be set.
# To run it again continues the run: after a pre-emption, once the slice is back, as after a lost
# connection. To stop it in order (it saves, then exits with 143), from another terminal:
#
#   gcloud compute tpus tpu-vm ssh TPU_NAME --zone=ZONE --worker=0 \
#     --command="pkill -TERM -f '[g]plan train'"

set -euo pipefail
if [ "$#" -lt 4 ]; then
  echo "usage: $0 TPU_NAME ZONE CONFIG RUN [key=value ...]" >&2
  exit 2
fi
tpu=$1 zone=$2 config=$3 run=$4
shift 4

# Quoted for the shell of the workers.
arguments=$(printf '%q ' "$config" "output=$run" "$@")
marker=$(printf '%q' "$run/config.yaml")
command="cd ~/gplan-jax && . .venv/bin/activate \
  && export GPLAN_START_TIMEOUT=${GPLAN_START_TIMEOUT:-600} \
  && resume='' && if [ -e $marker ]; then resume=--resume; fi \
  && exec gplan train $arguments \$resume"

exec gcloud compute tpus tpu-vm ssh "$tpu" --zone="$zone" --worker=all --command="$command"
