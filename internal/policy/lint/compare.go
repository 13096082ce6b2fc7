// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// side is a rule taken apart, to be compared with others.
type side struct {
	*policy.Rule
	index    int // in the order of import
	tier     policy.Tier
	priority int
	terms    [2][]policy.Term
	dropped  bool // reported as shadowed: it covers nothing any more
}

// compare finds rules and elements that others make superfluous. It goes from the
// last rule to the first, and a rule that is reported covers no other one, so that
// all that are reported can be removed together.
func (l *linter) compare() {
	sides := make([]*side, len(l.rules))
	passes := map[policy.Tier]bool{}
	for i, r := range l.rules {
		s := &side{Rule: r, index: i}
		s.tier, s.priority = r.Place()
		for _, d := range directions {
			s.terms[d] = r.Terms(d)
		}
		passes[s.tier] = passes[s.tier] || r.Verdict == "pass"
		sides[i] = s
	}
	all := newCandidates(sides)
	terms := [2]places{policy.Ingress: newPlaces(sides, policy.Ingress), policy.Egress: newPlaces(sides, policy.Egress)}
	for _, s := range slices.Backward(sides) {
		l.at = s.index
		c := comparison{linter: l, passes: passes, rivals: all.of(s), terms: &terms}
		if denied := c.denied(s); !denied {
			c.shadowed(s)
		}
	}
}

// comparison holds one rule against those that select all that it selects.
type comparison struct {
	*linter
	passes map[policy.Tier]bool // tiers that a rule can leave
	rivals []*side
	terms  *[2]places
}

// denied reports allows of which everything is denied before.
func (c comparison) denied(s *side) (any bool) {
	for _, d := range directions {
		for _, t := range s.terms[d] {
			if t.Kind != policy.Allow || t.IsAboutNobody(c.Services) {
				continue
			}
			if text := c.denial(s, d, t); text != "" {
				c.report(Denied, t.Path, "it allows nothing, because %s: remove it, or narrow what denies it", text)
				any = true
			}
		}
	}
	return any
}

// denial says what denies all that a term allows; empty if nothing does.
func (c comparison) denial(s *side, d policy.Direction, t policy.Term) string {
	_, own := c.cover(s, d, t, func(rival *side, other policy.Term) bool {
		return rival == s && other.Kind == policy.Deny && strings.HasPrefix(other.Path, t.Path+".")
	})
	if own.Path != "" {
		return "all of its own peers fail " + own.Path
	}
	by, denial := c.cover(s, d, t, func(rival *side, other policy.Term) bool {
		return other.Kind == policy.Deny && c.comesBefore(rival, other, s, t)
	})
	switch by {
	case nil:
		return ""
	case s:
		return denial.Path + " of the same rule denies all of it"
	}
	return fmt.Sprintf("%s of rule %s denies all of it", denial.Path, named(by))
}

func named(s *side) string {
	text := "[" + s.Name() + "]"
	if origin := s.Origin.String(); origin != "" {
		text += " at " + origin
	}
	return text
}

// shadowed reports a rule without which every verdict would be the same: others
// cover each of its terms, and close what it closes.
func (c comparison) shadowed(s *side) {
	var by []*side
	for _, d := range directions {
		if s.Closes(d) && !c.closed(s, d) {
			return
		}
		for _, t := range s.terms[d] {
			if t.IsAboutNobody(c.Services) {
				continue
			}
			rival, _ := c.cover(s, d, t, func(rival *side, other policy.Term) bool {
				return rival != s && (c.comesBefore(rival, other, s, t) || decidesAlike(rival, other, s, t))
			})
			if rival == nil {
				return
			}
			if !slices.Contains(by, rival) {
				by = append(by, rival)
			}
		}
	}
	if len(by) == 0 {
		return
	}
	s.dropped = true
	slices.SortFunc(by, func(a, b *side) int { return cmp.Compare(a.index, b.index) })
	names := make([]string, 0, most)
	for i, rival := range by {
		if i == most {
			names = append(names, "…")
			break
		}
		names = append(names, named(rival))
	}
	c.report(Shadowed, "", "without it every verdict would be the same: rule %s covers it; remove it, or narrow what covers it", strings.Join(names, " and "))
}

