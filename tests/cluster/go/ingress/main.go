// Command ingress is the cluster's networking layer for Knative Serving: it turns Knative's own
// Ingress resources into routes, serves them, and says in their status that it does.
//
// It stands in for Kourier, whose Go module is not published where this cluster is built from.
// Everything behind it (activator, autoscaler, queue-proxy, webhooks) is the real Knative. What it
// keeps of Kourier is what a client can see: an external and a cluster-local entry, routing by host,
// path and header, traffic splits, HTTP/1.1, HTTP/2 without TLS, WebSocket, and streams that it
// neither buffers nor cuts. It has no TLS.
package main

import (
	"context"
	"log"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
	"knative.dev/networking/pkg/client/clientset/versioned"
)

// Ports of the two entries. Hosts that are visible in the cluster only are not served on the first.
const (
	externalAddr = ":8080"
	internalAddr = ":8081"
)

func main() {
	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatal(err)
	}
	routes := &table{}
	synced := make(chan struct{})
	go func() {
		log.Fatal(watch(context.Background(), versioned.NewForConfigOrDie(config), routes, func() { close(synced) }))
	}()
	// The readiness probe asks these ports: do not open them before there is something to serve.
	<-synced
	proxy := newProxy()
	go listen(externalAddr, proxy.handler(routes.external))
	listen(internalAddr, proxy.handler(routes.internal))
}

func listen(addr string, h http.Handler) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	// No read or write timeout: a task's output may stream for an hour.
	server := &http.Server{Addr: addr, Handler: h, Protocols: protocols, ReadHeaderTimeout: 30 * time.Second}
	log.Fatal(server.ListenAndServe())
}
