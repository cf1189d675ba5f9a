# shellcheck shell=bash
# Start and stop Kubernetes.
#
# Everything runs in the network, mount and process namespaces of one process, the holder (go/pause). To
# stop, that process is killed: the kernel then ends every process in there, container or not, and with the
# last of them the mounts, network devices and firewall rules are gone. Nothing has to be found and undone.

# Folders whose names are compiled into containerd, the CNI plugins and the kubelet. In the node each is a
# tmpfs of its own. (/var/log/containers: the kubelet puts links there whatever its log folder is.)
HARD_CODED=(/run/containerd /var/lib/cni /var/lib/kubelet /var/log/containers)

# The kubelet sets these for the whole machine. In the node a plain file that already holds the wished value
# lies over each, so the kubelet is content and the machine's own value is never touched.
declare -A KERNEL_SETTINGS=([vm/overcommit_memory]=1 [vm/panic_on_oom]=0 [kernel/panic]=10 [kernel/panic_on_oops]=1
  [kernel/keys/root_maxkeys]=1000000 [kernel/keys/root_maxbytes]=25000000)

up() {
  need_root up
  if is_up; then
    log "already up"
    return 0
  fi
  [[ -f $BIN/.done && -f $MANIFESTS/.done ]] || die "nothing built yet (cluster.sh deps build)"
  clean_up # what a killed run may have left
  mkdir -p "$RUN/log" "$RUN/etc/cni"
  # A kubelet does not hand such a folder to a pod's fsGroup: whoever gets the volume must be able to write.
  mkdir -p "$RUN"/volumes/{1..8}
  chmod 1777 "$RUN"/volumes/*
  make_pki
  local template
  for template in containerd.toml kubelet.yaml cni/10-bridge.conflist; do
    fill "$HERE/etc/$template" >"$RUN/etc/$template"
  done
  : >"$RUN/etc/resolv.conf" # the node itself knows no name server
  printf 'nameserver %s\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n' "$DNS_IP" >"$RUN/client-resolv.conf"

  start_holder
  start_containerd
  start_control_plane
  start_node_agents
  own_image pause
  own_image coredns
  wait_for 60 k get serviceaccount default
  k apply -f "$HERE/manifests/coredns.yaml" -f "$HERE/manifests/storage.yaml" >/dev/null
  fill "$HERE/manifests/volumes.yaml" | k apply -f - >/dev/null
  wait_for 60 k wait node/node1 --for=condition=Ready --timeout=5s
  rollout kube-system/coredns
  log "KUBECONFIG=$KUBECONFIG_ADMIN, in the cluster's network only: cluster.sh in CMD"
}

start_holder() {
  # setsid: a Ctrl-C meant for a test run must not take the cluster with it.
  setsid unshare --fork --kill-child --pid --mount-proc --mount --propagation private --net \
    "$BIN/pause" >"$RUN/log/holder.log" 2>&1 </dev/null &
  wait_for 10 find_holder $!
  mkdir -p "${HARD_CODED[@]}"
  local setting
  for setting in "${!KERNEL_SETTINGS[@]}"; do
    [[ -e /proc/sys/$setting ]] || continue
    echo "${KERNEL_SETTINGS[$setting]}" >"$RUN/etc/${setting//\//.}"
    in_node mount --bind "$RUN/etc/${setting//\//.}" "/proc/sys/$setting"
  done
  # The kubelet wants volumes mounted in one place to be seen in the other. The default route leads nowhere,
  # but without one the node cannot reach service addresses.
  # shellcheck disable=SC2016  # expanded by the inner shell
  in_node sh -ec '
    node_ip=$1; shift
    for folder; do mount -t tmpfs tmpfs "$folder"; done
    mount --make-rshared /
    sysctl -qw net.ipv4.ip_forward=1
    ip link set lo up
    ip link add node0 type bridge
    ip addr add "$node_ip/24" dev node0
    ip link set node0 up
    ip route add default dev node0' sh "$NODE_IP" "${HARD_CODED[@]}"
}

find_holder() { # PID-OF-UNSHARE: its child is the holder
  pgrep --parent "$1" >"$RUN/holder.pid" && is_up
}

daemon() { # NAME COMMAND...: in the node, in the background, with a log of its own
  local name=$1
  shift
  setsid nsenter --target "$(holder)" --net --mount --pid --wd=/ -- "$@" >"$RUN/log/$name.log" 2>&1 </dev/null &
}

start_containerd() {
  daemon containerd env "PATH=$DEBS/containerd/usr/bin:$PATH" containerd --config "$RUN/etc/containerd.toml"
  wait_for 30 ctr version
}

start_control_plane() {
  # The data are worth nothing after `down`, so etcd need not wait for the disk.
  daemon etcd "$DEBS/etcd-server/usr/bin/etcd" --data-dir "$RUN/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
  wait_for 30 in_node "$DEBS/etcd-client/usr/bin/etcdctl" endpoint health
  daemon kube-apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
    --bind-address="$NODE_IP" --advertise-address="$NODE_IP" --secure-port=6443 --service-cluster-ip-range="$SERVICE_CIDR" \
    --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$PKI/service-account.pub" \
    --service-account-signing-key-file="$PKI/service-account.key" \
    --kubelet-certificate-authority="$PKI/ca.crt" --kubelet-client-certificate="$PKI/apiserver-kubelet.crt" \
    --kubelet-client-key="$PKI/apiserver-kubelet.key" --kubelet-preferred-address-types=InternalIP \
    --requestheader-client-ca-file="$PKI/ca.crt" --requestheader-allowed-names=front-proxy \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file="$PKI/front-proxy.crt" --proxy-client-key-file="$PKI/front-proxy.key" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true
  wait_for 90 api_ready
  daemon kube-controller-manager "$BIN/kube-controller-manager" "${CLIENT_FLAGS[@]/@USER@/controller-manager}" \
    --service-account-private-key-file="$PKI/service-account.key" --root-ca-file="$PKI/ca.crt" \
    --cluster-signing-cert-file="$PKI/ca.crt" --cluster-signing-key-file="$PKI/ca.key" --use-service-account-credentials=true
  daemon kube-scheduler "$BIN/kube-scheduler" "${CLIENT_FLAGS[@]/@USER@/scheduler}"
}
CLIENT_FLAGS=("--kubeconfig=$PKI/@USER@.kubeconfig" "--authentication-kubeconfig=$PKI/@USER@.kubeconfig"
  "--authorization-kubeconfig=$PKI/@USER@.kubeconfig" --leader-elect=false --bind-address=127.0.0.1)

# The whole answer must be "ok": the long text of a failing readyz has "ok" in it, too.
api_ready() { [[ $(k get --raw /readyz) == ok ]]; }

start_node_agents() {
  daemon kubelet "$BIN/kubelet" --config="$RUN/etc/kubelet.yaml" --kubeconfig="$PKI/kubelet.kubeconfig" \
    --root-dir="$RUN/kubelet" --cert-dir="$RUN/kubelet-pki" --hostname-override=node1 --node-ip="$NODE_IP"
  # iptables: a small kernel has no IPVS. The size of the connection table is the machine's, leave it.
  daemon kube-proxy "$BIN/kube-proxy" --kubeconfig="$PKI/proxy.kubeconfig" --proxy-mode=iptables \
    --cluster-cidr="$POD_CIDR" --hostname-override=node1 --bind-address="$NODE_IP" --conntrack-max-per-core=0 \
    --healthz-bind-address=127.0.0.1:10256 --metrics-bind-address=127.0.0.1:10249
}

down() {
  need_root down
  local pid
  if pid=$(holder); then
    kill -KILL "$pid"
    wait_for 30 gone "$pid"
  fi
  clean_up
}

gone() { [[ ! -e /proc/$1 ]]; }

clean_up() {
  is_up && die "still running"
  # Control groups are the one thing that belongs to no namespace. They are empty by now; deepest first.
  local root
  for root in /sys/fs/cgroup/{,*/}{kubepods,k8s.io}; do
    [[ -d $root ]] || continue
    wait_for 10 find "$root" -depth -type d -exec rmdir {} +
  done
  rm -rf "$RUN"
  rmdir --ignore-fail-on-non-empty "${HARD_CODED[@]}" 2>/dev/null || true
}
