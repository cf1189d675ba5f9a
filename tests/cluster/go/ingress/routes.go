package main

import (
	"math/rand/v2"
	"net/http"
	"sort"
	"strings"
	"sync/atomic"

	"knative.dev/networking/pkg/apis/networking/v1alpha1"
)

// byHost holds the paths of each host, the most specific first.
type byHost map[string][]v1alpha1.HTTPIngressPath

type snapshot struct{ external, internal byHost }

// table is replaced as a whole, so that a request never sees half an update.
type table struct{ current atomic.Pointer[snapshot] }

func (t *table) external() byHost { return t.current.Load().external }
func (t *table) internal() byHost { return t.current.Load().internal }

func (t *table) replace(ingresses []*v1alpha1.Ingress) {
	next := &snapshot{external: byHost{}, internal: byHost{}}
	for _, ing := range ingresses {
		for _, rule := range ing.Spec.Rules {
			if rule.HTTP == nil {
				continue
			}
			for _, host := range rule.Hosts {
				next.internal[host] = append(next.internal[host], rule.HTTP.Paths...)
				if rule.Visibility != v1alpha1.IngressVisibilityClusterLocal {
					next.external[host] = append(next.external[host], rule.HTTP.Paths...)
				}
			}
		}
	}
	for _, hosts := range []byHost{next.external, next.internal} {
		for _, paths := range hosts {
			// A path that also asks for headers (a tag of a route) wins over the same path without.
			sort.SliceStable(paths, func(i, j int) bool {
				if len(paths[i].Path) != len(paths[j].Path) {
					return len(paths[i].Path) > len(paths[j].Path)
				}
				return len(paths[i].Headers) > len(paths[j].Headers)
			})
		}
	}
	t.current.Store(next)
}

// find gives the path that serves r, or nil.
func (hosts byHost) find(r *http.Request) *v1alpha1.HTTPIngressPath {
	host, _, _ := strings.Cut(r.Host, ":")
	for i, path := range hosts[strings.ToLower(host)] {
		if strings.HasPrefix(r.URL.Path, path.Path) && matches(path.Headers, r.Header) {
			return &hosts[strings.ToLower(host)][i]
		}
	}
	return nil
}

func matches(want map[string]v1alpha1.HeaderMatch, have http.Header) bool {
	for name, match := range want {
		if have.Get(name) != match.Exact {
			return false
		}
	}
	return true
}

// pick chooses one of the splits by its percentage. A single split may leave the number out.
func pick(splits []v1alpha1.IngressBackendSplit) *v1alpha1.IngressBackendSplit {
	if len(splits) == 0 {
		return nil
	}
	roll := rand.IntN(100)
	for i := range splits {
		if roll -= splits[i].Percent; roll < 0 {
			return &splits[i]
		}
	}
	return &splits[len(splits)-1]
}