// closed reports whether another rule closes the direction for all that this one
// closes it for.
func (c comparison) closed(s *side, d policy.Direction) bool {
	return slices.ContainsFunc(c.rivals, func(rival *side) bool {
		return rival != s && !rival.dropped && rival.Closes(d) && inForce(rival, s) && rival.SelectsAllOf(s.Rule)
	})
}

// inForce reports whether a rule has a say wherever the other one has: one that is
// only audited has none in enforcement.
func inForce(rival, s *side) bool { return !rival.Audits() || s.Audits() }

// cover finds a term of a rule that select all of the subject's, which matches all
// that the term matches, and stands to it as the caller wants.
func (c comparison) cover(s *side, d policy.Direction, t policy.Term, stands func(*side, policy.Term) bool) (*side, policy.Term) {
	for _, at := range c.candidates(d, t) {
		if !at.dropped && inForce(at.side, s) && stands(at.side, at.term) &&
			(at.side == s || at.SelectsAllOf(s.Rule)) && at.term.Covers(t, c.Services) {
			return at.side, at.term
		}
	}
	return nil, policy.Term{}
}

// candidates returns the terms of rivals, or those with similar peers if they may
// be fewer.
func (c comparison) candidates(d policy.Direction, t policy.Term) []place {
	const few = 8
	if len(c.rivals) > few {
		return c.terms[d].of(t, c.Services)
	}
	var all []place
	for _, rival := range c.rivals {
		for i, term := range rival.terms[d] {
			all = append(all, place{rival, i, term})
		}
	}
	return all
}

// comesBefore reports whether the rival's term is asked first, so that the other
// has no say about what both match.
func (c comparison) comesBefore(rival *side, other policy.Term, s *side, t policy.Term) bool {
	if rival.tier != s.tier {
		// What is in a tier before decides, unless a rule there leaves it.
		return rival.tier < s.tier && other.Kind != policy.Pass && !c.passes[rival.tier]
	}
	return cmp.Or(
		cmp.Compare(rival.priority, s.priority), cmp.Compare(t.Kind, other.Kind), cmp.Compare(rival.index, s.index),
	) < 0
}

// decidesAlike reports whether the rival's term, though later, would decide the
// same in the other's place.
func decidesAlike(rival *side, other policy.Term, s *side, t policy.Term) bool {
	return rival.tier == s.tier && rival.priority == s.priority && other.Kind == t.Kind &&
		(t.Kind != policy.Deny || rival.DenyResponse == s.DenyResponse)
}

// candidates finds the rules that may select all that another selects without
// comparing it with every one: by a label that the rule demands.
type candidates struct {
	byLabel map[clue][]*side
	others  []*side
}

type clue struct{ key, value string }

func newCandidates(sides []*side) candidates {
	c := candidates{byLabel: map[clue][]*side{}}
	for _, s := range sides {
		demanded := demands(s.Rule)
		if len(demanded) == 0 {
			c.others = append(c.others, s)
			continue
		}
		for _, value := range demanded[0].Values {
			at := clue{demanded[0].Key, value}
			if known := c.byLabel[at]; len(known) == 0 || known[len(known)-1] != s {
				c.byLabel[at] = append(known, s)
			}
		}
	}
	return c
}

// of returns the candidates in the order of import. The rule itself is one.
func (c candidates) of(s *side) []*side {
	all := slices.Clone(c.others)
	for _, r := range demands(s.Rule) {
		all = append(all, c.byLabel[clue{r.Key, r.Values[0]}]...)
	}
	all = append(all, s)
	slices.SortFunc(all, func(a, b *side) int { return cmp.Compare(a.index, b.index) })
	return slices.Compact(all)
}

// demands returns the requirements of a rule's subject that want one of some values.
func demands(r *policy.Rule) []label.Requirement {
	subject := r.Subject()
	s, _ := subject.Selector()
	return demanded(s)
}
