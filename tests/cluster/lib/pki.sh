# shellcheck shell=bash
# Certificates and kubeconfigs, made anew at every start (elliptic keys: under a second), so that none expires.

make_pki() {
  mkdir -p "$PKI"
  openssl_quiet req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
    -subj /CN=cluster-ca -keyout "$PKI/ca.key" -out "$PKI/ca.crt"
  certificate apiserver /CN=kube-apiserver \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:$API_IP,IP:$NODE_IP,IP:127.0.0.1"
  certificate kubelet /O=system:nodes/CN=system:node:node1 "DNS:node1,IP:$NODE_IP"
  certificate admin /O=system:masters/CN=admin
  certificate controller-manager /CN=system:kube-controller-manager
  certificate scheduler /CN=system:kube-scheduler
  certificate proxy /CN=system:kube-proxy
  certificate apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client
  certificate front-proxy /CN=front-proxy
  openssl_quiet ecparam -name prime256v1 -genkey -noout -out "$PKI/service-account.key"
  openssl_quiet ec -in "$PKI/service-account.key" -pubout -out "$PKI/service-account.pub"
  local user
  for user in admin controller-manager scheduler proxy kubelet; do kubeconfig "$user"; done
}

openssl_quiet() { openssl "$@" 2>/dev/null; }

certificate() { # NAME SUBJECT [ALTERNATIVE-NAMES]
  local extensions=$'keyUsage=digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n'"${3:+subjectAltName=$3}"
  openssl_quiet req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" -keyout "$PKI/$1.key" -out "$PKI/$1.csr"
  openssl_quiet x509 -req -in "$PKI/$1.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 30 \
    -extfile <(printf '%s\n' "$extensions") -out "$PKI/$1.crt"
  rm "$PKI/$1.csr"
}

kubeconfig() { # USER, whose certificate is there already
  cat >"$PKI/$1.kubeconfig" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$NODE_IP:6443", certificate-authority: $PKI/ca.crt}}]
users: [{name: $1, user: {client-certificate: $PKI/$1.crt, client-key: $PKI/$1.key}}]
contexts: [{name: test, context: {cluster: test, user: $1}}]
current-context: test
EOF
}
