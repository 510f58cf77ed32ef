#!/bin/sh
# A Ray head on this machine with a token of its own, and a dashboard on loopback: up, down, or submit a job to it.
#   infra/ray/local_head.sh up
#   infra/ray/local_head.sh submit python pipelines/instruct_tune.py --config pipelines/recipes/smoke.yaml
#   infra/ray/local_head.sh stop JOB      # by the id that submit prints; the job closes what it has open
#   infra/ray/local_head.sh down
# Variables: RAY_HEAD_FOLDER, its folder (short: Unix sockets lie below it); RAY_HEAD_PORT, of the dashboard; RAY_HEAD_CPUS.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${RAY_HEAD_FOLDER:-/tmp/memvp-ray-$(id -u)}
port=${RAY_HEAD_PORT:-8265}
address=http://127.0.0.1:$port
# A job's `python` is the first one on the head's PATH.
PATH=$root/.venv/bin:$PATH
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN_PATH=$folder/token
# Ray's own 15 would leave its workers next to nothing of a core that any other program wants.
RAY_worker_niceness=${RAY_worker_niceness:-0}
# After 3 s, which is Ray's own, a stopped job would be killed while it closes its runs in MLflow.
RAY_JOB_STOP_WAIT_TIME_S=${RAY_JOB_STOP_WAIT_TIME_S:-30}
export PATH RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH RAY_worker_niceness RAY_JOB_STOP_WAIT_TIME_S
unset RAY_ADDRESS

runs() {
    # The process of the pid file, if it still is a head: numbers of dead processes are given to others. Whole lines
    # (-ww): $COLUMNS would cut them.
    [ -f "$folder/pid" ] && ps -ww -p "$(cat "$folder/pid")" -o args= 2>/dev/null | grep -q 'ray start --head'
}

clear() {
    [ -e "$folder" ] || return 0
    [ -f "$folder/token" ] || { echo "$folder is not a folder of this script; name another: RAY_HEAD_FOLDER" >&2; exit 1; }
    rm -rf "$folder"
}

free_port() {
    # Not Ray's usual ones: another head on the machine may have them.
    python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

answers() {
    # Not `ray job list`: its imports take the processor from what they wait for.
    python - "$address/api/jobs/" "$folder/token" 2>/dev/null <<'END'
import sys, urllib.request

token = open(sys.argv[2]).read()
urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers={"Authorization": f"Bearer {token}"}), timeout=10)
END
}

up() {
    if runs; then echo "already up: $address"; return; fi
    clear
    # Ray lets everybody write to its own folder, so that one lies inside.
    (umask 077 && mkdir "$folder" && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$folder/token")
    gcs=$(free_port) client=$(free_port) agent=$(free_port)
    nohup ray start --head --block --port="$gcs" --ray-client-server-port="$client" --dashboard-agent-listen-port="$agent" \
        --dashboard-host=127.0.0.1 --dashboard-port="$port" \
        --num-cpus="${RAY_HEAD_CPUS:-2}" --object-store-memory=200000000 --temp-dir="$folder/ray" --disable-usage-stats \
        >"$folder/head.log" 2>&1 &
    echo $! >"$folder/pid"
    for second in $(seq 300); do
        if answers; then echo "up: $address (log: $folder/head.log)"; return; fi
        [ $((second % 10)) -ne 0 ] || echo "waiting for the head to take jobs (log: $folder/head.log)" >&2
        sleep 1
        runs || break
    done
    echo "the head did not start; the end of $folder/head.log:" >&2
    tail -n 5 "$folder/head.log" >&2
    down
    exit 1
}

down() {
    if runs; then
        pid=$(cat "$folder/pid")
        kill -TERM "$pid" # --block: the head takes its own processes with it, and nobody else's
        tenths=0
        while kill -0 "$pid" 2>/dev/null; do
            sleep 0.2
            tenths=$((tenths + 2))
            [ $((tenths % 100)) -ne 0 ] || echo "waiting for the head and its jobs to end (process $pid)" >&2
        done
    fi
    clear
    echo "down"
}

need_head() { runs || { echo "no head is up; start one with: make ray-up" >&2; exit 1; }; }

submit() {
    need_head
    cd "$root"
    ray job submit --address "$address" --working-dir . -- "$@"
}

stop() {
    need_head
    ray job stop --address "$address" "$@"
}

case "${1:-}" in
up | down) "$1" ;;
submit | stop) "$@" ;;
*) echo "usage: $0 up | down | submit COMMAND... | stop JOB" >&2 && exit 2 ;;
esac
