// SPDX-License-Identifier: Apache-2.0

package engines_test

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/lint"
	"cilium.local/cilium/test/vectors"
)

// How many worlds are looked at.
const (
	lintedWorlds      = 500
	quickLintedWorlds = 60
)

// TestLintIsNeverWrong removes all rules at once that lint says to be without
// effect, and wants every verdict to be the same; and looks for elements that
// decide although lint says that they never do.
func TestLintIsNeverWrong(t *testing.T) {
	found, worlds := map[lint.Check]int{}, uint64(lintedWorlds)
	if testing.Short() {
		worlds = quickLintedWorlds
	}
	for seed := range worlds {
		s := generate(seed)
		g := s.relate()
		doc := s.document(s.subjects[0])
		c, err := doc.Build("lint")
		must(t, err)
		findings := lint.Lint(c.Rules, lint.World{Known: true, Identities: c.Identities, Services: c.Options.Services})
		dead := map[string]bool{} // elements, by the rule's origin and the path
		left := c.Rules
		for _, f := range findings {
			found[f.Check]++
			switch f.Check {
			case lint.Shadowed:
				left = slices.DeleteFunc(slices.Clone(left), func(r *policy.Rule) bool { return r.Origin.String() == f.Origin })
			case lint.Denied, lint.NeverMatches:
				dead[f.Origin+" "+f.Path] = true
			}
		}
		if len(left) == len(c.Rules) && len(dead) == 0 {
			continue
		}
		for _, f := range g.everyFlow(&c, s) {
			before, after := policy.Decide(c.Rules, c.Options, f), policy.Decide(left, c.Options, f)
			for i, side := range before.Sides {
				if side.Rule != nil && dead[side.Rule.Origin.String()+" "+side.Path] {
					t.Fatalf("seed %d: %s is said to have no effect, but decides %s -> %s %s", seed, side.Path, f.Source, f.Dest, f.Port)
				}
				if verdictsOf(side) != verdictsOf(after.Sides[i]) {
					text, _ := json.MarshalIndent(s.rules, "", " ")
					t.Fatalf("seed %d: %s -> %s %s: %+v, without the shadowed rules %+v\n%v\n%s",
						seed, f.Source, f.Dest, f.Port, side, after.Sides[i], findings, text)
				}
			}
		}
	}
	t.Logf("found %v", found)
	for _, check := range []lint.Check{lint.Shadowed, lint.Denied, lint.NeverMatches} {
		if uint64(found[check]) < worlds/20 {
			t.Errorf("only %d times %s in %d worlds", found[check], check, worlds)
		}
	}
}

// relate makes some rules like others, so that they have to do with each other.
func (s *scenario) relate() *generator {
	g := &generator{Rand: rand.New(rand.NewPCG(s.seed, 5)), ports: []int{0, 80, 65535}}
	g.drawPrefixes()
	for range 1 + g.IntN(3) {
		like := maps.Clone(s.rules[g.IntN(len(s.rules))].(object))
		switch section := pick(g, "ingress", "egress"); g.IntN(6) {
		case 0:
			like["endpointSelector"] = object{}
		case 1:
			like["endpointSelector"] = g.subject()
		case 2:
			if like["verdict"] == nil && like[section] != nil {
				like[section+"Deny"] = like[section]
				delete(like, section)
			}
		case 3:
			like["priority"] = pick(g, -1, 0, 1)
		case 4:
			if list, _ := like[section].([]any); len(list) > 0 {
				like[section] = list[:1]
			}
		}
		s.rules = append(s.rules, like)
	}
	return g
}

// verdictsOf is what a side comes to, with and without rules that are only audited.
func verdictsOf(s policy.Side) [2]bool {
	if s.Audit != nil {
		return [2]bool{s.Allowed, s.Audit.Allowed}
	}
	return [2]bool{s.Allowed, s.Allowed}
}

// everyFlow returns flows from and to the case's workloads, by ports that its
// flows use, and by others.
func (g *generator) everyFlow(c *vectors.Case, s *scenario) []policy.Flow {
	var ports []l4.Port
	for _, text := range s.flows {
		port, err := l4.ParsePort(strings.Fields(text)[2])
		if err == nil && !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	var flows []policy.Flow
	for _, name := range s.subjects {
		subject, err := c.Party(name)
		if err != nil {
			continue
		}
		subject.Local = true
		for _, other := range g.somebody(c) {
			for range 8 {
				port := ports[g.IntN(len(ports))]
				flows = append(flows, policy.Flow{Source: subject, Dest: other, Port: port}, policy.Flow{Source: other, Dest: subject, Port: port})
			}
		}
	}
	return flows
}

// somebody returns parties that flows come from and go to: identities, and
// addresses in the prefixes that rules name.
func (g *generator) somebody(c *vectors.Case) []policy.Party {
	var all []policy.Party
	for _, at := range g.Perm(len(c.Identities))[:min(40, len(c.Identities))] {
		id := c.Identities[at]
		all = append(all, policy.Party{ID: id.ID, Labels: id.Labels, Local: id.ID.HasPolicy()})
	}
	for _, prefix := range slices.SortedFunc(maps.Keys(c.Prefixes), netip.Prefix.Compare) {
		if p, err := c.Party(g.address(prefix, 128).String()); err == nil {
			all = append(all, p)
		}
	}
	return all
}
