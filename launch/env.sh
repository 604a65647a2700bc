# shellcheck shell=bash
# Sourced by the batch scripts: what every job sets, how it starts its ranks, stops, and comes back. See README.md.

set -euo pipefail

# Your cluster: `module load`, containers and the like go here. The environment you submit from is passed on.
if [[ -z ${VIRTUAL_ENV:-} && ${CONDA_DEFAULT_ENV:-base} == base && -f .venv/bin/activate ]]; then
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi

LAVIE_DEEPSPEED=${LAVIE_DEEPSPEED:-configs/zero3.json}
LAVIE_MAX_REQUEUES=${LAVIE_MAX_REQUEUES:-100} # a run of weeks on many nodes comes back often
LAVIE_CRASH_SECONDS=${LAVIE_CRASH_SECONDS:-600} # a first start that crashes sooner would do so again: not requeued

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
    local first=$((20000 + SLURM_JOB_ID % 10000)) port
    for ((port = first; port < first + 100; port++)); do
        if ! (exec 3<>"/dev/tcp/$MASTER_ADDR/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    die "somebody listens on every port from $first to $port of $MASTER_ADDR: set MASTER_PORT in launch/env.sh"
}

# SIGUSR2 to this shell (#SBATCH --signal) goes on to the ranks until they have left: one that is just starting misses it.
stopping='' woken='' over='' ranks='' messenger='' code=0
ask_to_stop() {
    stopping=1 woken=1
    if [[ -n $ranks && -z $messenger ]]; then
        say "asked to stop: the ranks will save and leave"
        while kill -USR2 "$ranks" 2>/dev/null; do sleep 5; done &
        messenger=$!
    fi
}

# SIGTERM: SLURM ends the job, now. If its time is up, it comes back; if somebody cancelled it, that is final; after a
# preemption or the failure of a node, SLURM itself requeues it.
end() {
    woken=1 over=1
    if [[ $(scontrol show job "$SLURM_JOB_ID") == *Reason=TimeLimit* ]]; then
        requeue "out of time before the ranks had left"
    fi
}
trap ask_to_stop USR2
trap end TERM

requeue() {
    local count=${SLURM_RESTART_COUNT:-0}
    if [[ $count -ge $LAVIE_MAX_REQUEUES ]]; then
        say "$1: not requeued, for it was $count times before (LAVIE_MAX_REQUEUES); submit it again to go on"
    else
        say "$1: requeued ($((count + 1)) of at most $LAVIE_MAX_REQUEUES times)"
        scontrol requeue "$SLURM_JOB_ID" || say "SLURM does not allow that (--no-requeue?): submit it again to go on"
    fi
}

# Sets and says where the tasks of the job meet: an address of its first node, and a free port there.
meet() {
    local first address
    read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    address=$(scontrol show node "$first" | grep -o 'NodeAddr=[^ ]*' || true) # where its name means nothing to others
    export MASTER_ADDR=${address#NodeAddr=} MASTER_PORT
    MASTER_ADDR=${MASTER_ADDR:-$first}
    MASTER_PORT=$(free_port)
    say "start $((${SLURM_RESTART_COUNT:-0} + 1)) on $SLURM_JOB_NODELIST, meeting at $MASTER_ADDR:$MASTER_PORT"
}

# Waits until the srun of `ranks` has left, however often a trap ends the wait, and sets its exit code as `code`.
attend() {
    while true; do
        woken='' code=0
        wait "$ranks" || code=$?
        [[ -n $woken ]] || break
    done
}

# curate SRC OUT [options]: `lavie curate run` on a Ray cluster of the job's nodes, which nobody else can join.
curate() {
    [[ $# -ge 2 && $1 != -* && $2 != -* ]] || die "wanted SRC OUT [options of lavie curate run]"
    [[ " $* " != *" --engine"* && " $* " != *" --address"* ]] || die "--engine and --address are the job's to set"
    meet
    RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
    srun --export=ALL --kill-on-bad-exit=0 --wait=0 --label bash launch/curate_node.sh "$@" &
    ranks=$!
    attend
    if [[ -z $over ]]; then say "$([[ $code -eq 0 ]] && echo finished || echo "failed (exit code $code)")"; fi
    exit "$code"
}

# train CONFIG [OTHER_CONFIG] [key=value ...]: one rank a task, from the newest checkpoint of the run if there is one.
train() {
    local config=$1 change
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

    meet

    # --export: after `sbatch --export=...`, which some sites make the default, srun would keep MASTER_ADDR from the ranks.
    srun --export=ALL --kill-on-bad-exit=1 --wait=60 --label bash launch/rank.sh \
        --deepspeed "$LAVIE_DEEPSPEED" "$config" "$@" resume_from_checkpoint=auto &
    ranks=$!
    if [[ -n $stopping ]]; then ask_to_stop; fi
    attend
    finish "$code"
}

# What becomes of the job when its ranks have left with this code, the largest of all: 85 and 200 are those of
# lavie/training/stop.py, 191 to 196 those of lavie/cluster/hang.py, 143 is that of ranks which are ended because another
# one has failed.
finish() {
    if [[ -n $over ]]; then
        say "ended by SLURM (exit code $1)"
    elif [[ $1 -eq 0 ]]; then
        say "finished"
    elif [[ $1 -eq 85 ]]; then
        requeue "stopped as asked"
    elif [[ $1 -eq 200 ]]; then
        say "failed: not requeued, for the error above would come again"
    elif [[ $1 -ge 191 && $1 -le 196 ]]; then
        requeue "hung (exit code $1)"
    elif [[ $(scontrol show job "$SLURM_JOB_ID") =~ PreemptTime=[0-9] ]]; then
        requeue "preempted (exit code $1)" # its ranks got SIGTERM: SLURM requeues only what outlives the GraceTime
    elif [[ -n $stopping || ${SLURM_RESTART_COUNT:-0} -gt 0 || $SECONDS -ge $LAVIE_CRASH_SECONDS ]]; then
        requeue "crashed (exit code $1)"
    else
        say "crashed (exit code $1): not requeued, for it did so within $LAVIE_CRASH_SECONDS s (LAVIE_CRASH_SECONDS)"
    fi
    exit "$1"
}
