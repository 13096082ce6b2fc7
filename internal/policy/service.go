// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"

	"cilium.local/cilium/internal/label"
)

// Service is a service that rules can name, with who answers for it: workloads
// by their labels, and addresses outside.
type Service struct {
	Name, Namespace string
	Labels          label.Set
	Selector        *label.Selector // nil: no workloads
	Addresses       []netip.Prefix
}

// defaultNamespace is meant where a name comes without one.
const defaultNamespace = "default"

func namespaceOf(text string) string {
	if text == "" {
		return defaultNamespace
	}
	return text
}

// names reports whether the rule's words are about the service.
func (s *ServiceSpec) names(service *Service) bool {
	if s.K8sService != nil {
		return s.K8sService.ServiceName == service.Name &&
			namespaceOf(s.K8sService.Namespace) == namespaceOf(service.Namespace)
	}
	return namespaceOf(s.K8sServiceSelector.Namespace) == namespaceOf(service.Namespace) &&
		s.K8sServiceSelector.parsed.Matches(service.Labels)
}

// backends returns who answers for the services that the rule names.
func (s *ServiceSpec) backends(services []Service) []Peer {
	var peers []Peer
	for i := range services {
		service := &services[i]
		if !s.names(service) {
			continue
		}
		if service.Selector != nil {
			peers = append(peers, Peer{kind: peerEndpoints, selector: *service.Selector})
		}
		for _, prefix := range service.Addresses {
			peers = append(peers, Peer{kind: peerCIDR, prefix: prefix})
		}
	}
	return peers
}

// String returns the rule's words for people.
func (s *ServiceSpec) String() string {
	if s.K8sService != nil {
		return namespaceOf(s.K8sService.Namespace) + "/" + s.K8sService.ServiceName
	}
	return namespaceOf(s.K8sServiceSelector.Namespace) + "/" + s.K8sServiceSelector.parsed.String()
}

// serviceSpec is a service as it is written in a file.
type serviceSpec struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels"`
	Selector  *SelectorSpec     `json:"selector"`
	Addresses []string          `json:"addresses"`
}

// ParseServices reads a JSON or YAML list of services: name, namespace, labels,
// selector (of the workloads that answer) and addresses (outside, CIDRs or single
// ones). Mistakes are reported as Parse reports them.
func ParseServices(name string, data []byte) ([]Service, error) {
	var specs []serviceSpec
	d, err := decodeInto(name, data, &specs)
	if err != nil {
		return nil, err
	}
	services := make([]Service, 0, len(specs))
	for i, spec := range specs {
		services = append(services, d.service(spec, fmt.Sprintf("$[%d]", i)))
	}
	if len(d.errs) > 0 {
		return nil, d.err()
	}
	return services, nil
}

func (d *decoder) service(spec serviceSpec, path string) Service {
	s := Service{Name: spec.Name, Namespace: spec.Namespace}
	if spec.Name == "" {
		d.failAt(path, "name is missing")
	}
	labels := make([]label.Label, 0, len(spec.Labels))
	for _, key := range sortedKeys(spec.Labels) {
		labels = append(labels, label.Label{Source: label.SourceK8s, Key: key, Value: spec.Labels[key]})
	}
	s.Labels = label.NewSet(labels...)
	if spec.Selector != nil {
		selector := d.selector(*spec.Selector, path+".selector")
		s.Selector = &selector
	}
	for i, text := range spec.Addresses {
		s.Addresses = append(s.Addresses, d.cidr(text, fmt.Sprintf("%s.addresses[%d]", path, i)))
	}
	return s
}
