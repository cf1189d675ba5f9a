package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"
	"knative.dev/networking/pkg/apis/networking"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
)

// dialFor bounds how long a request waits for a connection to its service.
const dialFor = 10 * time.Second

type proxy struct{ http1, h2c *http.Transport }

func newProxy() *proxy {
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	return &proxy{
		// A service address stands for the activator when the revision is at zero and for its pods when
		// it is not, and is balanced per connection. A kept connection would miss both changes.
		http1: &http.Transport{DialContext: dial, DisableKeepAlives: true, DisableCompression: true},
		h2c:   &http.Transport{DialContext: dial, DisableCompression: true, Protocols: h2, IdleConnTimeout: 5 * time.Second},
	}
}

// dial tries again while nothing accepts: when a pod has just gone, the node's rules may still point
// at it. Nothing was sent yet, so another try is safe for any method.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialFor)
	defer cancel()
	for {
		conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, network, addr)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// handler serves the hosts that routes gives at the time of each request.
func (p *proxy) handler(routes func() byHost) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := routes().find(r)
		if path == nil {
			http.Error(w, "no route for "+r.Host, http.StatusNotFound)
			return
		}
		split := pick(path.Splits)
		if split == nil {
			http.Error(w, "the route has no backend", http.StatusServiceUnavailable)
			return
		}
		p.forward(w, r, path, split)
	})
}

func (p *proxy) forward(w http.ResponseWriter, r *http.Request, path *v1alpha1.HTTPIngressPath, split *v1alpha1.IngressBackendSplit) {
	port, transport := p.upstream(split.ServicePort)
	(&httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // streams go on as they come
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme = "http"
			pr.Out.URL.Host = net.JoinHostPort(split.ServiceName+"."+split.ServiceNamespace+".svc.cluster.local", port)
			pr.Out.Host = pr.In.Host
			if path.RewriteHost != "" {
				pr.Out.Host = path.RewriteHost
			}
			pr.SetXForwarded()
			// The activator knows the revision by these headers alone.
			for _, headers := range []map[string]string{path.AppendHeaders, split.AppendHeaders} {
				for name, value := range headers {
					pr.Out.Header.Set(name, value)
				}
			}
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil { // not the client's own hanging up
				log.Printf("%s %s%s: %v", r.Method, r.Host, r.URL.Path, err)
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	}).ServeHTTP(w, r)
}

// upstream gives the port to connect to, and the transport that speaks its protocol.
func (p *proxy) upstream(port intstr.IntOrString) (string, *http.Transport) {
	if port.IntValue() == networking.ServiceHTTP2Port || port.String() == networking.ServicePortNameH2C {
		return "81", p.h2c
	}
	if port.Type == intstr.String {
		return "80", p.http1
	}
	return port.String(), p.http1
}
