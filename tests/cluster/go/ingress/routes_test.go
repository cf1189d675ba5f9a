package main

import (
	"net/http/httptest"
	"testing"

	"k8s.io/apimachinery/pkg/util/intstr"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
)

func to(service string, percent int) v1alpha1.IngressBackendSplit {
	return v1alpha1.IngressBackendSplit{
		IngressBackend: v1alpha1.IngressBackend{ServiceName: service, ServicePort: intstr.FromInt32(80)},
		Percent:        percent,
	}
}

func path(prefix string, headers map[string]v1alpha1.HeaderMatch, service string) v1alpha1.HTTPIngressPath {
	return v1alpha1.HTTPIngressPath{Path: prefix, Headers: headers, Splits: []v1alpha1.IngressBackendSplit{to(service, 100)}}
}

func rule(visibility v1alpha1.IngressVisibility, host string, paths ...v1alpha1.HTTPIngressPath) v1alpha1.IngressRule {
	return v1alpha1.IngressRule{Hosts: []string{host}, Visibility: visibility, HTTP: &v1alpha1.HTTPIngressRuleValue{Paths: paths}}
}

func tableOf(rules ...v1alpha1.IngressRule) *table {
	t := &table{}
	t.replace([]*v1alpha1.Ingress{{Spec: v1alpha1.IngressSpec{Rules: rules}}})
	return t
}

// A host of the cluster is served on the internal entry alone; an external one on both.
func TestVisibility(t *testing.T) {
	routes := tableOf(
		rule(v1alpha1.IngressVisibilityExternalIP, "out.test", path("", nil, "out")),
		rule(v1alpha1.IngressVisibilityClusterLocal, "in.test", path("", nil, "in")))
	for _, c := range []struct {
		entry byHost
		host  string
		found bool
	}{
		{routes.external(), "out.test", true},
		{routes.external(), "in.test", false},
		{routes.internal(), "out.test", true},
		{routes.internal(), "in.test:80", true},
		{routes.internal(), "nobody.test", false},
	} {
		if got := c.entry.find(httptest.NewRequest("GET", "http://"+c.host+"/", nil)); (got != nil) != c.found {
			t.Errorf("%s: found %v, want %v", c.host, got != nil, c.found)
		}
	}
}

// The longest path wins, and of two equal ones that whose headers match.
func TestMostSpecificPathWins(t *testing.T) {
	tag := map[string]v1alpha1.HeaderMatch{"Knative-Serving-Tag": {Exact: "canary"}}
	routes := tableOf(rule(v1alpha1.IngressVisibilityExternalIP, "a.test",
		path("/", nil, "plain"), path("/", tag, "tagged"), path("/deep", nil, "deep")))
	for _, c := range []struct{ path, tag, want string }{
		{"/", "", "plain"}, {"/", "canary", "tagged"}, {"/", "other", "plain"}, {"/deep/er", "", "deep"},
	} {
		request := httptest.NewRequest("GET", "http://a.test"+c.path, nil)
		request.Header.Set("Knative-Serving-Tag", c.tag)
		if got := routes.external().find(request).Splits[0].ServiceName; got != c.want {
			t.Errorf("%s with tag %q went to %s, want %s", c.path, c.tag, got, c.want)
		}
	}
}

// Each split gets about its share, and one of zero percent gets nothing.
func TestPickFollowsThePercentages(t *testing.T) {
	count := map[string]int{}
	for range 10_000 {
		count[pick([]v1alpha1.IngressBackendSplit{to("none", 0), to("few", 20), to("many", 80)}).ServiceName]++
	}
	if count["none"] != 0 || count["few"] < 1_700 || count["few"] > 2_300 {
		t.Errorf("got %v", count)
	}
	if only := pick([]v1alpha1.IngressBackendSplit{to("only", 0)}); only.ServiceName != "only" {
		t.Errorf("a single split without a percentage must be taken")
	}
	if pick(nil) != nil {
		t.Errorf("nothing to pick from must be nil")
	}
}
