# What the lab needs on the machine: sourced by quickstart.sh.

# COMMAND, DEBIAN PACKAGE, RPM PACKAGE
NEEDED="iptables iptables iptables
ipset ipset ipset
ip iproute2 iproute
conntrack conntrack conntrack-tools
nsenter util-linux util-linux
setsid util-linux util-linux
cc gcc gcc"

install_missing() {
    local command deb rpm debs="" rpms=""
    while read -r command deb rpm; do
        if ! command -v "$command" >/dev/null; then
            debs="$debs $deb"
            rpms="$rpms $rpm"
        fi
    done <<<"$NEEDED"
    if [ -z "$debs" ]; then return 0; fi
    # shellcheck disable=SC2086 # lists of packages
    if command -v apt-get >/dev/null; then
        say "installing$debs"
        export DEBIAN_FRONTEND=noninteractive
        # The package lists on the machine may be recent enough.
        apt-get install -y -qq $debs >/dev/null 2>&1 ||
            { apt-get update -qq && apt-get install -y -qq $debs >/dev/null; }
    elif command -v dnf >/dev/null; then
        say "installing$rpms"
        dnf install -y -q $rpms
    else
        fail "missing:$debs. Install them by hand: neither apt-get nor dnf was found"
    fi
}

# Where cargo builds.
target_folder() { echo "${CARGO_TARGET_DIR:-$ROOT/target}"; }

# Runs cargo and shows its progress: its own bar on a terminal, otherwise a line every 15 seconds.
with_progress() {
    if [ -t 2 ]; then
        "$@"
    else
        CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100 CARGO_TERM_COLOR=never "$@" 2>&1 |
            progress_lines
    fi
}
progress_lines() {
    local line parts next=$((SECONDS + 15))
    # cargo redraws its bar after a carriage return.
    sed -u 's/\r/\n/g' | while IFS= read -r line; do
        case $line in
            *'Building ['*)
                if ((SECONDS < next)); then continue; fi
                next=$((SECONDS + 15))
                parts=${line##*\] }
                say "building: ${parts%%:*} parts done after ${SECONDS} s"
                ;;
            '' | *Compiling\ * | *Download* | *Locking\ * | *Updating\ *) ;;
            *) printf '%s\n' "$line" >&2 ;;
        esac
    done
}

# Sets BIN to the folder with the programs. Builds them, unless VOIPFLEET_BIN names it.
build() {
    local profile=${VOIPFLEET_PROFILE:-debug} as_user="" cargo
    if [ -n "${VOIPFLEET_BIN:-}" ]; then
        BIN=$(cd "$VOIPFLEET_BIN" && pwd)
    else
        # Under sudo, the user who owns the checkout builds it, with that user's toolchain.
        if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
            as_user="sudo -u $SUDO_USER -H --preserve-env=CARGO_TARGET_DIR,CARGO_TERM_PROGRESS_WHEN,CARGO_TERM_PROGRESS_WIDTH,CARGO_TERM_COLOR"
        fi
        cargo=$($as_user sh -c 'PATH=$HOME/.cargo/bin:$PATH command -v cargo' || true)
        if [ -z "$cargo" ]; then
            fail "cargo not found: install Rust from https://rustup.rs as the user who builds, then run this again"
        fi
        case $profile in
            release) set -- --release ;;
            debug) set -- ;;
            *) fail "VOIPFLEET_PROFILE is $profile; it must be debug or release" ;;
        esac
        say "building the programs ($profile; the first time takes some minutes)"
        # shellcheck disable=SC2086 # the words of a command
        (cd "$ROOT" && PATH="$(dirname "$cargo"):$PATH" with_progress $as_user "$cargo" build --locked "$@" \
            -p voipfleet-controller -p voipfleet-agent -p voipctl -p voipfleet-packets --bins)
        BIN=$(target_folder)/$profile
    fi
    local program
    for program in voipfleet-controller voipfleet-agent voipctl packets; do
        [ -x "$BIN/$program" ] || fail "$BIN/$program is missing"
    done
}

# A folder per backend in which iptables and its companions are that backend's.
link_tools() {
    local backend multi name
    for backend in "$@"; do
        multi=$(command -v "xtables-$backend-multi") ||
            fail "iptables has no $backend backend on this system (xtables-$backend-multi not found)"
        mkdir -p "$STATE/tools/$backend"
        for name in iptables ip6tables; do
            for name in $name $name-save $name-restore; do
                ln -sf "$multi" "$STATE/tools/$backend/$name"
            done
        done
    done
}

# Where a node's agent looks for iptables and the rest.
tool_path() { echo "$STATE/tools/$1:/usr/sbin:/sbin:/usr/bin:/bin"; }
