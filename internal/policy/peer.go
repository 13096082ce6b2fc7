// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cilium.local/cilium/internal/label"
)

// Peer is one alternative for who the other end of a flow is.
type Peer struct {
	kind     peerKind
	path     string           // within the rule, such as ingress[0].fromEndpoints[1]; empty if expanded
	selector label.Selector   // of endpoints and nodes
	entity   string           // also the name of a port
	prefix   netip.Prefix     // of addresses outside
	except   []netip.Prefix   // inside prefix
	requires []label.Selector // of which the peer fails one
	service  *ServiceSpec
}

type peerKind uint8

const (
	peerEndpoints peerKind = iota
	peerNodes
	peerEntity
	peerCIDR
	peerService
	peerFailing    // whoever fails a requirement
	peerPortHolder // whoever gives the port name a number
)

// Group is a set of peers that is known without looking at labels.
type Group uint8

// The groups. A peer of GroupNone is found by its labels or its address.
const (
	GroupNone Group = iota
	GroupAll
	GroupWorkloads
	GroupOutside
)

// entities are the names of fixed groups of peers.
var entities = []string{
	"all", "world", "world-ipv4", "world-ipv6", "cluster", "host", "remote-node",
	"kube-apiserver", "init", "ingress", "health", "unmanaged", "none",
}

// worlds are the reserved labels of what is outside the cluster.
var worlds = []string{"world", "world-ipv4", "world-ipv6"}

// isOutside tells addresses outside the cluster: the world, and the parts of it
// that have labels of their own.
func isOutside(labels label.Set) bool {
	return slices.ContainsFunc(labels, func(l label.Label) bool {
		return l.Source == label.SourceCIDR || l.Source == label.SourceFQDN ||
			l.Source == label.SourceReserved && slices.Contains(worlds, l.Key)
	})
}

func hasReserved(labels label.Set, name string) bool {
	_, ok := labels.Get(label.SourceReserved, name)
	return ok
}

// isWorkload tells workloads, whose labels somebody chose, from everything that
// has a reserved identity. A health endpoint is a workload of ours.
func isWorkload(labels label.Set) bool {
	if isOutside(labels) {
		return false
	}
	for _, l := range labels {
		if l.Source == label.SourceReserved && l.Key != "health" {
			return false
		}
	}
	return true
}

// Matches reports whether the party is one of those that the peer stands for. A
// peer of services must be expanded first.
func (p *Peer) Matches(o *Party) bool {
	switch p.kind {
	case peerEndpoints:
		return selectsEndpoint(p.selector, o.Labels)
	case peerNodes:
		return (hasReserved(o.Labels, "host") || hasReserved(o.Labels, "remote-node")) && p.selector.Matches(o.Labels)
	case peerCIDR:
		return isOutside(o.Labels) && p.covers(o.prefix())
	case peerFailing:
		return slices.ContainsFunc(p.requires, func(s label.Selector) bool { return !selectsEndpoint(s, o.Labels) })
	case peerPortHolder:
		_, ok := namedPort(o.Labels, p.entity)
		return ok
	case peerEntity:
		return p.isEntity(o.Labels)
	}
	return false
}

// selectsEndpoint is a selector's word about workloads; what is none must be
// asked for by name.
func selectsEndpoint(s label.Selector, labels label.Set) bool {
	return (isWorkload(labels) || s.Names(label.SourceReserved)) && s.Matches(labels)
}

func (p *Peer) isEntity(labels label.Set) bool {
	switch p.entity {
	case "all":
		return true
	case "none":
		return false
	case "cluster":
		return !isOutside(labels)
	}
	return hasReserved(labels, p.entity)
}

// covers reports whether all of the addresses are in the prefix and not excepted.
func (p *Peer) covers(addrs netip.Prefix) bool {
	return addrs.IsValid() && within(p.prefix, addrs) &&
		!slices.ContainsFunc(p.except, func(e netip.Prefix) bool { return within(e, addrs) })
}

// within reports whether the inner prefix lies inside the outer one.
func within(outer, inner netip.Prefix) bool {
	return inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}

