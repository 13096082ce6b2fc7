// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"cmp"
	"net/netip"
	"slices"

	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// place is a term with the rule that it is in.
type place struct {
	*side
	order int // in the rule
	term  policy.Term
}

// places finds the terms of a direction that may cover another one without
// comparing it with every one: by a label or prefix that each of their peers has.
type places struct {
	byLabel  map[clue][]place
	byPrefix map[netip.Prefix][]place
	others   []place
}

func newPlaces(sides []*side, d policy.Direction) places {
	p := places{byLabel: map[clue][]place{}, byPrefix: map[netip.Prefix][]place{}}
	for _, s := range sides {
		for i, t := range s.terms[d] {
			p.add(place{s, i, t})
		}
	}
	return p
}

func (p *places) add(at place) {
	written := at.term.Written()
	if at.term.AnyPeer() || slices.ContainsFunc(written, func(peer policy.Peer) bool { return !hasClue(&peer) }) {
		p.others = append(p.others, at)
		return
	}
	for _, peer := range written {
		if prefix, _, ok := peer.CIDR(); ok {
			p.byPrefix[prefix] = append(p.byPrefix[prefix], at)
			continue
		}
		first := wanted(&peer)[0]
		for _, value := range first.Values {
			key := clue{first.Key, value}
			p.byLabel[key] = append(p.byLabel[key], at)
		}
	}
}

// of returns the terms that may cover another one, in the order of import.
func (p *places) of(t policy.Term, services []policy.Service) []place {
	all := slices.Clone(p.others)
	// Whatever covers the term has a peer that includes its first one which is somebody.
	if peers := t.Peers(services); !t.AnyPeer() && len(peers) > 0 {
		at := slices.IndexFunc(peers, func(peer policy.Peer) bool { return !peer.IsNobody() })
		first := &peers[max(at, 0)]
		for _, r := range wanted(first) {
			all = append(all, p.byLabel[clue{r.Key, r.Values[0]}]...)
		}
		if prefix, _, ok := first.CIDR(); ok {
			for bits := range prefix.Bits() + 1 {
				wider, _ := prefix.Addr().Prefix(bits)
				all = append(all, p.byPrefix[wider]...)
			}
		}
	}
	slices.SortFunc(all, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.order, b.order))
	})
	return all
}

// hasClue reports whether a peer is found by a label or a prefix.
func hasClue(p *policy.Peer) bool {
	_, _, ok := p.CIDR()
	return ok || len(wanted(p)) > 0
}

// wanted returns the requirements of a peer's selector that want one of some values.
func wanted(p *policy.Peer) []label.Requirement {
	s, _ := p.Selector()
	return demanded(s)
}

func demanded(s label.Selector) []label.Requirement {
	return slices.DeleteFunc(slices.Clone(s.Requirements), func(r label.Requirement) bool {
		return r.Operator != label.In || len(r.Values) == 0
	})
}
