#!/usr/bin/env bash
# One rank, as srun starts it: SLURM's numbers under the names that torch.distributed reads, then train.py.
set -euo pipefail

trap '' USR2 # train.py inherits it: a request to stop that comes before it listens is lost and ends nothing; env.sh repeats it
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS

# Compiled kernels on the node's own disk: on a shared home, the nodes would write the same files. Only we may write here.
cache=${TMPDIR:-/tmp}/lavie-$UID
(umask 077 && mkdir -p "$cache")
[[ -O $cache ]] || { echo "$cache belongs to somebody else: set TMPDIR to a folder on the node's own disk" >&2; exit 2; }
export TRITON_CACHE_DIR=$cache/triton TORCHINDUCTOR_CACHE_DIR=$cache/inductor

# Not exec: srun reports the largest exit code of all ranks, but any signal before it, so where a signal kills train.py
# this shell must leave with a code. SLURM with cgroups signals only this shell, so it passes the signals on.
#
# A signal that arrives as train.py ends makes bash lose the code of what it waits for. So a subshell waits that no signal
# wakes, and leaves the code in a file. It ignores SIGTERM only when train.py runs, which would inherit that.
state=$(mktemp -d "$cache/rank-XXXXXX")
trap 'rm -rf "$state"' EXIT
(
    trap : TERM
    python train.py "$@" &
    echo "$!" >"$state/pid"
    trap '' TERM
    code=0
    wait "$!" || code=$?
    echo "$code" >"$state/code"
) &
waiter=$!
until [[ -s $state/pid ]]; do sleep 0.01; done
rank=$(<"$state/pid")
trap 'woken=1; kill -USR2 "$rank" 2>/dev/null || true' USR2
trap 'woken=1; kill -TERM "$rank" 2>/dev/null || true' TERM
while true; do
    woken='' code=0
    wait "$waiter" || code=$?
    [[ -n $woken ]] || break # a trap that ran has ended the wait, not the rank
done
trap '' USR2 TERM # there is nobody to pass them on to
[[ ! -s $state/code ]] || code=$(<"$state/code")
exit "$code"
