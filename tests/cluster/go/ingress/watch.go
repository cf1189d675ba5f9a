package main

import (
	"context"
	"errors"
	"log"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
	"knative.dev/networking/pkg/apis/networking"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	"knative.dev/networking/pkg/client/clientset/versioned"
	"knative.dev/networking/pkg/client/informers/externalversions"
)

// class is what config-network's ingress-class must say for Serving to hand its routes to this program.
const class = "cluster-test.ingress.networking.knative.dev"

// Names of the Services in front of this program; see manifests/ingress.yaml.
const (
	externalService = "ingress.knative-ingress.svc.cluster.local"
	internalService = "ingress-internal.knative-ingress.svc.cluster.local"
)

// watch keeps routes as the cluster's Ingresses say, and calls ready after the first pass.
func watch(ctx context.Context, client versioned.Interface, routes *table, ready func()) error {
	factory := externalversions.NewSharedInformerFactory(client, time.Minute)
	ingresses := factory.Networking().V1alpha1().Ingresses()
	// One pending wake-up is enough for any number of changes: each pass looks at everything.
	changed := make(chan struct{}, 1)
	wake := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	if _, err := ingresses.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { wake() },
		UpdateFunc: func(_, _ any) { wake() },
		DeleteFunc: func(any) { wake() },
	}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), ingresses.Informer().HasSynced) {
		return errors.New("the list of ingresses could not be read")
	}
	wake()
	for first := true; ; first = false {
		<-changed
		all, err := ingresses.Lister().List(labels.Everything())
		if err != nil {
			return err
		}
		ours := all[:0]
		for _, ing := range all {
			if ing.Annotations[networking.IngressClassAnnotationKey] == class && ing.DeletionTimestamp == nil {
				ours = append(ours, ing)
			}
		}
		// Routes first, status second: "ready" is true the moment it is said.
		routes.replace(ours)
		for _, ing := range ours {
			if err := report(ctx, client, ing); err != nil {
				log.Printf("status of %s/%s: %v", ing.Namespace, ing.Name, err)
				time.AfterFunc(time.Second, wake)
			}
		}
		if first {
			ready()
		}
	}
}

func report(ctx context.Context, client versioned.Interface, cached *v1alpha1.Ingress) error {
	if cached.IsReady() {
		return nil
	}
	ing := cached.DeepCopy()
	ing.Status.InitializeConditions()
	ing.Status.MarkNetworkConfigured()
	ing.Status.MarkLoadBalancerReady(
		[]v1alpha1.LoadBalancerIngressStatus{{DomainInternal: externalService}},
		[]v1alpha1.LoadBalancerIngressStatus{{DomainInternal: internalService}})
	ing.Status.ObservedGeneration = ing.Generation
	_, err := client.NetworkingV1alpha1().Ingresses(ing.Namespace).UpdateStatus(ctx, ing, metav1.UpdateOptions{})
	return err
}
