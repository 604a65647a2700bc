#!/usr/bin/env bash
# One node of the Ray cluster of a curation; `curate` in env.sh has srun start it on each. The first node also curates.

set -uo pipefail

# Ray gives up after 20 tries otherwise: a head that starts from a busy file system, or on a busy node, wants longer.
export RAY_gcs_server_port_wait_time_s=${RAY_gcs_server_port_wait_time_s:-600}

: "${MASTER_ADDR:?}" "${MASTER_PORT:?}" "${SLURM_PROCID:?}"

ray_node() {
    exec ray start "$@" --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --disable-usage-stats \
        --include-log-monitor=false --block >"$log" 2>&1
}
head_answers() { (exec 3<>"/dev/tcp/$MASTER_ADDR/$MASTER_PORT") 2>/dev/null; }

log=$(mktemp)
code=0
if [[ $SLURM_PROCID -eq 0 ]]; then
    ray_node --head --node-ip-address="$MASTER_ADDR" --port="$MASTER_PORT" --include-dashboard=false &
    node=$!
    until head_answers; do
        kill -0 "$node" 2>/dev/null || { cat "$log" >&2; exit 1; }
        sleep 1
    done
    lavie curate run "$@" --engine ray --address "$MASTER_ADDR:$MASTER_PORT" || code=$?
else
    # The others come when the first is there, and leave when it has left.
    until head_answers; do sleep 1; done
    ray_node --address="$MASTER_ADDR:$MASTER_PORT" &
    node=$!
    while head_answers && kill -0 "$node" 2>/dev/null; do sleep 2; done
    if head_answers; then
        echo "the Ray node has ended, the others go on:" >&2
        tail -n 20 "$log" >&2
    fi
fi
kill "$node" 2>/dev/null
wait "$node" 2>/dev/null
rm -f "$log"
exit "$code"
