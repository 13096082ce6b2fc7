// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
)

// peerSet is the identities that a peer of some rules stands for. Rules with
// equal peers share one.
type peerSet struct {
	peer    policy.Peer
	key     string
	members map[identity.ID]struct{}
	uses    map[*attachment]struct{}
}

// member is a known identity with the sets that it is in.
type member struct {
	party policy.Party
	sets  []*peerSet
}

// peerSets holds all sets and all identities, and finds those that belong
// together without asking each: by a label or by the address.
type peerSets struct {
	byKey    map[string]*peerSet
	byClue   map[clue]map[*peerSet]struct{}
	byPrefix map[netip.Prefix]map[*peerSet]struct{}
	others   map[*peerSet]struct{} // that have no clue

	identities map[identity.ID]*member
	labelled   map[clue]map[identity.ID]struct{}
	addresses  prefixes
}

// clue is a label key, with a value or without.
type clue struct {
	key, value string
	any        bool // whatever value
}

func newPeerSets() peerSets {
	return peerSets{
		byKey:    map[string]*peerSet{},
		byClue:   map[clue]map[*peerSet]struct{}{},
		byPrefix: map[netip.Prefix]map[*peerSet]struct{}{},
		others:   map[*peerSet]struct{}{},

		identities: map[identity.ID]*member{},
		labelled:   map[clue]map[identity.ID]struct{}{},
		addresses:  newPrefixes(),
	}
}

// put adds to a set that is a value of a map.
func put[K, V comparable](m map[K]map[V]struct{}, key K, value V) {
	inner := m[key]
	if inner == nil {
		inner = map[V]struct{}{}
		m[key] = inner
	}
	inner[value] = struct{}{}
}

// drop removes from a set that is a value of a map, and the set when it is empty.
func drop[K, V comparable](m map[K]map[V]struct{}, key K, value V) {
	inner := m[key]
	delete(inner, value)
	if len(inner) == 0 {
		delete(m, key)
	}
}

// clues returns what a peer's parties have one of.
func clues(c policy.Clue) []clue {
	switch {
	case c.Key == "":
		return nil
	case len(c.Values) == 0:
		return []clue{{key: c.Key, any: true}}
	}
	all := make([]clue, len(c.Values))
	for i, value := range c.Values {
		all[i] = clue{key: c.Key, value: value}
	}
	return all
}

// labelClues calls visit for every clue that a party gives. One may come twice.
func labelClues(p *policy.Party, visit func(clue)) {
	for _, l := range p.Labels {
		visit(clue{key: l.Key, value: l.Value})
		visit(clue{key: l.Key, any: true})
	}
}

// acquire returns the set of a peer with one more use.
func (s *peerSets) acquire(peer policy.Peer, use *attachment) *peerSet {
	key := peer.Key()
	set := s.byKey[key]
	if set == nil {
		set = &peerSet{peer: peer, key: key, members: map[identity.ID]struct{}{}, uses: map[*attachment]struct{}{}}
		s.byKey[key] = set
		s.index(set)
		s.fill(set)
	}
	set.uses[use] = struct{}{}
	return set
}

func (s *peerSets) index(set *peerSet) {
	c := set.peer.Clue()
	found := clues(c)
	for _, one := range found {
		put(s.byClue, one, set)
	}
	switch {
	case c.Prefix.IsValid():
		put(s.byPrefix, c.Prefix, set)
	case len(found) == 0:
		s.others[set] = struct{}{}
	}
}

// release ends a use of a set; the last one removes it.
func (s *peerSets) release(set *peerSet, use *attachment) {
	delete(set.uses, use)
	if len(set.uses) > 0 {
		return
	}
	delete(s.byKey, set.key)
	c := set.peer.Clue()
	for _, one := range clues(c) {
		drop(s.byClue, one, set)
	}
	if c.Prefix.IsValid() {
		drop(s.byPrefix, c.Prefix, set)
	}
	delete(s.others, set)
	for id := range set.members {
		s.identities[id].leave(set)
	}
}

func (m *member) leave(set *peerSet) {
	for i, s := range m.sets {
		if s == set {
			last := len(m.sets) - 1
			m.sets[i] = m.sets[last]
			m.sets = m.sets[:last]
			return
		}
	}
}

// fill finds the members of a new set among the known identities.
func (s *peerSets) fill(set *peerSet) {
	c := set.peer.Clue()
	switch found := clues(c); {
	case c.Prefix.IsValid():
		s.addresses.within(c.Prefix, func(id identity.ID) { s.join(set, s.identities[id]) })
	case len(found) > 0:
		for _, one := range found {
			for id := range s.labelled[one] {
				s.join(set, s.identities[id])
			}
		}
	default:
		for _, m := range s.identities {
			s.join(set, m)
		}
	}
}

// join makes an identity a member of a set if it is one.
func (s *peerSets) join(set *peerSet, m *member) {
	if _, in := set.members[m.party.ID]; !in && set.peer.Matches(&m.party) {
		set.members[m.party.ID] = struct{}{}
		m.sets = append(m.sets, set)
	}
}

// add makes an identity known. It must not be known yet.
func (s *peerSets) add(id identity.Identity) *member {
	m := &member{party: policy.Party{ID: id.ID, Labels: id.Labels}}
	s.identities[id.ID] = m
	labelClues(&m.party, func(c clue) {
		put(s.labelled, c, id.ID)
		for set := range s.byClue[c] {
			s.join(set, m)
		}
	})
	if prefix := policy.LabelledPrefix(id.Labels); prefix.IsValid() {
		s.addresses.add(id.ID, prefix)
		for bits := range prefix.Bits() + 1 {
			wider, _ := prefix.Addr().Prefix(bits)
			for set := range s.byPrefix[wider] {
				s.join(set, m)
			}
		}
	}
	for set := range s.others {
		s.join(set, m)
	}
	return m
}

// remove forgets an identity and returns what it was.
func (s *peerSets) remove(id identity.ID) *member {
	m := s.identities[id]
	if m == nil {
		return nil
	}
	delete(s.identities, id)
	s.addresses.remove(id)
	labelClues(&m.party, func(c clue) { drop(s.labelled, c, id) })
	for _, set := range m.sets {
		delete(set.members, id)
	}
	return m
}
