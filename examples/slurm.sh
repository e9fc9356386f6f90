#!/usr/bin/env bash
# Edits the clips of a manifest on one node's GPUs: sbatch slurm.sh
# Slurm sends SIGTERM before the time is over; the job stops, is queued again, and goes on where it was.
#SBATCH --job-name=liveditor
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=256G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
#SBATCH --output=liveditor-%j.log
set -uo pipefail

# Manifest, model and results lie on storage that every node sees.
liveditor batch clips.jsonl --out edited --model LIVEditor-14B &
job=$!
trap 'kill -TERM "$job"' TERM
wait "$job"
status=$?
if [ "$status" -gt 128 ]; then # the trap ended the wait; the job itself ends a little later
    wait "$job"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
