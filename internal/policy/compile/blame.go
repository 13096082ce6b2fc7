// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
)

// Blame is the element of a policy's rules that needs the most entries.
type Blame struct {
	Rule    *policy.Rule // nil when the policy has no rules
	Path    string       // of the element, within the rule
	Peer    string       // the element's selector that needs the most
	Others  int          // selectors of the element besides
	Columns int          // peers that the element is about
	Entries int          // for all of them

	most int // entries for Peer
	seen map[blamed]struct{}
}

// blamed is a peer that was counted, which several selectors may match.
type blamed struct {
	id        identity.ID
	namesOnly bool
}

// String tells it to people.
func (b Blame) String() string {
	if b.Rule == nil {
		return "no rule"
	}
	text := fmt.Sprintf("rule [%s] %s", b.Rule.Name(), b.Path)
	if origin := b.Rule.Origin.String(); origin != "" {
		text += " from " + origin
	}
	who := fmt.Sprintf("peer %s, which alone makes", b.Peer)
	if b.Others > 0 {
		who = fmt.Sprintf("peer %s and %d more, which alone make", b.Peer, b.Others)
	}
	return fmt.Sprintf("%s, %s %d entries for %d peers", text, who, b.Entries, b.Columns)
}

// Blame finds what makes a policy large: a long list of small peers is as large
// as one selector of many.
func (e *Engine) Blame(ref Ref) Blame {
	var worst Blame
	s := e.subjects[ref.Subject]
	if s == nil {
		return worst
	}
	for _, r := range s.rules {
		if r.rule.Audits() && !ref.Audit {
			continue
		}
		for _, b := range e.blameElements(s, r) {
			if b.Entries > worst.Entries {
				worst = *b
			}
		}
	}
	return worst
}

// blameElements counts for each element of a rule, in their order.
func (e *Engine) blameElements(s *subject, r *ruleState) []*Blame {
	var all []*Blame
	byPath := map[string]*Blame{}
	for _, attachments := range r.attachments {
		for _, a := range attachments {
			b := byPath[a.term.Path]
			if b == nil {
				b = &Blame{Rule: r.rule, Path: a.term.Path, Others: -1, seen: map[blamed]struct{}{}}
				byPath[a.term.Path] = b
				all = append(all, b)
			}
			e.blame(b, s, a)
		}
	}
	return all
}

func (e *Engine) blame(b *Blame, s *subject, a *attachment) {
	entries := 0
	count := func(protocol l4.Protocol, from, to uint16) {
		if protocol == l4.Any {
			entries++
			return
		}
		eachPrefix(from, to, func(uint16, uint8) { entries++ })
	}
	a.columns(func(id identity.ID) {
		peer := blamed{id, a.namesOnly}
		if _, again := b.seen[peer]; again {
			return
		}
		b.seen[peer] = struct{}{}
		if !a.namesOnly {
			b.Columns++
			a.term.EachPort(count)
		}
		a.term.EachNamedPort(e.destination(s, a, id), count)
	})
	b.Entries += entries
	if !a.namesOnly {
		b.Others++
	}
	if entries > b.most {
		b.most, b.Peer = entries, a.peerText()
	}
}

func (a *attachment) peerText() string {
	switch {
	case a.set != nil:
		return a.set.peer.String()
	case a.group == AnyWorkload:
		return "any workload"
	case a.group == AnyOutside:
		return "anything outside"
	}
	return "any"
}
