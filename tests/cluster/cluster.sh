#!/usr/bin/env bash
# A real single-node Kubernetes with Knative Serving and Eventing on one bare Linux machine, for the
# cluster tests: no Docker, no image registry, and nothing of it outside namespaces of its own.
#
#   cluster.sh deps               Debian packages and the Go toolchain (as root)
#   cluster.sh build              Kubernetes, Knative and CoreDNS from their Go modules; kept, done once
#   cluster.sh up                 start Kubernetes
#   cluster.sh serving eventing   install the two halves of Knative
#   cluster.sh broker             and the default Broker, in memory
#   cluster.sh hello              prove that a service goes from zero to one, back, and up again
#   cluster.sh image FILE REF     import an OCI archive under that name (images.sh makes one)
#   cluster.sh in CMD...          run CMD in the cluster's network, with its DNS and KUBECONFIG
#   cluster.sh k ARGS...          kubectl
#   cluster.sh down               stop it; nothing is left but the cache
#
# Stages may follow one another in one call: cluster.sh deps build up serving eventing broker hello.
# Everything is kept below ${CLUSTER_HOME:-~/.cache/ocf-cluster}. README.md says how it works and why.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for part in common deps build pki node images knative; do
  # shellcheck source=/dev/null
  source "$HERE/lib/$part.sh"
done

usage() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

main() {
  case ${1:-help} in
    help | -h | --help) usage ;;
    in) shift && in_network "$@" ;;
    k) shift && in_network kubectl "$@" ;;
    image) shift && import_image "$@" ;;
    *)
      local stage
      for stage in "$@"; do
        case $stage in
          deps | build | up | serving | eventing | broker | hello | down) timed "$stage" ;;
          *) die "no stage is called '$stage'; see cluster.sh help" ;;
        esac
      done
      ;;
  esac
}

main "$@"
