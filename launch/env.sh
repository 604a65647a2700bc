# shellcheck shell=bash
# Sourced by the batch scripts: what every job sets, how it starts its ranks, stops, and comes back. See README.md.

set -euo pipefail

# Your cluster: `module load`, containers and the like go here. The environment you submit from is passed on.
if [[ -z ${VIRTUAL_ENV:-} && -f .venv/bin/activate ]]; then
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi

LAVIE_DEEPSPEED=${LAVIE_DEEPSPEED:-configs/zero3.json}
LAVIE_MAX_REQUEUES=${LAVIE_MAX_REQUEUES:-100} # a run of weeks on many nodes comes back often
LAVIE_CRASH_SECONDS=${LAVIE_CRASH_SECONDS:-600} # ranks killed sooner than this would be again: not requeued

export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 # compute nodes often reach no hub, and would wait for it
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # since SLURM 22.05 srun does not take it over from sbatch
fi

export NCCL_DEBUG=${NCCL_DEBUG:-WARN} # names the peer and the cause when a connection fails; INFO: what was chosen
# export NCCL_SOCKET_IFNAME=ib0       # where NCCL meets over an interface that does not lead to the other nodes
# export NCCL_IB_HCA=mlx5             # where some of the InfiniBand adapters are for storage
# export NCCL_IB_TIMEOUT=22           # for large fabrics whose routes take seconds to heal

say() { printf '%s %s: %s\n' "$(date -u '+%F %T')" "${SLURM_JOB_ID:-launch}" "$*"; }

die() {
    say "$*" >&2
    exit 2
}

# A port of the first node, from the job's number, so that jobs on one node differ; the next one where somebody listens.
free_port() {
    [[ $SLURM_JOB_ID =~ ^[0-9]+$ ]] || die "SLURM_JOB_ID is no number"
    local port
    for port in $(seq $((20000 + SLURM_JOB_ID % 10000)) $((20099 + SLURM_JOB_ID % 10000))); do
        (exec 3<>"/dev/tcp/$MASTER_ADDR/$port") 2>/dev/null || break
    done
    printf '%s\n' "$port"
}

# SIGUSR2 to this shell (#SBATCH --signal) goes on to the ranks until they have left: one that is just starting misses it.
stopping='' woken='' over='' ranks='' messenger=''
ask_to_stop() {
    stopping=1 woken=1
    if [[ -n $ranks && -z $messenger ]]; then
        say "asked to stop: the ranks will save and leave"
        while kill -USR2 "$ranks" 2>/dev/null; do sleep 5; done &
        messenger=$!
    fi
}

# SIGTERM means that SLURM ends the job, now: out of time or preempted, or because somebody cancelled it, which is final.
end() {
    woken=1 over=1
    case $(scontrol show job "$SLURM_JOB_ID" 2>&1) in
        *JobState=TIMEOUT*) requeue "out of time before the ranks had left" ;;
        *JobState=PREEMPTED*) requeue "preempted before the ranks had left" ;;
    esac
}
trap ask_to_stop USR2
trap end TERM

requeue() {
    local count=${SLURM_RESTART_COUNT:-0}
    if [[ $count -ge $LAVIE_MAX_REQUEUES ]]; then
        say "$1: not requeued, for it was $count times before (LAVIE_MAX_REQUEUES); submit it again to go on"
    else
        say "$1: requeued ($((count + 1)) of at most $LAVIE_MAX_REQUEUES times)"
        scontrol requeue "$SLURM_JOB_ID"
    fi
}

# train CONFIG [OTHER_CONFIG] [key=value ...]: one rank a task, from the newest checkpoint of the run if there is one.
train() {
    local config=$1 change code=0
    shift
    if [[ $# -gt 0 && $1 != *=* && $1 != -* ]]; then
        config=$1
        shift
    fi
    for change in "$@"; do
        [[ $change =~ ^[A-Za-z_][A-Za-z0-9_.]*= ]] || die "got $(printf %q "$change"), wanted key=value"
        [[ $change != resume_from_checkpoint=* ]] ||
            die "resume_from_checkpoint is the job's to set: it goes on from the newest checkpoint in output_dir"
    done

    local first address
    read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    address=$(scontrol show node "$first" | grep -o 'NodeAddr=[^ ]*') # a node's name is not always one of the network
    export MASTER_ADDR=${address#NodeAddr=} MASTER_PORT
    MASTER_PORT=$(free_port)
    say "start $((${SLURM_RESTART_COUNT:-0} + 1)) on $SLURM_JOB_NODELIST, meeting at $MASTER_ADDR:$MASTER_PORT"

    srun --kill-on-bad-exit=1 --wait=60 --label bash launch/rank.sh \
        --deepspeed "$LAVIE_DEEPSPEED" "$config" "$@" resume_from_checkpoint=auto &
    ranks=$!
    if [[ -n $stopping ]]; then ask_to_stop; fi
    while true; do
        woken='' code=0
        wait "$ranks" || code=$?
        [[ -n $woken ]] || break # a trap ended the wait, not the ranks
    done
    finish "$code"
}

# What becomes of the job when its ranks have left with this exit code.
finish() {
    if [[ -n $over ]]; then
        say "ended by SLURM (exit code $1)"
    elif [[ $1 -eq 0 ]]; then
        say "finished"
    elif [[ $1 -eq 85 ]]; then
        requeue "stopped as asked"
    elif [[ $1 -ge 128 && (-n $stopping || $SECONDS -ge $LAVIE_CRASH_SECONDS) ]]; then
        requeue "a rank was killed (exit code $1)"
    else
        say "failed (exit code $1): not requeued"
    fi
    exit "$1"
}
