#!/usr/bin/env bash
# Runs every test: unit tests, tests on the real kernel in scratch namespaces, the end-to-end suites
# on the lab, and systems that boot (making one takes a minute or two, once). Needs root; installs
# what is missing.
#
#   sudo tests/run.sh              everything
#   sudo tests/run.sh e2e_drift    only tests with this in their name
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

say() { echo "==> $*" >&2; }
fail() {
    echo "tests/run.sh: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "root is needed for network namespaces and iptables: sudo tests/run.sh"

# shellcheck source=../deploy/lab/tools.sh
. deploy/lab/tools.sh
install_missing
# For tests/tests/boots.rs, which is skipped without them.
(
    NEEDED="systemd-nspawn systemd-container systemd-container
debootstrap debootstrap debootstrap"
    install_missing
) || say "skipping the boot tests: systemd-nspawn and debootstrap cannot be installed"

# Under sudo, the user who owns the checkout builds, with that user's toolchain; root runs the tests.
as_user=()
if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
    home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    export CARGO_HOME=${CARGO_HOME:-$home/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
    as_user=(sudo -u "$SUDO_USER" -H "PATH=$CARGO_HOME/bin:$PATH")
    trap 'chown -R "$SUDO_USER" "$ROOT/target" 2>/dev/null || true' EXIT
fi
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
command -v cargo >/dev/null || fail "cargo not found: install Rust from https://rustup.rs, then run this again"

say "building"
# All targets at once, so that programs and tests are built with the same features.
with_progress "${as_user[@]}" cargo build --locked --workspace --all-targets

results=$(mktemp)
status=0
run() { cargo test --locked "$@" 2>&1 | tee -a "$results" || status=1; }

# The error of a failed test says what happened; a backtrace of the harness adds nothing.
export RUST_LIB_BACKTRACE=0
if command -v systemd-analyze >/dev/null; then
    say "exposure of the units (systemd-analyze security; 10 is worst)"
    for unit in deploy/systemd/*.service; do
        # Without the smiley, which not every terminal can show. systemd before 250 cannot judge a file.
        systemd-analyze security --offline=true --no-pager "$unit" 2>/dev/null |
            sed -n 's/.*exposure level for \([^ ]*\): \([0-9.]*\).*/    \1 \2/p' || true
    done
fi
say "testing"
if [ $# -gt 0 ]; then
    run --workspace "$@" -- --test-threads=1
else
    run --workspace --exclude voipfleet-tests
    # One lab on a machine at a time.
    run -p voipfleet-tests -- --test-threads=1
fi

awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
    END { printf "%d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$results"
rm -f "$results"
exit $status
