// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strings"
	"testing"

	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/test/vectors"
)

// TestEverySuggestionFlipsTheVerdict goes through all policy cases: for each flow
// there is a change of the rules that makes it the other verdict, or a setting of
// the node is named that stands above rules.
func TestEverySuggestionFlipsTheVerdict(t *testing.T) {
	cases, err := vectors.Load()
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for _, c := range cases {
		for _, check := range c.Checks {
			f := c.Flow(check.Question)
			before := policy.Decide(c.Rules, c.Options, f)
			changes, after, remedy := flip(c.Rules, c.Options, f)
			above := c.Options.Mode == policy.ModeNever || before.Sides[0].Reason == policy.ReasonLocalhost
			switch {
			case (len(changes) == 0) != above || (remedy != "") != above:
				t.Errorf("%s: %s: %d changes, remedy %q", c.Name, check.Text, len(changes), remedy)
			case !above && policy.Decide(after, c.Options, f).Allowed == before.Allowed:
				t.Errorf("%s: %s: %v changes nothing", c.Name, check.Text, changes)
			}
			changed += len(changes)
		}
	}
	if changed < 100 {
		t.Errorf("only %d changes in all", changed)
	}
}

// TestAnExplanationReadsAsAnAnswer shows one whole.
func TestAnExplanationReadsAsAnAnswer(t *testing.T) {
	rules, err := policy.Parse("web.json", []byte(`[
		{"labels": ["rule=web"], "endpointSelector": {"matchLabels": {"id": "app1"}},
		 "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]},
		             {"fromEndpoints": [{"matchLabels": {"id": "app3"}}], "toPorts": [{"ports": [{"port": "81", "protocol": "TCP"}]}]}]},
		{"labels": ["rule=low"], "tier": "baseline", "endpointSelector": {}, "ingress": [{"fromEntities": ["all"]}]},
		{"labels": ["rule=no"], "endpointSelector": {"matchLabels": {"id": "app1"}}, "ingressDeny": [{"fromEndpoints": [{"matchLabels": {"id": "app3"}}]}]}]`))
	if err != nil {
		t.Fatal(err)
	}
	repository := policy.NewRepository()
	if _, _, err := repository.Add(rules, false); err != nil {
		t.Fatal(err)
	}
	got := Explain(repository.Rules(), policy.Options{Mode: policy.ModeDefault}, flow(t, "app3", "app1", "80/tcp")).String()
	want := `Egress: allowed, not under enforcement
Ingress: denied, denied by rule [unspec:rule=no] ingressDeny[0], from web.json:6 (rule 3)
  not by [unspec:rule=low] ingress[0], which allows: tier normal is asked before tier baseline
  not by [unspec:rule=web] ingress[1], which allows: the peer fits, the port does not
  not by [unspec:rule=web] ingress[0], which allows: the port fits, the peer does not
To let it through, the smallest change is:
  import this rule, which comes before all others:
    {"enableDefaultDeny":{"egress":false,"ingress":false},"endpointSelector":{"matchLabels":{"container:id":"app1"}},` +
		`"ingress":[{"fromEndpoints":[{"matchLabels":{"container:id":"app3"}}],"toPorts":[{"ports":[{"port":"80","protocol":"TCP"}]}]}],` +
		`"priority":-32767,"tier":"admin"}
`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	byDefault := Explain(repository.Rules()[:1], policy.Options{Mode: policy.ModeDefault}, flow(t, "app3", "app1", "80/tcp")).String()
	if !strings.Contains(byDefault, "  add this element to ingress of rule [unspec:rule=web] from web.json:2 (rule 1):\n    {\"fromEndpoints\"") {
		t.Errorf("denied by default:\n%s", byDefault)
	}
}
