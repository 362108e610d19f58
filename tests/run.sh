#!/usr/bin/env bash
# The one test command: installs what the oracles need where it may, then format, lints, build, all tests.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

install_packages() {
    command -v apt-get >/dev/null || return 0
    local missing=() package
    while read -r package; do
        case $package in '' | '#'*) continue ;; esac
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done <tests/packages.txt
    [ ${#missing[@]} -eq 0 ] && return 0
    if [ "$(id -u)" != 0 ]; then
        echo "these Debian packages are missing, tests that need them will be skipped: ${missing[*]}" >&2
        return 0
    fi
    echo "installing: ${missing[*]}"
    local apt=(apt-get -o DPkg::Lock::Timeout=300 -qq) log qemu
    log=$(mktemp)
    "${apt[@]}" update >"$log" 2>&1 </dev/null || { cat "$log"; rm -f "$log"; return 1; }
    if [[ " ${missing[*]} " == *" qemu-"* ]]; then
        # A newer qemu-utils without qemu-system would be removed by installing the latter: both in the version that is there.
        qemu=$(apt-cache policy qemu-system-x86 | sed -n 's/ *Candidate: //p')
        mapfile -t missing < <(printf '%s\n' "${missing[@]}" | grep -v '^qemu-')
        missing+=("qemu-system-x86=$qemu" "qemu-system-common=$qemu" "qemu-utils=$qemu")
    fi
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends --allow-downgrades "${missing[@]}" \
        >"$log" 2>&1 </dev/null || { cat "$log"; rm -f "$log"; return 1; }
    rm -f "$log"
}

install_packages
cargo fmt --check
cargo clippy --quiet --all-targets --features internals -- -D warnings
# As it is shipped. Some of what the floors offer is used by the tests alone so far.
cargo clippy --quiet --lib --bins -- -D warnings -A dead_code -A unused_imports -A unfulfilled_lint_expectations
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --features internals --no-fail-fast "$@"
else
    cargo test --features internals --no-fail-fast "$@"
fi
cargo test --quiet --doc --features internals
