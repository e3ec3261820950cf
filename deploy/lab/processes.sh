# The lab's processes: sourced by quickstart.sh. A process is identified by its id and start
# time, never by its name; the id alone may have been reused.

# The 22nd field of /proc/PID/stat; the second one may hold spaces.
start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# Whether the recorded process NAME still runs. A zombie does not.
runs() {
    local pid start state
    [ -f "$STATE/pid/$1" ] || return 1
    read -r pid start <"$STATE/pid/$1"
    [ "$(start_time "$pid")" = "$start" ] || return 1
    state=$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -c1)
    [ -n "$state" ] && [ "$state" != Z ]
}

# Starts a command in the background as process NAME, with its output in log/NAME.log.
launch() {
    local name=$1 pid
    shift
    mkdir -p "$STATE/pid" "$STATE/log"
    # The descriptors of quickstart.sh (its lock among them) must not live on in the process.
    setsid "$@" >>"$STATE/log/$name.log" 2>&1 </dev/null 9>&- &
    pid=$!
    echo "$pid $(start_time "$pid")" >"$STATE/pid/$name"
}

# Waits until a command succeeds, at most SECONDS.
await() {
    local seconds=$1 tries
    shift
    for ((tries = seconds * 20; tries > 0; tries--)); do
        if "$@"; then return 0; fi
        sleep 0.05
    done
    return 1
}

# Waits until process NAME is ready; fails with its log if it ends first.
await_process() {
    local name=$1 seconds=$2
    shift 2
    await "$seconds" ended_or "$name" "$@" || true
    if ! runs "$name" || ! "$@"; then
        tail -n 20 "$STATE/log/$name.log" >&2 || true
        fail "$name ended, or was not ready within $seconds s; its log is $STATE/log/$name.log"
    fi
}
ended_or() {
    local name=$1
    shift
    ! runs "$name" || "$@"
}

signal() {
    local pid
    if runs "$2"; then
        read -r pid _ <"$STATE/pid/$2"
        kill "-$1" "$pid" 2>/dev/null || true
    fi
}

none_runs() {
    local name
    for name in "$@"; do if runs "$name"; then return 1; fi; done
}

# Ends every recorded process: SIGTERM, and SIGKILL after 5 s.
stop_all() {
    local names name
    [ -d "$STATE/pid" ] || return 0
    names=$(ls "$STATE/pid")
    # shellcheck disable=SC2086 # names of processes hold no spaces
    set -- $names
    for name in "$@"; do signal TERM "$name"; done
    if ! await 5 none_runs "$@"; then
        for name in "$@"; do signal KILL "$name"; done
        await 5 none_runs "$@" || fail "processes of the lab do not end; they are listed in $STATE/pid"
    fi
    rm -rf "$STATE/pid"
}

start_controller() {
    launch controller nsenter --net=/run/netns/vf-controller -- \
        "$BIN/voipfleet-controller" run --data "$STATE/controller" \
        --listen "$CONTROLLER_IP:7443" --enrol-listen "$CONTROLLER_IP:7444"
    await_process controller 15 ports_open
}
# Read from the kernel: a connection would leave a refused peer in the controller's log.
ports_open() {
    [ "$(in_net vf-controller ss -Hltn "( sport = :7443 or sport = :7444 )" | wc -l)" = 2 ]
}

# A node's agent looks for its tools in override/NODE first: an empty folder, in which the
# tests put programs that fail.
start_agent() {
    local name=$1
    mkdir -p "$STATE/override/$name"
    launch "$name" nsenter --net="/run/netns/vf-$name" --mount="$STATE/ns/$name.mnt" --uts="$STATE/ns/$name.uts" -- \
        "$BIN/voipfleet-agent" run --state "$STATE/agents/$name" \
        --tool-path "$STATE/override/$name:$(tool_path "$(node_field "$name" backend)")" --poll-interval "$POLL_INTERVAL"
}

# Echo servers on every port that the catalogue names, on the edges of its ranges, and on
# ports that nobody opens.
TCP_PORTS=22,25,53,80,111,443,2049,3306,3478,4369,4443,5050,5060,5061,5222,5269,5280,5349,5672,7443,8082,8089,8443,9100,9200,9300,11211,25672
UDP_PORTS=53,69,111,2049,3478,3999,4000,5049,5050,5051,5059,5060,5061,5062,5999,6000,9999,10000,15000,20000,20001
start_servers() {
    local name=$1
    launch "packets-$name" nsenter --net="/run/netns/vf-$name" --mount="$STATE/ns/$name.mnt" -- \
        "$BIN/packets" serve --tcp "$TCP_PORTS" --udp "$UDP_PORTS"
}
servers_ready() { grep -q '^ready$' "$STATE/log/packets-$1.log" 2>/dev/null; }
