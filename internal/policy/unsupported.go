// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
)

// ErrUnsupported is what every error of Unsupported wraps.
var ErrUnsupported = errors.New("not enforced by this version")

// Unsupported names every part of the rule that would have no effect, so that it
// can be refused instead of being accepted and ignored. It returns nil when all
// of the rule is enforced.
func (r *Rule) Unsupported() error {
	var u unsupported
	u.add(r.NodeSelector != nil, "nodeSelector")
	for i := range r.Ingress {
		u.ingress(&r.Ingress[i], fmt.Sprintf("ingress[%d]", i))
	}
	for i := range r.IngressDeny {
		u.ingress(&r.IngressDeny[i], fmt.Sprintf("ingressDeny[%d]", i))
	}
	for i := range r.Egress {
		u.egress(&r.Egress[i], fmt.Sprintf("egress[%d]", i))
	}
	for i := range r.EgressDeny {
		u.egress(&r.EgressDeny[i], fmt.Sprintf("egressDeny[%d]", i))
	}
	return errors.Join(u...)
}

type unsupported []error

func (u *unsupported) add(used bool, path string) {
	if used {
		*u = append(*u, fmt.Errorf("%s: %w", path, ErrUnsupported))
	}
}

func (u *unsupported) ingress(s *IngressSpec, path string) {
	u.ports(s.ToPorts, path)
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
