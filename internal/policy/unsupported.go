// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
)

// ErrUnsupported is what every error of Unsupported wraps.
var ErrUnsupported = errors.New("not enforced by this version")

// Unsupported names every part of the rule that would have no effect, so that it
// can be refused instead of being accepted and ignored. Each is an *Error; several
// are joined. It returns nil when all of the rule is enforced.
func (r *Rule) Unsupported() error { return errors.Join(r.unsupported...) }

// unenforcedFields are fields of Cilium that are not read at all, by what they are
// in. Unsupported names those that are read.
var unenforcedFields = map[reflect.Type][]string{
	reflect.TypeFor[IngressSpec](): {"authentication", "fromGroups"},
	reflect.TypeFor[EgressSpec]():  {"authentication", "toGroups"},
	reflect.TypeFor[CIDRSpec]():    {"cidrGroupRef", "cidrGroupSelector"},
	reflect.TypeFor[PortsSpec]():   {"listener", "originatingTLS", "terminatingTLS"},
	reflect.TypeFor[L7Spec]():      {"l7", "l7proto"},
	reflect.TypeFor[HeaderSpec]():  {"secret"},
}

// unsupported collects them with their places in the document.
type unsupported struct {
	*decoder
	found []error
}

func (d *decoder) unsupported(r *Rule, path string) []error {
	u := unsupported{decoder: d}
	u.add(r.NodeSelector != nil, path+".nodeSelector")
	u.add(r.EndpointSelector != nil && isAboutNoEndpoint(r.selector), path+".endpointSelector")
	for i := range r.Ingress {
		u.ports(r.Ingress[i].ToPorts, fmt.Sprintf("%s.ingress[%d]", path, i))
	}
	for i := range r.IngressDeny {
		u.ports(r.IngressDeny[i].ToPorts, fmt.Sprintf("%s.ingressDeny[%d]", path, i))
	}
	for i := range r.Egress {
		u.egress(&r.Egress[i], fmt.Sprintf("%s.egress[%d]", path, i))
	}
	for i := range r.EgressDeny {
		u.egress(&r.EgressDeny[i], fmt.Sprintf("%s.egressDeny[%d]", path, i))
	}
	return u.found
}

func (u *unsupported) add(used bool, path string) {
	if !used {
		return
	}
	n := u.closest(path)
	u.found = append(u.found, &Error{
		File: u.file, Line: n.line, Column: n.col, Path: shorten(path), Msg: ErrUnsupported.Error(), cause: ErrUnsupported,
	})
}

// isAboutNoEndpoint reports whether a selector demands a reserved label that no
// endpoint has, such as the host's: nobody with such a label has a policy.
func isAboutNoEndpoint(s label.Selector) bool {
	return slices.ContainsFunc(s.Requirements, func(r label.Requirement) bool {
		if r.Source != label.SourceReserved || r.Operator != label.In && r.Operator != label.Exists {
			return false
		}
		switch r.Key {
		case identity.Init.Name(), identity.Health.Name(), identity.Unmanaged.Name():
			return false
		}
		return true
	})
}

func (u *unsupported) egress(s *EgressSpec, path string) {
	u.add(s.ToFQDNs != nil, path+".toFQDNs")
	u.ports(s.ToPorts, path)
}

func (u *unsupported) ports(list []PortsSpec, path string) {
	for i := range list {
		at := fmt.Sprintf("%s.toPorts[%d]", path, i)
		u.add(list[i].Rules != nil, at+".rules")
		u.add(list[i].ServerNames != nil, at+".serverNames")
	}
}
