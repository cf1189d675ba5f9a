#!/usr/bin/env bash
# Installs the project into the checkout: .venv (Python), .tools (OpenCode, the offline scripted model), console/.
#
#   install.sh run    what it takes to run: no test tools, no type checker
#   install.sh dev    that, and everything to work on it
#
# Each step leaves a stamp with the digest of what it was made from and is skipped while that is unchanged, so
# that a second call takes no time. Everything is pinned by lock files and comes from PyPI and npm only.
set -euo pipefail
cd "$(dirname "$0")/.."
kind="${1:?run or dev}"
npm="$PWD/scripts/npm.sh"

say() { echo "install: $*" >&2; }
die() {
  echo "install: $*" >&2
  exit 1
}
digest() { cat "$@" | cksum | tr ' ' '-'; }
# done_already STAMP FILE...: whether STAMP says that FILEs have been handled as they are now
done_already() { [[ -f $1 && $(cat "$1") == "$(digest "${@:2}")" ]]; }
stamp() { digest "${@:2}" >"$1"; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "$candidate"
      return
    fi
  done
  die "Python 3.11 or newer is needed (set PYTHON=/path/to/python3.11)"
}

make_venv() {
  [[ -x .venv/bin/python ]] && .venv/bin/python -c 'import pip' 2>/dev/null && return
  local python
  python=$(find_python)
  say "creating .venv with $("$python" --version)"
  "$python" -m venv .venv || die "python3 -m venv does not work here; on Debian: apt-get install python3-venv"
}

install_python() {
  local lock="requirements/$1.lock" mark=".venv/.installed-$1"
  done_already "$mark" "$lock" pyproject.toml clients/python/pyproject.toml && return
  make_venv
  say "installing Python packages from $lock"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r "$lock"
  # Editable, with the pinned setuptools: nothing is fetched to build it.
  # The client as a folder on the path: the server's finder would take `ocf` for a namespace without code of its own.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
    --editable clients/python --config-settings editable_mode=compat
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
  stamp "$mark" "$lock" pyproject.toml clients/python/pyproject.toml
}

install_tools() {
  # A second checkout downloads nothing that npm has on this machine.
  npm_config_cache="${npm_config_cache:-$HOME/.npm}" .venv/bin/ocf install >&2
}

# npm_exactly FOLDER: what the lock file says. A registry without some other platform's optional package makes
# `npm ci` call the lock incomplete; `npm install` takes the same versions and digests from it all the same.
npm_exactly() {
  local quiet=(--no-audit --no-fund --loglevel=error)
  (cd "$1" && { "$npm" ci "${quiet[@]}" >/dev/null 2>&1 || "$npm" install --no-save "${quiet[@]}" >&2; })
}

build_console() {
  [[ -f console/package-lock.json ]] || return 0
  local mark=console/node_modules/.installed built=console/dist/.built
  if ! done_already "$mark" console/package-lock.json; then
    say "installing what the console is built with"
    npm_exactly console
    stamp "$mark" console/package-lock.json
  fi
  local sources=()
  mapfile -t sources < <(find console/src console/public console/index.html console/vite.config.ts \
    console/package-lock.json -type f | LC_ALL=C sort)
  done_already "$built" "${sources[@]}" && return
  say "building the console"
  (cd console && "$npm" run --silent build -- --logLevel warn >&2)
  stamp "$built" "${sources[@]}"
}

case $kind in
  # What was installed for work runs as well.
  run) if [[ -f .venv/.installed-dev ]]; then install_python dev; else install_python local; fi ;;
  dev) install_python dev ;;
  *) die "run or dev, not $kind" ;;
esac
install_tools
build_console
