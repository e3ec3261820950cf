# What the lab needs on the machine: sourced by quickstart.sh.

# COMMAND DEBIAN-PACKAGE RPM-PACKAGE
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
        # A list of packages that is there already may be enough.
        apt-get install -y -qq $debs >/dev/null 2>&1 ||
            { apt-get update -qq && apt-get install -y -qq $debs >/dev/null; }
    elif command -v dnf >/dev/null; then
        say "installing$rpms"
        dnf install -y -q $rpms
    else
        fail "missing:$debs; neither apt-get nor dnf is here: install them by hand"
    fi
}

# Sets BIN to a folder with the programs, building them if nobody says where they are.
build() {
    local profile=${VOIPFLEET_PROFILE:-release} as_user="" cargo
    if [ -n "${VOIPFLEET_BIN:-}" ]; then
        BIN=$(cd "$VOIPFLEET_BIN" && pwd)
    else
        # Under sudo, the user who owns the checkout builds it, with his own toolchain.
        if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
            as_user="sudo -u $SUDO_USER -H"
        fi
        cargo=$($as_user sh -c 'PATH=$HOME/.cargo/bin:$PATH command -v cargo' || true)
        if [ -z "$cargo" ]; then
            fail "cargo is missing: install Rust from https://rustup.rs as the user who builds, then run this again"
        fi
        say "building (${profile}; the first time takes some minutes)"
        case $profile in
            release) set -- --release ;;
            debug) set -- ;;
            *) fail "VOIPFLEET_PROFILE is release or debug, not $profile" ;;
        esac
        (cd "$ROOT" && PATH="$(dirname "$cargo"):$PATH" $as_user "$cargo" build --quiet "$@" \
            -p voipfleet-controller -p voipfleet-agent -p voipctl -p voipfleet-tests --bins)
        BIN=$ROOT/target/$profile
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
            fail "this system has no $backend backend of iptables (xtables-$backend-multi)"
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
