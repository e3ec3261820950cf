#!/usr/bin/env bash
# Brings up a whole Voipfleet on this machine: a controller, nodes in network namespaces with
# real agents, a policy, a push, and a proof by real packets. Touches nothing outside its own
# namespaces but one link, vf-host, by which voipctl reaches the controller.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STATE=$ROOT/target/quickstart
# Namespaces belong to the machine, so there is one lab at a time. This file names its state folder.
OWNER=/run/voipfleet-lab
# How often agents look at the kernel without being told.
POLL_INTERVAL=${VOIPFLEET_POLL_INTERVAL:-15s}

usage() {
    cat <<EOF
usage: deploy/quickstart.sh [VERB]

  up [--nodes N] [--backend nft|legacy|mixed] [--roles each|all] [--bare]
                 build the programs and bring the lab up (the default). N is 1 to 50, 3 if not
                 given. --roles all gives every node every role; a single node always has them
                 all. --bare enrols the nodes and stops before the first push
  env            print export lines for voipctl: eval "\$(deploy/quickstart.sh env)"
  on NODE CMD... run a command on a node: deploy/quickstart.sh on sip1 iptables -S VF-INPUT
  start NAME     start a process of the lab again: controller, or a node's agent
  stop NAME      stop a process of the lab
  prove          send real packets again, and compare what arrives with the policy
  down           remove the lab

environment:
  VOIPFLEET_PROFILE        debug (default) or release: how the programs are built
  VOIPFLEET_BIN            a folder with programs that are built already
  VOIPFLEET_POLL_INTERVAL  how often agents read the kernel unasked, 15s if not given
EOF
}

say() {
    if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
        printf '\033[1m==>\033[0m %s\n' "$*" >&2
    else
        printf '==> %s\n' "$*" >&2
    fi
}
fail() {
    echo "quickstart: $*" >&2
    exit 1
}

# shellcheck source=lab/tools.sh
. "$ROOT/deploy/lab/tools.sh"
# shellcheck source=lab/network.sh
. "$ROOT/deploy/lab/network.sh"
# shellcheck source=lab/processes.sh
. "$ROOT/deploy/lab/processes.sh"
# shellcheck source=lab/proof.sh
. "$ROOT/deploy/lab/proof.sh"

# One line a node: NAME INDEX ROLES BACKEND, separated by tabs.
plan_nodes() {
    local nodes=$1 backend=$2 roles=$3 index role own
    set -- sip pbx http
    for ((index = 1; index <= nodes; index++)); do
        case $backend in
            mixed) if ((index % 2)); then own=legacy; else own=nft; fi ;;
            *) own=$backend ;;
        esac
        if [ "$roles" = all ]; then
            printf 'all%d\t%d\tsip,pbx,http,ic,wk,que,sql,dd,es,jabber\t%s\n' "$index" "$index" "$own"
        else
            role=${!#}
            case $((index % 3)) in 1) role=$1 ;; 2) role=$2 ;; esac
            printf '%s%d\t%d\t%s\t%s\n' "$role" $(((index + 2) / 3)) "$index" "$role" "$own"
        fi
    done
}

node_field() {
    local column
    case $2 in index) column=2 ;; roles) column=3 ;; backend) column=4 ;; esac
    awk -F'\t' -v name="$1" -v column="$column" '$1 == name { print $column; found = 1 }
        END { exit !found }' "$STATE/nodes" || fail "no node is called $1; the nodes are: $(cut -f1 "$STATE/nodes" | tr '\n' ' ')"
}

need_root() { [ "$(id -u)" = 0 ] || fail "root is needed for network namespaces and iptables: sudo deploy/quickstart.sh $*"; }
need_lab() {
    [ -f "$STATE/bin" ] || fail "the lab is not up: run deploy/quickstart.sh first"
    BIN=$(cat "$STATE/bin")
}
voipctl() { VOIPCTL_CONFIG=$STATE/controller/admin.yaml "$BIN/voipctl" "$@"; }

enrol() {
    local name=$1 token
    local -a own
    IFS=, read -r -a own <<<"$(node_field "$name" roles)"
    if ! {
        token=$(voipctl token create --site site-a --node "$name" "${own[@]/#/--role=}") &&
            VOIPFLEET_TOKEN=$token on_node "$name" "$BIN/voipfleet-agent" enroll --node "$name" \
                --controller "$CONTROLLER_IP:7444" --state "$STATE/agents/$name"
    } >>"$STATE/log/$name.log" 2>&1; then
        cat "$STATE/log/$name.log" >&2
        fail "node $name did not enrol; its log is above"
    fi
}

connected() {
    local count
    count=$(voipctl status site-a -o json 2>/dev/null | tr -d ' \n' | grep -o '"state":"[a-z_]*"' | grep -cv offline) || true
    [ "$count" = "$(wc -l <"$STATE/nodes")" ]
}

