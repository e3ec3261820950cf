#!/usr/bin/env bash
# Prints figures for this machine, each beside the floor measured in the same run.
#
#   sudo tests/bench.sh                     everything, about twenty minutes
#   sudo tests/bench.sh apply               one part: apply, delta, plan, drift, lockout, idle,
#                                           push or scale
#   sudo tests/bench.sh push --nodes 10
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

say() { echo "==> $*" >&2; }
fail() {
    echo "tests/bench.sh: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "root is needed for network namespaces and iptables: sudo tests/bench.sh"

# shellcheck source=../deploy/lab/tools.sh
. deploy/lab/tools.sh
install_missing
with_progress cargo build --locked --release --workspace --bins
exec "$(target_folder)/release/bench" "$@"
