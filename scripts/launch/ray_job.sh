#!/bin/bash
# Plans a file of contexts on a Ray cluster: the job runs there, this machine may leave.
#
#   RAY_ADDRESS=http://head:8265 MODEL=/shared/model DATA=/shared/contexts.parquet OUT=/shared/plans \
#     bash scripts/launch/ray_job.sh --workers 16
#
# Needs gplan-jax[ray] here and on every node, and a disk that all nodes see. Submitted again after
# a failure, it goes on at what is missing. It has never run on a cluster of several machines.
set -euo pipefail
: "${RAY_ADDRESS:?set RAY_ADDRESS to the dashboard of the cluster, http://head:8265}"
: "${MODEL:?set MODEL to a model directory}" "${DATA:?set DATA to the contexts}" "${OUT:?set OUT}"
exec ray job submit --address "$RAY_ADDRESS" -- \
  gplan predict --engine ray --address auto --model "$MODEL" --data "$DATA" --out "$OUT" "$@"