up() {
    local nodes=3 backend=nft roles=each bare="" name pids pid
    while [ $# -gt 0 ]; do
        case $1 in
            --nodes) nodes=${2:-}; shift ;;
            --backend) backend=${2:-}; shift ;;
            --roles) roles=${2:-}; shift ;;
            --bare) bare=yes ;;
            *) usage >&2; exit 2 ;;
        esac
        shift || { usage >&2; exit 2; }
    done
    if ! [[ $nodes =~ ^[1-9][0-9]?$ ]] || ((nodes > 50)); then
        usage >&2
        exit 2
    fi
    case $backend in nft | legacy | mixed) ;; *) usage >&2; exit 2 ;; esac
    case $roles in each | all) ;; *) usage >&2; exit 2 ;; esac
    if [ "$nodes" = 1 ]; then roles=all; fi
    install_missing
    build

    down
    mkdir -p "$STATE/log" "$STATE/agents"
    chmod 700 "$STATE"
    echo "$STATE" >"$OWNER"
    echo "$BIN" >"$STATE/bin"
    plan_nodes "$nodes" "$backend" "$roles" >"$STATE/nodes"
    echo "$SOURCES" >"$STATE/sources"
    # shellcheck disable=SC2046 # a list of backends
    link_tools $(cut -f4 "$STATE/nodes" | sort -u)

    say "network: a router, a controller, $nodes node(s), hosts outside: $OUTSIDE"
    network_up
    isolate_nodes
    while IFS=$'\t' read -r name _; do start_servers "$name"; done <"$STATE/nodes"

    say "controller on $CONTROLLER_IP"
    "$BIN/voipfleet-controller" init --data "$STATE/controller" --address "$CONTROLLER_IP:7443" \
        --enrol-address "$CONTROLLER_IP:7444" >>"$STATE/log/controller.log" 2>&1 ||
        { cat "$STATE/log/controller.log" >&2; fail "voipfleet-controller init failed; its log is above"; }
    start_controller

    say "applying the documents in deploy/policies"
    voipctl apply -f "$ROOT/deploy/policies"

    say "enrolling and starting the agents"
    pids=""
    while IFS=$'\t' read -r name _; do
        enrol "$name" &
        pids="$pids $!"
    done <"$STATE/nodes"
    for pid in $pids; do wait "$pid" || fail "some nodes did not enrol"; done
    while IFS=$'\t' read -r name _; do start_agent "$name"; done <"$STATE/nodes"
    while IFS=$'\t' read -r name _; do
        await_process "packets-$name" 15 servers_ready "$name"
    done <"$STATE/nodes"
    await 30 connected || fail "some agents did not reach the controller within 30 s; their logs are in $STATE/log"
    if [ -n "$bare" ]; then return 0; fi

    say "voipctl push site-a"
    voipctl push site-a --yes
    say "voipctl status site-a"
    voipctl status site-a
    say "checking with real packets, IPv4 and IPv6 (capitals: not as the policy says)"
    prove || fail "some packets did not go as the policy says"

    say "the lab is up. Try:"
    cat >&2 <<EOF
    eval "\$(deploy/quickstart.sh env)" && voipctl status site-a
    deploy/quickstart.sh on $(head -n1 "$STATE/nodes" | cut -f1) iptables -F VF-INPUT; voipctl drift site-a
    deploy/quickstart.sh down
EOF
}

down() {
    local owner="" left=orphans
    if [ -f "$OWNER" ]; then owner=$(cat "$OWNER"); fi
    if [ -n "$owner" ] && [ "$owner" != "$STATE" ] && [ -d "$owner" ]; then
        fail "the lab of another checkout is up: run ${owner%/target/quickstart}/deploy/quickstart.sh down first"
    fi
    if [ -d "$STATE/pid" ]; then left=recorded; fi
    stop_all
    network_down "$left"
    rm -rf "$STATE" "$OWNER"
}

start() {
    need_lab
    if runs "$1"; then fail "$1 is already running"; fi
    case $1 in
        controller) start_controller ;;
        *) node_field "$1" index >/dev/null && start_agent "$1" ;;
    esac
}

stop() {
    need_lab
    runs "$1" || fail "$1 is not running"
    signal TERM "$1"
    await 10 none_runs "$1" || fail "$1 did not stop within 10 s; its log is $STATE/log/$1.log"
}

env_lines() {
    need_lab
    printf 'export VOIPCTL_CONFIG=%q\n' "$STATE/controller/admin.yaml"
    # shellcheck disable=SC2016 # the reader's shell expands it
    printf 'export PATH=%q:$PATH\n' "$BIN"
}

main() {
    local verb=${1:-up}
    case $verb in
        -h | --help | help) usage; exit 0 ;;
        --*) verb=up ;;
        *) if [ $# -gt 0 ]; then shift; fi ;;
    esac
    # One change at a time; the processes of the lab do not inherit the lock.
    case $verb in
        up | down | start | stop)
            need_root "$verb"
            mkdir -p "$ROOT/target"
            exec 9>"$OWNER.lock"
            flock 9
            ;;
    esac
    case $verb in
        up) up "$@" ;;
        env) env_lines ;;
        on)
            need_root on
            need_lab
            [ $# -ge 2 ] || { usage >&2; exit 2; }
            on_node "$@"
            ;;
        start | stop)
            [ $# -eq 1 ] || { usage >&2; exit 2; }
            "$verb" "$1"
            ;;
        prove)
            need_root prove
            need_lab
            prove
            ;;
        down) down ;;
        *) usage >&2; exit 2 ;;
    esac
}

main "$@"
