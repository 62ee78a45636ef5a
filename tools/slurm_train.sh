#!/usr/bin/env bash
# sbatch [-p PARTITION] tools/slurm_train.sh CONFIG [options of perception train]
# One torchrun a node; the first node is the meeting point. Submit the same line with --resume after a time limit:
# Slurm's SIGTERM lets the run save before it ends.
#SBATCH --job-name=perception
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --signal=TERM@120
#SBATCH --output=%x_%j.log
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: sbatch $0 CONFIG [options of perception train]" >&2
    exit 2
fi
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
processes=${SLURM_GPUS_ON_NODE:-1}
export OMP_NUM_THREADS=$((${SLURM_CPUS_PER_TASK:-$processes} / processes > 0 ? ${SLURM_CPUS_PER_TASK:-$processes} / processes : 1))
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc_per_node "$processes" \
    --rdzv_id "$SLURM_JOB_ID" \
    --rdzv_backend c10d \
    --rdzv_endpoint "$first:${MASTER_PORT:-29500}" \
    -m perception train "$@" --launcher pytorch
