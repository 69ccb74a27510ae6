# What `.ci/run` and `.ci/fast` share: steps that all run and are summed up at the end, and the tools they need.
# shellcheck shell=bash

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export PATH=$PATH:${HOME:-/root}/.cargo/bin

readonly target=${CARGO_TARGET_DIR:-target}
readonly tools=$target/ci-tools
# The status of a step that cannot run here and says why; it is no failure.
readonly skipped=77
mkdir -p "$tools"

# Where rustup cannot fetch the toolchain of rust-toolchain.toml, the stable one may be of the same version;
# `check_toolchain` compares.
rustc --version >/dev/null 2>&1 || export RUSTUP_TOOLCHAIN=stable

names=()
results=()
failures=0

# Runs a command as a named step and records the result.
step() { # NAME COMMAND…
    local name=$1 started=$SECONDS status=0
    shift
    printf '\n==> %s\n' "$name"
    "$@" || status=$?
    names+=("$name")
    case $status in
        0) results+=("ok      $((SECONDS - started)) s") ;;
        "$skipped") results+=("skipped") ;;
        *)
            ((++failures))
            results+=("FAILED  $((SECONDS - started)) s, status $status")
            ;;
    esac
}

# Prints a line for each step.
sum_up() {
    local index
    printf '\n'
    for index in "${!names[@]}"; do printf '%-28s %s\n' "${names[$index]}" "${results[$index]}"; done
    printf '\n'
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs an installation and shows the end of its output if it fails, without the addresses of servers.
quietly() { # COMMAND…
    local status=0
    "$@" >"$tools/install.log" 2>&1 || status=$?
    ((status == 0)) || tail -n 20 "$tools/install.log" | sed -E 's#https?://[^/ ]+#…#g'
    return "$status"
}

apt_install() { # PACKAGE…
    if [[ $(id -u) != 0 ]] || ! have apt-get; then
        echo "missing: $*; install it, or run this as root on Debian"
        return 1
    fi
    echo "installing $*"
    quietly apt-get update -qq
    DEBIAN_FRONTEND=noninteractive quietly apt-get install -y -qq --no-install-recommends "$@"
}

# Finds a program, or installs it: prebuilt from PyPI in seconds, else built from crates.io in minutes.
# Its path is in `provided` afterwards.
provide() { # PROGRAM PYPI-PACKAGE CRATE
    for provided in "$1" "$tools/venv/bin/$1" "$tools/bin/$1"; do
        "$provided" --version 2>/dev/null && return
    done
    echo "installing $1"
    if make_venv && quietly "$tools/venv/bin/python" -m pip install --quiet "$2"; then
        provided=$tools/venv/bin/$1
        "$provided" --version && return
    fi
    provided=$tools/bin/$1
    quietly cargo install --locked --root "$tools" "$3" && "$provided" --version
}

make_venv() {
    "$tools/venv/bin/python" --version >/dev/null 2>&1 && return
    rm -rf "$tools/venv"
    python3 -m venv "$tools/venv" >/dev/null 2>&1 && return
    apt_install python3-venv && rm -rf "$tools/venv" && python3 -m venv "$tools/venv"
}

# The stated version is the tested one.
check_toolchain() {
    local running pinned manifest stated status=0
    running=$(rustc --version | cut -d ' ' -f 2)
    pinned=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
    echo "rustc $running"
    if [[ $running != "$pinned" ]]; then
        echo "rust-toolchain.toml states $pinned"
        status=1
    fi
    for manifest in Cargo.toml tests/support/Cargo.toml; do
        stated=$(sed -n 's/^rust-version = "\([^"]*\)".*$/\1/p' "$manifest")
        if [[ $stated != "${pinned%.*}" ]]; then
            echo "$manifest states rust-version $stated, not ${pinned%.*}"
            status=1
        fi
    done
    return "$status"
}

check_spelling() {
    provide typos typos typos-cli && "$provided"
}
