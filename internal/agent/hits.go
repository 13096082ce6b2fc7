// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/policy"
)

// Hits implements apiserver.Policy.
func (b *ruleBook) Hits() (*api.PolicyHits, error) {
	bySlot, err := b.counters.Hits()
	if err != nil {
		return nil, err
	}
	rules, revision := b.present()
	hits := &api.PolicyHits{Revision: revision, Rules: make([]api.RuleHits, 0, len(rules))}
	for _, r := range rules {
		h := bySlot[b.counters.Slot(r.Cookie)]
		row := ruleRow(r)
		row.Allowed = api.HitCount{Packets: h.AllowPackets, Bytes: h.AllowBytes}
		row.Denied = api.HitCount{Packets: h.DenyPackets, Bytes: h.DenyBytes}
		row.First, row.Last = h.First, h.Last
		hits.Rules = append(hits.Rules, row)
	}
	return hits, nil
}

func ruleRow(r *policy.Rule) api.RuleHits {
	return api.RuleHits{
		Name: r.Name(), Labels: r.LabelSet().Strings(), Origin: r.Origin.String(), Cookie: r.Cookie, Audit: r.Audits(),
	}
}
