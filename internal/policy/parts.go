// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
)

// What follows takes rules apart for whoever judges them without a flow.

// Written returns the term's peers as the rule has them, services among them.
func (t Term) Written() []Peer { return t.inner.peers }

// Path returns where in its rule the peer is written, such as
// ingress[0].fromEndpoints[1]. It is empty for one that Expand made.
func (p *Peer) Path() string { return p.path }

// Selector returns the selector of a peer that is one of endpoints or nodes.
func (p *Peer) Selector() (label.Selector, bool) {
	return p.selector, p.kind == peerEndpoints || p.kind == peerNodes
}

// Requires returns what a peer that stands for whoever fails a requirement
// requires, in the order of the rule.
func (p *Peer) Requires() []label.Selector { return p.requires }

// CIDR returns the prefix of a peer by address, without its exceptions.
func (p *Peer) CIDR() (prefix netip.Prefix, except []netip.Prefix, ok bool) {
	return p.prefix, p.except, p.kind == peerCIDR
}

// Service returns the rule's words of a peer that is one of services, else nil.
func (p *Peer) Service() *ServiceSpec {
	if p.kind != peerService {
		return nil
	}
	return p.service
}

// Names reports whether the rule's words are about the service.
func (s *ServiceSpec) Names(service Service) bool { return s.names(&service) }

// FullName returns namespace/name.
func (s Service) FullName() string { return namespaceOf(s.Namespace) + "/" + s.Name }

// NamedPort returns the port that the labels of a workload give a name.
func NamedPort(labels label.Set, name string) (l4.Port, bool) { return namedPort(labels, name) }

// IsPortName reports whether the text in a rule is a port's name, not a number.
func IsPortName(text string) bool { return isPortName(text) }
