// SPDX-License-Identifier: Apache-2.0

package vectors_test

import (
	"testing"

	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
	"cilium.local/cilium/test/vectors"
)

func load(t *testing.T) []vectors.Case {
	t.Helper()
	cases, err := vectors.Load()
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

// TestTheDefinitionDecidesEveryVector asks Decide.
func TestTheDefinitionDecidesEveryVector(t *testing.T) {
	for _, c := range load(t) {
		t.Run(c.Name, func(t *testing.T) {
			for _, check := range c.Checks {
				flow := policy.Flow{
					Source: policy.Party{ID: check.Peer.ID, Labels: check.Peer.Labels},
					Dest:   policy.Party{ID: c.Subject.ID, Labels: c.Subject.Labels, Local: true},
					Port:   check.Port,
				}
				if check.Direction == policy.Egress {
					flow.Source, flow.Dest = flow.Dest, flow.Source
				}
				decision := policy.Decide(c.Rules, c.Options, flow)
				if len(decision.Sides) != 1 || decision.Sides[0].Direction != check.Direction {
					t.Fatalf("%s: sides %+v", check.Text, decision.Sides)
				}
				side := decision.Sides[0]
				action, cookie := vectors.Allow, uint32(0)
				switch {
				case side.Reason == policy.ReasonDeny:
					action = vectors.Deny
				case !side.Allowed:
					action = vectors.DefaultDeny
				}
				if side.Rule != nil {
					cookie = side.Rule.Cookie
				}
				if action != check.Action || cookie != check.Cookie || decision.Allowed != side.Allowed {
					t.Errorf("%s: got %s by rule %d", check.Text, action, cookie)
				}
			}
		})
	}
}

// TestCompiledEntriesDecideEveryVector looks up what the kernel would look up.
func TestCompiledEntriesDecideEveryVector(t *testing.T) {
	for _, c := range load(t) {
		t.Run(c.Name, func(t *testing.T) {
			entries := compile.Compile(c.Subject.Labels, c.Rules, c.Identities, c.Options)
			for _, check := range c.Checks {
				v, found := entries.Lookup(check.Peer.ID, check.Direction, check.Port)
				if !found {
					t.Fatalf("%s: no entry", check.Text)
				}
				action := vectors.Allow
				switch {
				case !v.Allow && !v.Default:
					action = vectors.Deny
				case !v.Allow:
					action = vectors.DefaultDeny
				}
				if action != check.Action || v.Cookie != check.Cookie {
					t.Errorf("%s: got %s by rule %d", check.Text, action, v.Cookie)
				}
			}
		})
	}
}
