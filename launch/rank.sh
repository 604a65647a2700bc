#!/usr/bin/env bash
# One rank, as srun starts it: SLURM's numbers under the names that torch.distributed reads, then train.py.
set -euo pipefail

trap '' USR2 # a request to stop that comes before Python listens ends nothing; it is repeated
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS

# Compiled kernels on the node's own disk: on a shared home, the nodes would write the same files. Only we may write here.
cache=${TMPDIR:-/tmp}/lavie-$UID
(umask 077 && mkdir -p "$cache")
[[ -O $cache ]] || { echo "$cache belongs to somebody else: set TMPDIR to a folder on the node's own disk" >&2; exit 2; }
export TRITON_CACHE_DIR=$cache/triton TORCHINDUCTOR_CACHE_DIR=$cache/inductor

# No exec: where train.py dies of a signal, this shell leaves with a code, for srun tells the largest code of all ranks,
# but any signal before that. SLURM signals both; SIGTERM is for train.py to heed.
trap : TERM
code=0
python train.py "$@" || code=$?
exit "$code"
