# shellcheck shell=bash
# The programs that no package has, from the Go module registry: Kubernetes, Knative, CoreDNS, and our own
# three small ones (go/ingress, go/hello, go/pause). One Go module (go/go.mod) covers them all, so that
# client-go and its relatives are compiled once, and Knative and Kubernetes agree on their version.

KUBERNETES=(kubelet kube-apiserver kube-controller-manager kube-scheduler kube-proxy)
SERVING=(controller webhook activator autoscaler queue)
EVENTING=(controller webhook jobsink mtping)
# A Broker, and the channel in memory that is behind the default one.
BROKER=(mtchannel_broker broker/ingress broker/filter in_memory/channel_controller in_memory/channel_dispatcher)
OWN=(ingress hello pause)

build() {
  [[ -x $CLUSTER_HOME/venv/bin/go ]] || die "no Go toolchain (cluster.sh deps)"
  mkdir -p "$BIN" "$MANIFESTS"
  unless_done "$BIN/.done" compile go lib/build.sh
  unless_done "$MANIFESTS/.done" write_manifests go/go.mod lib/manifests.py
  # 6 GB that nothing needs any more. After an interrupted build they are still there, and the next one goes on.
  [[ -n ${KEEP_BUILD_CACHE:-} ]] || rm -rf "$CLUSTER_HOME/go"
}

unless_done() { # MARK COMMAND SOURCES...: run it if the sources are not those of the last time
  local mark=$1 command=$2 sum
  shift 2
  sum=$(cd "$HERE" && find "$@" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
  if [[ $(cat "$mark" 2>/dev/null) == "$sum" ]]; then
    log "$command: done already"
    return 0
  fi
  rm -f "$mark"
  "$command"
  echo "$sum" >"$mark"
}

enough_disk() {
  local free_gb
  free_gb=$(df --output=avail -BG "$CLUSTER_HOME" | tail -n 1 | tr -dc 0-9)
  ((free_gb >= 9)) || die "the build needs 9 GB of disk for a while, and $CLUSTER_HOME has ${free_gb} GB"
}

# Nothing of the caller's Go settings counts: caches of our own, no C, the module file as it was committed.
go_() {
  (cd "$HERE/go" && gently env PATH="$CLUSTER_HOME/venv/bin:$PATH" GOFLAGS=-modcacherw GOWORK=off GOTOOLCHAIN=local \
    CGO_ENABLED=0 GOMODCACHE="$CLUSTER_HOME/go/mod" GOCACHE="$CLUSTER_HOME/go/build" go "$@")
}

# Asked by package: `go list -m` would ask the registry for more than the build needs, and it may refuse that.
module() { go_ list -f "{{.Module.$1}}" "$2"; } # FIELD PACKAGE

write_manifests() {
  local serving eventing networking caching
  serving=$(module Dir knative.dev/serving/cmd/queue)
  eventing=$(module Dir knative.dev/eventing/cmd/jobsink)
  networking=$(module Dir knative.dev/networking/config)
  caching=$(module Dir knative.dev/caching/config)
  "$CLUSTER_HOME/venv/bin/python" "$HERE/lib/manifests.py" "$MANIFESTS" \
    "serving=$serving" "eventing=$eventing" "networking=$networking" "caching=$caching"
}

compile() {
  local name version v
  enough_disk
  for name in "${OWN[@]}"; do go_install "$name" "./$name"; done
  go_ vet ./ingress ./hello ./pause
  go_ test ./ingress
  for name in "${SERVING[@]}"; do go_install "kn-$name" "knative.dev/serving/cmd/$name"; done
  # An image of ours has no time zones, and a PingSource may name one.
  for name in "${EVENTING[@]}" "${BROKER[@]}"; do
    go_install "$(eventing_program "$name")" "knative.dev/eventing/cmd/$name" -tags timetzdata
  done
  go_install coredns github.com/coredns/coredns
  # Kubernetes asks its own binaries for their version (a kubelet of v0.0.0 is refused).
  version=$(module Version k8s.io/kubernetes/cmd/kubelet)
  v=k8s.io/component-base/version
  for name in "${KUBERNETES[@]}"; do
    go_install "$name" "k8s.io/kubernetes/cmd/$name" -tags providerless -ldflags \
      "-s -w -X $v.gitVersion=$version -X $v.gitMajor=1 -X $v.gitMinor=$(cut -d. -f2 <<<"$version") -X $v.gitTreeState=clean"
  done
}

# The program of a command of Eventing's: lib/manifests.py gives images the same names.
eventing_program() { echo "ev-${1//[\/_]/-}"; } # COMMAND

go_install() { # NAME PACKAGE GO-BUILD-OPTIONS...
  local name=$1 package=$2
  shift 2
  log "building $name"
  go_ build -ldflags '-s -w' "$@" -o "$BIN/$name" "$package"
}
