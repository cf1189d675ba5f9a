#!/usr/bin/env bash
# Renews requirements/*.lock from pyproject.toml: every version pinned, every file hashed, for all platforms.
# The three agree with each other: local and runtime are subsets of dev.
set -euo pipefail
cd "$(dirname "$0")/.."

uv="${UV:-.tools/uv/bin/uv}"
if ! command -v "$uv" >/dev/null; then
  python3 -m venv .tools/uv
  .tools/uv/bin/pip install --quiet uv
fi
# Seeing the index a machine happens to use would say nothing about the project.
compile() {
  "$uv" pip compile --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
    --no-header --no-emit-package opencode-functions-client --python-version 3.11 --quiet "$@"
}
compile pyproject.toml --extra local --extra mcp --extra dev -o requirements/dev.lock
compile pyproject.toml --extra local --extra mcp -c requirements/dev.lock -o requirements/local.lock
compile pyproject.toml -c requirements/dev.lock -o requirements/runtime.lock
compile requirements/tools.in -o requirements/tools.lock
# What the pinned agent knows of models.
"${PYTHON:-python3}" scripts/model_catalog.py
# Another OpenCode must do what the recorded suite says (CONTRIBUTING.md).
echo "If OpenCode's version changed: ocf suite run tests/suite/opencode.suite.yaml, then python -m tests.support.record_suite"
