# shellcheck shell=bash
# Images without a registry: they are written as OCI archives and imported into containerd.

import_image() { # FILE REF
  [[ $# == 2 ]] || die "usage: cluster.sh image FILE REF"
  need_up
  # A name that starts with dev.local/ tells Knative not to ask a registry for the digest of the tag.
  ctr images import --index-name "$2" "$1" >/dev/null
  wait_for 20 image_known "$2"
  log "image $2"
}

# The kubelet sees an imported image only after containerd's own event for it has come round.
image_known() { [[ $(ctr images list --quiet "name==$1") == "$1" ]]; }

# own_image NAME: an image that has one static program in it. The user must be a number: the kubelet cannot
# tell from a name that it is not root, and Knative's pods ask for that (runAsNonRoot).
own_image() {
  local archive=$RUN/$1.tar
  python3 "$HERE/lib/oci_image.py" "$BIN/$1" "$archive"
  import_image "$archive" "registry.local/$1:1"
  rm "$archive"
}
