// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"

	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
)

// What follows compares rules without asking about flows. It may miss that one
// covers the other, but never says so wrongly.

// SelectsAllOf reports whether the rule selects everyone whom the other selects.
func (r *Rule) SelectsAllOf(other *Rule) bool {
	return r.EndpointSelector != nil && other.EndpointSelector != nil && endpointsImply(other.selector, r.selector)
}

// endpointsImply reports whether whoever one selector means as endpoints is meant
// by the other one.
func endpointsImply(s, other label.Selector) bool {
	return (other.Names(label.SourceReserved) || !s.Names(label.SourceReserved)) && s.Implies(other)
}

// Covers reports whether the term is about every flow of a direction that the
// other term is about, for the same subject.
func (t Term) Covers(other Term, services []Service) bool {
	return t.coversPorts(other.inner.ports) && t.coversPeers(other, services)
}

// IsAboutNobody reports whether the term matches no peer at all.
func (t Term) IsAboutNobody(services []Service) bool {
	return !t.inner.anyPeer && !slices.ContainsFunc(t.Peers(services), func(p Peer) bool { return !p.IsNobody() })
}

// IsNobody reports of an expanded peer that no party is it.
func (p *Peer) IsNobody() bool {
	switch p.kind {
	case peerEndpoints, peerNodes:
		return p.selector.Impossible()
	case peerCIDR:
		return !p.covers(p.prefix)
	case peerFailing:
		return len(p.requires) == 0
	}
	return false
}

func (t Term) coversPeers(other Term, services []Service) bool {
	if t.inner.anyPeer {
		return true
	}
	mine := t.Peers(services)
	if other.inner.anyPeer {
		return slices.ContainsFunc(mine, func(p Peer) bool { return p.Group() == GroupAll })
	}
	return !slices.ContainsFunc(other.Peers(services), func(o Peer) bool {
		return !o.IsNobody() && !slices.ContainsFunc(mine, func(p Peer) bool { return p.includes(&o) })
	})
}

// includes reports whether the peer stands for everyone that the other stands for.
// Both must be expanded.
func (p *Peer) includes(o *Peer) bool {
	switch p.kind {
	case peerEndpoints:
		return o.kind == peerEndpoints && endpointsImply(o.selector, p.selector)
	case peerNodes:
		return o.kind == peerNodes && o.selector.Implies(p.selector)
	case peerEntity:
		return p.includesEntity(o)
	case peerCIDR:
		return o.kind == peerCIDR && p.includesPrefix(o)
	case peerFailing:
		return p.failsAll(o)
	}
	return false
}

// includesEntity relies on it that whatever is outside has the label of the world.
func (p *Peer) includesEntity(o *Peer) bool {
	switch {
	case p.entity == "all", o.kind == peerEntity && o.entity == p.entity:
		return true
	case p.entity == "world":
		return o.kind == peerCIDR || o.kind == peerEntity && slices.Contains(worlds, o.entity)
	}
	return false
}

// includesPrefix wants each exception to be without effect on the other peer, or
// an exception there too.
func (p *Peer) includesPrefix(o *Peer) bool {
	return within(p.prefix, o.prefix) && !slices.ContainsFunc(p.except, func(e netip.Prefix) bool {
		return e.Overlaps(o.prefix) && !slices.ContainsFunc(o.except, func(other netip.Prefix) bool { return within(other, e) })
	})
}

// failsAll reports whether everyone of the other peer fails a requirement.
func (p *Peer) failsAll(o *Peer) bool {
	if o.kind == peerFailing {
		return !slices.ContainsFunc(o.requires, func(other label.Selector) bool {
			return !slices.ContainsFunc(p.requires, func(s label.Selector) bool { return endpointsImply(s, other) })
		})
	}
	return slices.ContainsFunc(p.requires, func(s label.Selector) bool {
		switch o.kind {
		case peerEndpoints:
			both := label.Selector{Requirements: slices.Concat(s.Requirements, o.selector.Requirements)}
			return both.Impossible()
		case peerEntity:
			return !s.Names(label.SourceReserved) && !slices.Contains([]string{"all", "cluster", "health"}, o.entity)
		case peerNodes, peerCIDR:
			return !s.Names(label.SourceReserved)
		}
		return false
	})
}

func (t Term) coversPorts(others []portRange) bool {
	mine := t.inner.ports
	if len(mine) == 0 || slices.ContainsFunc(mine, func(r portRange) bool { return r.name == "" && r.protocol == l4.Any }) {
		return true
	}
	return len(others) > 0 && !slices.ContainsFunc(others, func(o portRange) bool { return !coversRange(mine, o) })
}

// coversRange reports whether ranges cover another one together.
func coversRange(ranges []portRange, o portRange) bool {
	switch {
	case o.name == "":
		return o.protocol != l4.Any && coversNumbers(ranges, o.protocol, o.from, o.to)
	case slices.ContainsFunc(ranges, func(r portRange) bool {
		return r.name == o.name && (r.protocol == l4.Any || r.protocol == o.protocol)
	}):
		return true
	case o.protocol != l4.Any:
		return coversNumbers(ranges, o.protocol, 1, lastPort)
	}
	return coversNumbers(ranges, l4.TCP, 1, lastPort) && coversNumbers(ranges, l4.UDP, 1, lastPort) &&
		coversNumbers(ranges, l4.SCTP, 1, lastPort)
}

func coversNumbers(ranges []portRange, protocol l4.Protocol, from, to uint16) bool {
	next := int(from)
	for advanced := true; advanced && next <= int(to); {
		advanced = false
		for _, r := range ranges {
			if r.name == "" && r.protocol == protocol && int(r.from) <= next && int(r.to) >= next {
				next, advanced = int(r.to)+1, true
			}
		}
	}
	return next > int(to)
}
