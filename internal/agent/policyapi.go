// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"

	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/identity"
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
	e := apiserver.Enforcement{AllowedIngress: peers(entries, policy.Ingress), AllowedEgress: peers(entries, policy.Egress)}
	e.Ingress, e.Egress = p.enforced(p.a.enforcer.Mode(), labels)
	return e
}

// peers lists those that some entry of a direction allows.
func peers(entries compile.Entries, d policy.Direction) []identity.ID {
	seen := map[identity.ID]bool{}
	for key, verdict := range entries {
		if key.Direction == d && verdict.Allow {
			seen[key.Identity] = true
		}
	}
	return sorted(seen, func(a, b identity.ID) int { return int(a) - int(b) })
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
		entries, err := a.dp.Policies().Get(id)
		if err != nil {
			return nil, err
		}
		for _, key := range sorted(entries, compareKeys) {
			out = append(out, append([]string{text(id), owners[id].Name()}, a.entryColumns(key, entries[key])...))
		}
	}
	return out, nil
}

func (a *Agent) entryColumns(key compile.Key, v compile.Verdict) []string {
	peer, verdict, rule := "any", "deny", ""
	if key.Identity != identity.Unknown {
		peer = key.Identity.Name()
	}
	if v.Allow {
		verdict = "allow"
	}
	if v.Cookie != 0 {
		rule = strings.Join(a.rules.labelsOf(v.Cookie), " ")
	}
	direction := "ingress"
	if key.Direction == policy.Egress {
		direction = "egress"
	}
	return []string{direction, peer, key.Protocol.String(), portText(key), verdict, text(v.Precedence), rule}
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
