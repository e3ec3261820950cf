#!/usr/bin/env bash
# Installs the agent or the controller on a machine with systemd: programs to /usr/bin, units to
# /usr/lib/systemd/system. docs/install.md has the steps before and after, and what to do without
# systemd.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
    cat <<'END'
usage: deploy/install.sh agent|controller [--bin DIR] [--root DIR]

  --bin DIR    where the programs were built (default: target/release)
  --root DIR   install into the system image in DIR
END
}

what=${1:-}
case $what in
    agent | controller) shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
bin=${CARGO_TARGET_DIR:-$HERE/../target}/release root=""
while [ $# -gt 0 ]; do
    case $1 in
        --bin) bin=${2:-}; shift ;;
        --root) root=${2:-}; shift ;;
        *) usage >&2; exit 2 ;;
    esac
    shift || { usage >&2; exit 2; }
done

units=$root/usr/lib/systemd/system
case $what in
    agent)
        install -D -m 755 "$bin/voipfleet-agent" "$root/usr/bin/voipfleet-agent"
        install -D -m 644 -t "$units" "$HERE"/systemd/voipfleet-{restore,agent}.service
        enable="voipfleet-restore.service voipfleet-agent.service"
        ;;
    controller)
        install -D -m 755 -t "$root/usr/bin" "$bin/voipfleet-controller" "$bin/voipctl"
        install -D -m 644 -t "$units" "$HERE/systemd/voipfleet-controller.service"
        install -D -m 644 "$HERE/systemd/voipfleet.sysusers" "$root/usr/lib/sysusers.d/voipfleet.conf"
        enable=voipfleet-controller.service
        [ -n "$root" ] || systemd-sysusers voipfleet.conf
        ;;
esac
# shellcheck disable=SC2086 # a list of units
if [ -n "$root" ]; then
    systemctl --root="$root" enable $enable
else
    systemctl daemon-reload
    systemctl enable $enable
fi
