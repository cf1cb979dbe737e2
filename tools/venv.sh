# Sourced by the scripts beside it: creates .venv from constraints.txt and setup.cfg, and sets
# ROOT (the repository) and PYTHON (the environment's interpreter).
# shellcheck shell=sh

ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=$ROOT/.venv/bin/python

venv_say() { printf '%s\n' "$*" >&2; }

venv_base() {
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    venv_say "Python 3.11 or newer is missing; on Debian: sudo apt-get install python3 python3-venv"
    return 1
}

# What the environment is made from; it is remade when this changes.
venv_wanted() {
    (cd "$ROOT" && cat setup.cfg pyproject.toml constraints.txt | cksum)
}

venv_current() {
    [ -x "$PYTHON" ] && [ "$(cat "$ROOT/.venv/made-from" 2>/dev/null)" = "$(venv_wanted)" ]
}

venv_make() {
    base=$(venv_base) || return 1
    if ! [ -x "$PYTHON" ] || ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        venv_say "making $ROOT/.venv with $("$base" --version)"
        if ! "$base" -m venv --clear "$ROOT/.venv"; then
            venv_say "could not make it; on Debian: sudo apt-get install python3-venv"
            return 1
        fi
    fi
    venv_say "installing this package and its pinned dependencies into .venv (a minute when new)"
    wanted=$(venv_wanted)
    "$PYTHON" -m pip install --quiet --disable-pip-version-check \
        -c "$ROOT/constraints.txt" -e "$ROOT[test,docs,bench]" >&2 || return 1
    printf '%s\n' "$wanted" >"$ROOT/.venv/made-from"
}

venv_locked() {
    # Beside .venv, not in it: --clear would remove it. The lock ends with the subshell.
    if command -v flock >/dev/null 2>&1; then
        exec 9<"$ROOT/tools"
        flock -n 9 || { venv_say "waiting for another command that makes .venv"; flock 9; }
    fi
    venv_current || venv_make
}

if ! venv_current; then
    (venv_locked) || exit 1
fi
