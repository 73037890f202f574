#!/bin/sh
# One part of a sweep, as a task of a job array: for Slurm, sbatch --array=1-20 docs/job-array.sh SCENARIO FOLDER; for any other scheduler, set the
# two variables as it names them. A task that was killed, or put back into the queue, goes on where it was. When all are done, on any machine that
# sees the folder: harness report FOLDER/part-* --into FOLDER/whole
#SBATCH --ntasks=1
set -eu
scenario="$1"
folder="$2"
part="$SLURM_ARRAY_TASK_ID"
parts="$SLURM_ARRAY_TASK_COUNT"
# Where the project is, or the program itself.
harness="${HARNESS:-./run}"
exec "$harness" matrix "$scenario" --engine sim --shard "$part/$parts" --folder "$folder/part-$part" --quiet
