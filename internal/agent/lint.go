// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"slices"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/lint"
)

// Lint implements apiserver.Policy.
func (p policyAPI) Lint(documents []apiserver.Document, replace bool) (*api.PolicyLint, error) {
	next, _, err := p.prospect(documents, replace)
	if err != nil {
		return nil, err
	}
	rules := next.Rules()
	world := p.a.ranges()
	world.Known, world.Services = true, p.a.policyOptions.Services
	// Identities of prefixes have no labels that a selector means.
	world.Identities = slices.DeleteFunc(p.a.identities.Identities(), func(id identity.Identity) bool {
		return !id.ID.HasPolicy() && !id.ID.IsReserved()
	})
	answer := &api.PolicyLint{Rules: len(rules), Findings: []api.PolicyFinding{}}
	for _, f := range lint.Lint(rules, world) {
		answer.Findings = append(answer.Findings, api.PolicyFinding{
			Check: string(f.Check), Severity: string(f.Severity), Rule: f.Rule, Origin: f.Origin, Path: f.Path, Text: f.Text,
		})
	}
	return answer, nil
}

// warnings tells of prefixes in new rules that are about what none matches, and of
// sections that close nothing.
func (a *Agent) warnings(rules []*policy.Rule) []string {
	var texts []string
	for _, f := range lint.OnImport(rules, a.ranges()) {
		texts = append(texts, f.Place()+": "+f.Text)
	}
	return texts
}

// ranges are the addresses of workloads and of nodes, here and elsewhere, but for the
// gateways, which are among the workloads'.
func (a *Agent) ranges() lint.World {
	var w lint.World
	for _, prefix := range []netip.Prefix{a.cfg.Network.IPv4Range, a.cfg.Network.IPv6Range} {
		if prefix.IsValid() {
			w.Pods = append(w.Pods, prefix.Masked())
		}
	}
	addrs, err := device.HostAddresses()
	if err != nil {
		a.log.Warn("rules are not held against the node's addresses", "error", err)
	}
	for _, addr := range addrs {
		if !slices.ContainsFunc(w.Pods, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			w.Nodes = append(w.Nodes, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	for _, n := range a.peers.all() {
		w.Pods = append(w.Pods, n.Ranges()...)
		for _, addr := range n.Underlay() {
			w.Nodes = append(w.Nodes, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	return w
}
