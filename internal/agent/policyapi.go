// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"strings"

	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// policyAPI implements apiserver.Policy: the rules, and what they amount to.
type policyAPI struct {
	*ruleBook
	a *Agent
}

// Enforcement summarizes what the kernel has for an identity.
func (p policyAPI) Enforcement(id identity.ID) apiserver.Enforcement {
	entries, ok := p.a.enforcer.Entries(id)
	if !ok {
		return apiserver.Enforcement{}
	}
	labels := label.Set(nil)
	if known, ok := p.a.identities.Lookup(id); ok {
		labels = known.Labels
	}
	e := apiserver.Enforcement{
		AllowedIngress: p.allowed(entries, policy.Ingress), AllowedEgress: p.allowed(entries, policy.Egress),
	}
	e.Ingress, e.Egress = p.enforced(p.a.enforcer.Mode(), labels)
	return e
}

// allowed lists the peers that some port is open for in a direction: identity 0
// where any peer is, else each that is known.
func (p policyAPI) allowed(entries compile.Entries, d policy.Direction) []identity.ID {
	open := map[identity.ID]bool{}
	columns := map[identity.ID][]l4.Port{}
	for key := range entries {
		if key.Direction == d {
			columns[key.Identity] = append(columns[key.Identity], l4.Port{Protocol: key.Protocol, Number: key.Port})
		}
	}
	check := func(peer identity.ID, ports []l4.Port) {
		for _, port := range ports {
			if decision, ok := entries.Lookup(peer, d, port); ok && decision.Allow {
				open[peer] = true
			}
		}
	}
	for _, known := range p.a.identities.Identities() {
		check(known.ID, columns[known.ID])
		if class := compile.Class(known.ID); class != compile.AnyPeer {
			check(known.ID, columns[class])
		}
	}
	check(compile.AnyPeer, columns[compile.AnyPeer])
	return sorted(open, cmp.Compare[identity.ID])
}

// policyRows lists the entries of every policy that the kernel has.
func (a *Agent) policyRows() ([][]string, error) {
	ids, err := a.dp.Policies().IDs()
	if err != nil {
		return nil, err
	}
	owners := a.enforcer.Numbers()
	var out [][]string
	for _, id := range ids {
		owner := owners[id&^1].Name()
		if id&1 != 0 {
			owner += " audited"
		}
		entries, err := a.dp.Policies().Get(id)
		if err != nil {
			return nil, err
		}
		for _, key := range sorted(entries, compareKeys) {
			for _, columns := range a.entryRows(key, entries[key]) {
				out = append(out, append([]string{text(id), owner}, columns...))
			}
		}
	}
	return out, nil
}

// entryRows has a row for each tier that the entry says something of.
func (a *Agent) entryRows(key compile.Key, v compile.Value) [][]string {
	var rows [][]string
	for tier, c := range v {
		if c == 0 {
			continue
		}
		name, priority, rule := "default", "", ""
		if policy.Tier(tier) != compile.TierDefault {
			name, priority = policy.Tier(tier).String(), text(c.Priority())
		}
		if c.Cookie() != 0 {
			rule = strings.Join(a.rules.labelsOf(c.Cookie()), " ")
		}
		rows = append(rows, []string{
			key.Direction.String(), columnName(key.Identity), key.Protocol.String(), portText(key),
			name, priority, verdictText(c), rule,
		})
	}
	return rows
}

func columnName(column identity.ID) string {
	switch column {
	case compile.AnyPeer:
		return "any"
	case compile.AnyWorkload:
		return "any-workload"
	case compile.AnyOutside:
		return "any-outside"
	}
	return column.Name()
}

func verdictText(c compile.Candidate) string {
	switch c.Kind() {
	case policy.Allow:
		return "allow"
	case policy.Pass:
		return "pass"
	}
	switch c.Response() {
	case compile.ResponseICMP:
		return "deny-icmp"
	case compile.ResponseRST:
		return "deny-rst"
	}
	return "deny"
}

func portText(key compile.Key) string {
	switch key.PortBits {
	case 0:
		return "any"
	case 16:
		return text(key.Port)
	}
	return text(key.Port) + "-" + text(key.Port|(1<<(16-key.PortBits)-1))
}

func compareKeys(a, b compile.Key) int {
	for _, d := range []int{
		int(a.Direction) - int(b.Direction), int(a.Identity) - int(b.Identity),
		int(a.Protocol) - int(b.Protocol), int(a.Port) - int(b.Port), int(a.PortBits) - int(b.PortBits),
	} {
		if d != 0 {
			return d
		}
	}
	return 0
}