// prefix returns the addresses that the party stands for: its own, or those of
// its label. It is invalid when neither is known.
func (o *Party) prefix() netip.Prefix {
	if o.Addr.IsValid() {
		addr := o.Addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen())
	}
	return LabelledPrefix(o.Labels)
}

// LabelledPrefix returns the prefix that an identity of addresses outside stands
// for, and an invalid one for other identities.
func LabelledPrefix(labels label.Set) netip.Prefix {
	for _, l := range labels {
		if l.Source == label.SourceCIDR {
			prefix, _ := netip.ParsePrefix(l.Key)
			return prefix
		}
	}
	return netip.Prefix{}
}

// Group returns the group that the peer is, or GroupNone.
func (p *Peer) Group() Group {
	switch {
	case p.kind == peerEndpoints && len(p.selector.Requirements) == 0:
		return GroupWorkloads
	case p.kind == peerEntity && p.entity == "all":
		return GroupAll
	case p.kind == peerEntity && p.entity == "world":
		return GroupOutside
	}
	return GroupNone
}

// Key returns a text that only equal peers share.
func (p *Peer) Key() string {
	switch p.kind {
	case peerEndpoints, peerNodes:
		return fmt.Sprintf("%d %q", p.kind, p.selector.Requirements)
	case peerCIDR:
		return fmt.Sprintf("%d %s %s", p.kind, p.prefix, p.except)
	case peerFailing:
		return fmt.Sprintf("%d %q", p.kind, p.requires)
	}
	return fmt.Sprintf("%d %s", p.kind, p.entity)
}

// Clue helps to find the peers that a party is without asking each: every party
// that the peer matches has a label of the Key, with one of the Values if there
// are any, or an address in the Prefix. The zero Clue tells nothing.
type Clue struct {
	Key    string
	Values []string
	Prefix netip.Prefix
}

// Clue returns what is known of the parties that the peer matches.
func (p *Peer) Clue() Clue {
	switch p.kind {
	case peerEndpoints, peerNodes:
		for _, r := range p.selector.Requirements {
			if r.Operator == label.In {
				return Clue{Key: r.Key, Values: r.Values}
			}
		}
		for _, r := range p.selector.Requirements {
			if r.Operator == label.Exists {
				return Clue{Key: r.Key}
			}
		}
	case peerEntity:
		return Clue{Key: p.entity}
	case peerCIDR:
		return Clue{Prefix: p.prefix}
	case peerPortHolder:
		return Clue{Key: label.PortPrefix + p.entity}
	}
	return Clue{}
}

// String returns the peer for people.
func (p *Peer) String() string {
	switch p.kind {
	case peerNodes:
		return "nodes " + p.selector.String()
	case peerEntity:
		return "entity " + p.entity
	case peerService:
		return "service " + p.service.String()
	case peerCIDR:
		if len(p.except) == 0 {
			return p.prefix.String()
		}
		return fmt.Sprintf("%s except %s", p.prefix, joined(p.except, ", "))
	case peerFailing:
		return "whoever is not " + joined(p.requires, " and ")
	case peerPortHolder:
		return "whoever has a port " + p.entity
	}
	return p.selector.String()
}

// joined returns the values' texts with a separator.
func joined[T fmt.Stringer](values []T, separator string) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.String()
	}
	return strings.Join(texts, separator)
}

// clusterEntities are the reserved parts of the cluster that are no workloads.
var clusterEntities = []string{"host", "remote-node", "kube-apiserver", "init", "ingress", "unmanaged"}

// Expand returns peers that together stand for the same parties, each of which is
// found by a Group, a label or an address.
func (p *Peer) Expand(services []Service) []Peer {
	switch {
	case p.kind == peerService:
		return p.service.backends(services)
	case p.kind == peerEntity && p.entity == "none":
		return nil
	case p.kind == peerEntity && p.entity == "cluster":
		all := []Peer{{kind: peerEndpoints}}
		for _, name := range clusterEntities {
			all = append(all, Peer{kind: peerEntity, entity: name})
		}
		return all
	}
	return []Peer{*p}
}

// Prefixes returns the prefixes that the peer tells apart.
func (p *Peer) Prefixes() []netip.Prefix {
	if p.kind != peerCIDR {
		return nil
	}
	return append([]netip.Prefix{p.prefix}, p.except...)
}
