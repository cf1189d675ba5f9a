# shellcheck shell=bash
# Install Knative, and prove that it works.

serving() {
  need_up
  local name
  for name in "${SERVING[@]}"; do own_image "kn-$name"; done
  own_image ingress
  apply_with_crds serving
  k apply -f "$HERE/manifests/ingress.yaml" >/dev/null
  rollout knative-serving/{webhook,controller,autoscaler} # the webhook has to admit the patches
  configure network '{"ingress-class": "cluster-test.ingress.networking.knative.dev"}'
  configure domain '{"example.test": ""}'
  # To zero after seconds instead of minutes, so that tests can wait for it. The panic window is the usual 6 s: a tenth of
  # this stable window would be one sample, and two of a busy machine in the same second start a second pod, a third ...
  configure autoscaler '{"scale-to-zero-grace-period": "6s", "stable-window": "10s", "panic-window-percentage": "60.0"}'
  rollout knative-serving/activator knative-ingress/ingress
}

eventing() {
  need_up
  local name
  for name in "${EVENTING[@]}"; do own_image "ev-$name"; done
  apply_with_crds eventing
  rollout knative-eventing/{eventing-webhook,eventing-controller,job-sink}
}

broker() {
  need_up
  local name
  for name in "${BROKER[@]}"; do own_image "$(eventing_program "$name")"; done
  apply_with_crds broker
  rollout knative-eventing/{mt-broker-controller,mt-broker-ingress,mt-broker-filter,imc-controller,imc-dispatcher}
}

apply_with_crds() { # serving | eventing | broker
  # Server side: a plain apply keeps a copy in an annotation, which is a second load for objects this large.
  k apply --server-side -f "$MANIFESTS/$1-crds.yaml" >/dev/null
  k wait --for=condition=Established --timeout=60s -f "$MANIFESTS/$1-crds.yaml" >/dev/null
  k apply -f "$MANIFESTS/$1.yaml" >/dev/null
}

configure() { # CONFIG-MAP DATA
  # The first try may come before the webhook that checks it has its certificate.
  wait_for 60 k -n knative-serving patch configmap "config-$1" --type merge --patch "{\"data\": $2}"
}

# Knative's own answer to "where do I send requests?", right for every networking layer.
entry_of() { # SERVICE
  k get kingress "$1" -o 'jsonpath={.status.publicLoadBalancer.ingress[0].domainInternal}'
}

hello() {
  need_up
  local archive=$RUN/hello.tar entry
  python3 "$HERE/lib/oci_image.py" "$BIN/hello" "$archive"
  import_image "$archive" dev.local/hello:1
  wait_for 60 k apply -f "$HERE/manifests/hello.yaml"
  wait_for 90 k wait kservice/hello --for=condition=Ready --timeout=10s
  entry=$(entry_of hello)
  ask "$entry" "warm"
  wait_for 90 at_zero
  log "at zero"
  ask "$entry" "from zero"
  ask "$entry" "warm again"
  k delete kservice hello >/dev/null
}

ask() { # ENTRY WHAT
  log "$2: $(in_network curl --silent --show-error --fail --max-time 60 \
    --write-out '%{time_total}s' --header 'Host: hello.default.example.test' "http://$1/" | tr '\n' ' ')"
}

# No pod at all: a deployment of zero may still have one that is ending, and would answer.
at_zero() { [[ -z $(k get pods -l serving.knative.dev/service=hello -o name) ]]; }
