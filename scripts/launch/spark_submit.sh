#!/bin/bash
# Finds the moments to plan for in an event log with Spark.
#
#   LOG='s3a://logs/*.parquet' OUT=s3a://contexts bash scripts/launch/spark_submit.sh --users s3a://users.parquet
#
# MASTER is yarn, k8s://... or spark://host:7077. Every node needs gplan-jax[spark] in the Python of
# PYSPARK_PYTHON, and about 3 GB for each of its cores: --memory-limit for sorting, and the group.
# It has never run on a cluster of several machines.
set -euo pipefail
: "${LOG:?set LOG to the log, a glob in quotes}" "${OUT:?set OUT to a new directory}"
exec spark-submit --master "${MASTER:-yarn}" --conf spark.executor.memoryOverhead=4g \
  "$(command -v gplan)" triggers --engine spark --log "$LOG" --out "$OUT" "$@"
