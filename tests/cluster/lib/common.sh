# shellcheck shell=bash
# shellcheck disable=SC2034  # most of what is set here is for the other parts
# Paths, addresses and the small tools that every stage uses.

CLUSTER_HOME=${CLUSTER_HOME:-$HOME/.cache/ocf-cluster}
BIN=$CLUSTER_HOME/bin             # programs built from Go modules
DEBS=$CLUSTER_HOME/debs           # Debian packages, unpacked and not installed
MANIFESTS=$CLUSTER_HOME/manifests # Knative's own manifests, from the modules its programs are built from
RUN=$CLUSTER_HOME/run             # all state of a running cluster; gone after `down`
PKI=$RUN/pki
KUBECONFIG_ADMIN=$PKI/admin.kubeconfig

# Addresses exist in the cluster's own network namespace only.
NODE_IP=10.89.0.1
POD_CIDR=10.244.0.0/24
SERVICE_CIDR=10.96.0.0/16
API_IP=10.96.0.1
DNS_IP=10.96.0.10

CONTAINERD_SOCK=$RUN/containerd.sock

log() { printf '   %s\n' "$*" >&2; }
die() {
  printf 'cluster: %s\n' "$*" >&2
  exit 1
}

timed() { # STAGE: run it and print how long it took
  local start=$SECONDS
  "$1"
  printf '== %s %ss\n' "$1" "$((SECONDS - start))"
}

need_root() { [[ $(id -u) == 0 ]] || die "$1 needs root"; }

# Builds and downloads take their turn behind whatever else the machine does.
gently() { nice -n 19 ionice -c 3 "$@"; }

# The mirror that this machine's own apt uses.
debian_mirror() {
  local mirror
  # shellcheck disable=SC2016  # the dollar is apt's
  mirror=$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 'Created-By: Packages' | grep -v security | head -n 1)
  echo "${mirror:?no Debian mirror in the sources of apt}"
}

# wait_for SECONDS COMMAND...: until the command succeeds. Its last words are shown if it never does.
wait_for() {
  local limit=$1 out deadline
  shift
  deadline=$((SECONDS + limit))
  until out=$("$@" 2>&1); do
    ((SECONDS < deadline)) || die "not within ${limit}s: $* ${out:+($out)}"
    sleep 0.3
  done
}

# fill TEMPLATE: the file with each @NAME@ replaced by the variable of that name.
fill() {
  local text name
  text=$(<"$1")
  for name in CLUSTER_HOME DEBS RUN PKI NODE_IP POD_CIDR DNS_IP CONTAINERD_SOCK; do
    text=${text//@$name@/${!name}}
  done
  printf '%s\n' "$text"
}

# The cluster lives in the namespaces of one process (see node.sh). A pid file can outlive a reboot,
# so the process must also be ours by its executable (which a new build replaces: "pause (deleted)").
holder() {
  local pid
  [[ -f $RUN/holder.pid ]] && pid=$(<"$RUN/holder.pid") &&
    [[ $(readlink "/proc/$pid/exe") == "$BIN/pause"* ]] && echo "$pid"
}
is_up() { holder >/dev/null 2>&1; }
need_up() { is_up || die "the cluster is not up (cluster.sh up)"; }

# in_node COMMAND...: as a process of the node: its network, mounts and process ids.
in_node() { nsenter --target "$(holder)" --net --mount --pid --wd="$PWD" -- "$@"; }

# in_network COMMAND...: as a client: the host's files, but the cluster's network and its DNS.
in_network() {
  need_up
  # shellcheck disable=SC2016  # expanded by the inner shell
  PATH=$DEBS/kubectl/usr/bin:$PATH KUBECONFIG=$KUBECONFIG_ADMIN \
    nsenter --target "$(holder)" --net -- \
    unshare --mount sh -ec 'mount --bind "$0" /etc/resolv.conf; exec "$@"' "$RUN/client-resolv.conf" "$@"
}

k() { in_network kubectl "$@"; }
ctr() { "$DEBS/containerd/usr/bin/ctr" --address "$CONTAINERD_SOCK" --namespace k8s.io "$@"; }

# rollout NAMESPACE/DEPLOYMENT...: wait until each is there and ready.
rollout() {
  local name
  for name in "$@"; do
    wait_for 180 k -n "${name%/*}" rollout status "deployment/${name#*/}" --timeout=5s
  done
}
