// SPDX-License-Identifier: Apache-2.0

package engines_test

import (
	"testing"

	"cilium.local/cilium/internal/datapath/datapathtest"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
	"cilium.local/cilium/test/vectors"
)

func load(t *testing.T) []vectors.Case {
	t.Helper()
	cases, err := vectors.Load()
	must(t, err)
	return cases
}

func TestTheDefinitionDecidesEveryVector(t *testing.T) {
	for _, c := range load(t) {
		t.Run(c.Name, func(t *testing.T) {
			for _, check := range c.Checks {
				decision := policy.Decide(c.Rules, c.Options, c.Flow(check.Question))
				if len(decision.Sides) != 1 || decision.Sides[0].Direction != check.Direction {
					t.Fatalf("%s: sides %+v", check.Text, decision.Sides)
				}
				side := decision.Sides[0]
				if got := byDefinition(side); got != check.Want || decision.Allowed != side.Allowed {
					t.Errorf("%s: got %s", check.Text, c.Text(got))
				}
			}
		})
	}
}

// TestCompiledEntriesDecideEveryVector looks up what the kernel would look up.
func TestCompiledEntriesDecideEveryVector(t *testing.T) {
	for _, c := range load(t) {
		t.Run(c.Name, func(t *testing.T) {
			policies := compileCase(&c, c.Subject)
			for _, check := range c.Checks {
				if got, found := policies.answer(check.Question); !found || got != check.Want {
					t.Errorf("%s: got %s, found %v", check.Text, c.Text(got), found)
				}
			}
		})
	}
}

// TestProgramsDecideEveryVector sends a packet for each check through the loaded
// programs, in both families.
func TestProgramsDecideEveryVector(t *testing.T) {
	k := newKernel(t)
	cases := load(t)
	asked := map[string]bool{}
	for i := range cases {
		c := &cases[i]
		forget, err := learnPrefixes(k, c)
		must(t, err)
		policies := compileCase(c, c.Subject)
		must(t, k.Apply(map[uint32]compile.Delta{
			subjectPolicy: compile.Whole(policies.enforced), subjectPolicy + 1: compile.Whole(policies.audited),
		}))
		for family, addr := range subjectAddrs {
			must(t, k.Workload(addr, datapathtest.Workload{ID: 1, Identity: c.Subject.ID, Policy: subjectPolicy}))
			for _, check := range c.Checks {
				got, ok := askKernel(t, k, check.Question, family)
				if !ok {
					continue
				}
				asked[c.Name+check.Text] = true
				if got != asTold(check.Want, check.Port) {
					t.Errorf("%s: %s: got %s from %s", c.Name, check.Text, c.Text(got), addr)
				}
			}
		}
		must(t, forget())
		for _, check := range c.Checks {
			if !asked[c.Name+check.Text] {
				t.Errorf("%s: %s: was asked in no family", c.Name, check.Text)
			}
		}
	}
}
