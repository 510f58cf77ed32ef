#!/bin/sh
# A Ray head on this machine with a token of its own, and a dashboard on loopback: up, down, or submit a job to it.
#   infra/ray/local_head.sh up
#   infra/ray/local_head.sh submit python pipelines/instruct_tune.py --config pipelines/recipes/smoke.yaml
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
export PATH RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH RAY_worker_niceness
unset RAY_ADDRESS

runs() {
    # The process of the pid file, if it still is a head: numbers of dead processes are given to others.
    [ -f "$folder/pid" ] && ps -p "$(cat "$folder/pid")" -o args= 2>/dev/null | grep -q 'ray start --head'
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

up() {
    if runs; then echo "already up: $address"; return; fi
    clear
    # Ray lets everybody write to its own folder, so that one lies inside.
    (umask 077 && mkdir "$folder" && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$folder/token")
    nohup ray start --head --block --port="$(free_port)" \
        --ray-client-server-port="$(free_port)" --dashboard-agent-listen-port="$(free_port)" \
        --dashboard-host=127.0.0.1 --dashboard-port="$port" \
        --num-cpus="${RAY_HEAD_CPUS:-2}" --object-store-memory=200000000 --temp-dir="$folder/ray" --disable-usage-stats \
        >"$folder/head.log" 2>&1 &
    echo $! >"$folder/pid"
    for _ in $(seq 120); do
        if ray job list --address "$address" >/dev/null 2>&1; then echo "up: $address (log: $folder/head.log)"; return; fi
        runs || break
        sleep 1
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
        while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
    fi
    clear
    echo "down"
}

submit() {
    runs || { echo "no head is up; start one with: make ray-up" >&2; exit 1; }
    cd "$root"
    ray job submit --address "$address" --working-dir . -- "$@"
}

case "${1:-}" in
up | down) "$1" ;;
submit) shift && submit "$@" ;;
*) echo "usage: $0 up | down | submit COMMAND..." >&2 && exit 2 ;;
esac
