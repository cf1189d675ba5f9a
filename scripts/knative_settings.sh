#!/usr/bin/env bash
# Sets what the functions need of the cluster's Knative itself (knative/cluster; each file gives the reason).
#
# Merge patches: they change our fields only, whoever applied the rest, and can be repeated. `kubectl apply` would take
# each file for the whole object. An upgrade of Knative may take some back: run this again after it.
set -euo pipefail
cd "$(dirname "$0")/.."

mesh_mode() {
  kubectl --namespace knative-serving get configmap config-network --output 'jsonpath={.data.mesh-compatibility-mode}'
}

before=$(mesh_mode)
for file in knative/cluster/*.yaml; do
  kubectl patch --filename "$file" --type merge --patch-file "$file"
done
# The activator reads it at its start only. A request in it may end first (activator.yaml).
[[ $(mesh_mode) == "$before" ]] || kubectl --namespace knative-serving rollout restart deployment/activator
