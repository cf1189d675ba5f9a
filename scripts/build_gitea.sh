#!/usr/bin/env bash
# Builds Gitea from its Go module into .tools/gitea, for tests/integration/test_gitea.py. Its API needs no web assets.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v1.26.0
target="$PWD/.tools/gitea"
[[ -f $target/.version && $(cat "$target/.version") == "$version" ]] && exit
command -v go >/dev/null || {
  echo "gitea: go is needed" >&2
  exit 1
}
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
cd "$source"
go mod download "code.gitea.io/gitea@$version"
cp -r "$(go env GOMODCACHE)/code.gitea.io/gitea@$version/." .
chmod -R u+w .
mkdir -p "$target"
go build -trimpath -tags "sqlite sqlite_unlock_notify" -ldflags "-s -w -X main.Version=${version#v}" -o "$target/gitea" .
cp -r templates options public "$target/"
echo "$version" >"$target/.version"
