// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"net/netip"
	"slices"
	"strings"

	"cilium.local/cilium/internal/policy"
)

// ranges finds prefixes that seem to be about workloads or nodes.
func (l *linter) ranges(r *policy.Rule) {
	eachTerm(r, func(d policy.Direction, t policy.Term) {
		word := "from"
		if d == policy.Egress {
			word = "to"
		}
		for _, p := range t.Written() {
			prefix, except, ok := p.CIDR()
			if !ok {
				continue
			}
			if hit := meeting(l.Pods, prefix, except); len(hit) > 0 {
				l.report(PodRange, p.Path(), "%s %s the pods' addresses %s, but a prefix matches only what is outside the cluster: select pods by %sEndpoints",
					prefix, relation(prefix, hit[0]), joined(hit), word)
			}
			if hit := meeting(l.Nodes, prefix, except); len(hit) > 0 {
				l.report(NodeRange, p.Path(), "%s %s the nodes' addresses %s, but a prefix matches only what is outside the cluster: select nodes by %sNodes or %sEntities",
					prefix, relation(prefix, hit[0]), joined(hit), word, word)
			}
		}
	})
}

func relation(prefix, to netip.Prefix) string {
	if prefix.Bits() > to.Bits() {
		return "lies in"
	}
	return "covers"
}

// meeting returns the ranges that have addresses in common with the prefix which
// are not all excepted.
func meeting(ranges []netip.Prefix, prefix netip.Prefix, except []netip.Prefix) []netip.Prefix {
	var hit []netip.Prefix
	for _, r := range ranges {
		common := r
		if prefix.Bits() > r.Bits() {
			common = prefix
		}
		excepted := slices.ContainsFunc(except, func(e netip.Prefix) bool {
			return e.Bits() <= common.Bits() && e.Contains(common.Addr())
		})
		if prefix.Overlaps(r) && !excepted {
			hit = append(hit, r)
		}
	}
	return hit
}

// most is how many names or ranges one finding lists.
const most = 5

func joined(prefixes []netip.Prefix) string {
	var texts []string
	for i, p := range prefixes {
		if i == most {
			texts = append(texts, "…")
			break
		}
		text := p.String()
		if p.IsSingleIP() {
			text = p.Addr().String()
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}
