#!/usr/bin/env bash
# A real OpenCode task from submit to archive on the embedded stack: `make demo` (KEEP=1 leaves the stack up).
# DATA_DIR is where the stack keeps everything, PROMPT and REPO are the task.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
data="${DATA_DIR:-.ocf}"
repo="${REPO:-demo/repo}"
prompt="${PROMPT:-Run the tests, find out why one fails, and fix it.}"
work=$(mktemp -d)

title() { if [[ -t 1 ]]; then printf '\n\033[1;36m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }
field() { python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]] or "")' "$1"; }
finish() {
  local status=$?
  rm -rf "$work"
  if [[ -n ${KEEP:-} && $status == 0 ]]; then
    title "The stack stays up"
    echo "console  $(field console <"$data/stack.json")"
    echo "stop it  .venv/bin/ocf down${DATA_DIR:+ --data-dir $data}"
  else
    ocf down --data-dir "$data" || true
  fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

title "1. Start the embedded stack: NATS, S3, the functions, the dispatcher"
ocf up --detach --json --data-dir "$data" >"$work/up.json"
echo "gateway  $(field gateway <"$work/up.json")"
echo "console  $(field console <"$work/up.json")"

title "2. A repository with a failing test ($repo)"
cp -R "$repo" "$work/repo"
(cd "$work/repo" && python -B -m unittest 2>&1 | grep -E '^(FAIL|FAILED|AssertionError|OK)' || true)

title "3. ocf run '$prompt' --dir $repo"
ocf submit "$prompt" --dir "$repo" --data-dir "$data" --json >"$work/submitted.json"
id=$(field execution_id <"$work/submitted.json")
ocf watch "$id" --data-dir "$data"

title "4. What it changed: ocf diff $id"
ocf diff "$id" --data-dir "$data" >"$work/patch"
cat "$work/patch"

title "5. The tests with that patch"
(cd "$work/repo" && git apply "$work/patch" && python -B -m unittest 2>&1 | tail -3)

title "6. What is archived: s3://$(field s3_bucket <"$work/up.json")/default/$id/"
python scripts/wait_for_archive.py "$work/up.json" default "$id"

title "7. And now"
echo "every execution   .venv/bin/ocf list"
echo "play it again     .venv/bin/ocf replay $id"
echo "the console       make demo KEEP=1, or make up"
