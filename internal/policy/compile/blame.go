// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
)

// Blame is the part of a policy that needs the most entries.
type Blame struct {
	Rule    *policy.Rule // nil when the policy has no rules
	Path    string       // of the element, within the rule
	Peer    string
	Columns int // peers that it is about
	Entries int // for all of them
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
	return fmt.Sprintf("%s, peer %s, which alone makes %d entries for %d peers", text, b.Peer, b.Entries, b.Columns)
}

// Blame finds what makes a policy large.
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
		for _, attachments := range r.attachments {
			for _, a := range attachments {
				if b := e.blame(s, a); b.Entries > worst.Entries {
					worst = b
				}
			}
		}
	}
	return worst
}

func (e *Engine) blame(s *subject, a *attachment) Blame {
	b := Blame{Rule: a.rule.rule, Path: a.term.Path, Peer: a.peerText()}
	count := func(protocol l4.Protocol, from, to uint16) {
		if protocol == l4.Any {
			b.Entries++
			return
		}
		eachPrefix(from, to, func(uint16, uint8) { b.Entries++ })
	}
	a.columns(func(id identity.ID) {
		b.Columns++
		if !a.namesOnly {
			a.term.EachPort(count)
		}
		a.term.EachNamedPort(e.destination(s, a, id), count)
	})
	return b
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
