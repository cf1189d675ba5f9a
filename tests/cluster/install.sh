#!/usr/bin/env bash
# Builds the images of this checkout and installs the system (knative/overlays/local) into the cluster of cluster.sh, or
# into the one that KUBECONFIG names if the images are there already (IMAGES=no).
#
#   install.sh            images, secrets, Knative's settings, the overlay; waits until all of it is ready
#
# Safe to repeat. Keys are kept in ${KEYS:-.ocf/cluster}.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
source "$HERE/lib/common.sh"
ROOT=$(cd "$HERE/../.." && pwd)
KEYS=${KEYS:-$ROOT/.ocf/cluster}
cd "$ROOT"

if [[ -z ${KUBECONFIG:-} ]]; then
  need_up
  inside() { in_network "$@"; }
else
  inside() { "$@"; }
fi
kubectl() { inside kubectl "$@"; }

images() {
  local target
  for target in slim full nats s3 postgres model; do
    "$HERE/images.sh" build "ocf-$target:test" "$ROOT" --file "$ROOT/Dockerfile" --target "$target" >/dev/null
  done
}

settings() {
  # The webhooks that look at these have to be there first.
  wait_for 60 inside scripts/knative_settings.sh
}

overlay() {
  kubectl get namespace ocf >/dev/null 2>&1 || kubectl create namespace ocf >/dev/null
  mkdir -p "$KEYS"
  "$ROOT/.venv/bin/python" scripts/knative_secrets.py --keys "$KEYS" --local | kubectl apply -f - >/dev/null
  inside "$ROOT/.venv/bin/python" scripts/knative_apply.py knative/overlays/local
}

ready() {
  kubectl -n ocf wait --for=condition=Ready pod -l app.kubernetes.io/name=nats --timeout=180s
  kubectl -n ocf wait --for=condition=Complete job/setup --timeout=180s
  kubectl -n ocf wait --for=condition=Ready ksvc --all --timeout=300s
  kubectl -n ocf rollout status deployment/dispatcher --timeout=180s
}

[[ ${IMAGES:-yes} == no ]] || timed images
timed settings
timed overlay
timed ready >/dev/null
