#!/usr/bin/env bash
# Build an image from a Dockerfile, without Docker and without a registry, and give it to the cluster.
#
#   images.sh base                              make the one base image there is: debian:bookworm-slim
#   images.sh build NAME:TAG CONTEXT [OPTION...]  build it, and import it as dev.local/NAME:TAG if the cluster is up
#   images.sh import NAME:TAG                   import it again, into a cluster started since
#
# OPTIONs go to `buildah build` as they are: --file Dockerfile, --target STAGE, --build-arg NAME=VALUE, ...
# The archive stays at ${CLUSTER_HOME:-~/.cache/ocf-cluster}/images/NAME_TAG.tar.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib/common.sh
source "$HERE/lib/common.sh"
# shellcheck source-path=SCRIPTDIR source=lib/images.sh
source "$HERE/lib/images.sh"

STORE=$CLUSTER_HOME/buildah
ARCHIVES=$CLUSTER_HOME/images
SUITE=bookworm
BASE=docker.io/library/debian:$SUITE-slim
BARE=localhost/base:bare # what BASE is made of, see base_for
# The image's own bundle would be overwritten by a later `apt-get install ca-certificates`: another name.
CA_IN_IMAGE=/usr/local/share/build-ca-bundle.crt

usage() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

need_tools() {
  need_root images.sh
  if ! { command -v buildah && command -v debootstrap; } >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends buildah debootstrap >/dev/null
  fi
  mkdir -p "$STORE" "$ARCHIVES"
  # Both files would come with packages that are only recommended. Nothing is pulled, so nothing is verified.
  echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$STORE/policy.json"
  echo 'unqualified-search-registries = ["docker.io"]' >"$STORE/registries.conf"
}

# buildah with a store of its own. `chroot`: a RUN needs no runtime and no privileges beyond root's. In a
# mount namespace of its own: a build that is killed leaves no mount behind.
buildah_() {
  BUILDAH_ISOLATION=chroot STORAGE_DRIVER=overlay CONTAINERS_REGISTRIES_CONF=$STORE/registries.conf \
    gently unshare --mount buildah --root "$STORE/storage" --runroot "$STORE/run" "$@"
}

base() {
  if has_image "$BARE"; then return 0; fi
  local root=$STORE/rootfs container
  rm -rf "$root"
  gently debootstrap --variant=minbase "$SUITE" "$root" "$(debian_mirror)" >"$STORE/debootstrap.log"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
  # What the machine trusts, the build must trust: it may sit behind a proxy with a certificate of its own.
  # pip and Node do not read the system's bundle, so each is told by name.
  install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root$CA_IN_IMAGE"
  container=$(buildah_ from scratch)
  buildah_ add --quiet "$container" "$root" / >/dev/null
  buildah_ config --cmd bash --env "PIP_CERT=$CA_IN_IMAGE" --env "NODE_EXTRA_CA_CERTS=$CA_IN_IMAGE" "$container"
  commit "$container" "$BARE"
  rm -rf "$root"
  log "base image made"
}

has_image() { buildah_ inspect --type image "$1" >/dev/null 2>&1; }
commit() { buildah_ commit --quiet --rm --signature-policy "$STORE/policy.json" "$1" "$2" >/dev/null; } # CONTAINER REF

# base_for KEY: let BASE be an image that only builds with the same arguments start from. Debian 12's buildah does not look
# at the value of an ARG when it takes an ENV from its cache of layers, and gives the image of another build. No cached
# layer is looked at, however, when the first image differs.
base_for() {
  local own=localhost/base:$1 container
  base
  if ! has_image "$own"; then
    container=$(buildah_ from --pull-never "$BARE")
    buildah_ config --label "build-arguments=$1" "$container"
    commit "$container" "$own"
  fi
  buildah_ tag "$own" "$BASE"
}

# arguments_key CONTEXT OPTION...: the same for the same ARG lines and the same --build-arg options, else another.
arguments_key() {
  local file=$1/Dockerfile context=$1 given=()
  shift
  while (($#)); do
    case $1 in
      --file=*) file=${1#*=} ;;
      -f | --file) file=$2 && shift ;;
      --build-arg=*) given+=("${1#*=}") ;;
      --build-arg) given+=("$2") && shift ;;
    esac
    shift
  done
  [[ -f $file ]] || file=$context/$file
  [[ -f $file ]] || die "no file $file"
  { printf '%s\n' "${given[@]}" && grep -iE '^[[:space:]]*ARG[[:space:]]' "$file" || true; } | sha256sum | cut -c1-12
}

build() { # NAME:TAG CONTEXT OPTION...
  [[ $# -ge 2 && $1 == ?*:?* ]] || die "usage: images.sh build NAME:TAG CONTEXT [OPTION...]"
  local ref=dev.local/$1 context=$2 archive key
  archive=$(archive_of "$1")
  shift 2
  key=$(arguments_key "$context" "$@")
  need_tools
  # One build at a time: BASE means another image for other arguments.
  exec 9>"$STORE/lock"
  flock 9
  base_for "$key"
  # The base was made here, so it must never be looked for elsewhere; the network is for apt, pip and npm.
  buildah_ build --pull-never --network=host --layers --signature-policy "$STORE/policy.json" --tag "$ref" "$@" "$context"
  rm -f "$archive"
  buildah_ push --quiet --signature-policy "$STORE/policy.json" "$ref" "oci-archive:$archive:$ref"
  log "archive $archive ($(du -h "$archive" | cut -f1))"
  if is_up; then import_image "$archive" "$ref"; fi
}

again() { # NAME:TAG
  [[ $# == 1 && -f $(archive_of "$1") ]] || die "usage: images.sh import NAME:TAG, of an image built before"
  import_image "$(archive_of "$1")" "dev.local/$1"
}

archive_of() { echo "$ARCHIVES/${1//[\/:]/_}.tar"; }

case ${1:-help} in
  base) need_tools && base ;;
  build) shift && build "$@" ;;
  import) shift && again "$@" ;;
  *) usage ;;
esac
