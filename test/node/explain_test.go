// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/policy/explain"
	"cilium.local/cilium/test/lab"
)

// TestExplainNamesTheRuleAndWhatWouldChangeIt takes a real drop, does what the
// explanation suggests, and wants the packet through.
func TestExplainNamesTheRuleAndWhatWouldChangeIt(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
	a.add(`[{"labels": ["name=web"], "endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}]}]},
		{"labels": ["name=never"], "log": {"value": "quarantine"}, "endpointSelector": {"matchLabels": {"id": "app1"}}, "ingressDeny": [{"fromEndpoints": [{"matchLabels": {"id": "app3"}}]}]}]`)
	tcp := lab.Probes[0]
	lines := a.monitor("--type", "drop", "-v")
	lab.Reaches(t, tcp, "denied", a.app3.Namespace, a.app1.IPv6, false)
	shown := lines.WaitFor(t, `by rule [unspec:name=never] from standard input:2 (rule 2), log "quarantine"`)
	for range 3 {
		lab.Reaches(t, tcp, "allowed", a.app2.Namespace, a.app1.IPv4, true)
	}
	endpoint := fmt.Sprint(a.app3.ID) // the sender; the receiver's policy dropped it
	text := a.cli("policy", "explain", "--last-drop", endpoint)
	for _, want := range []string{
		"Policy denied by denylist", "Egress: allowed, not under enforcement",
		"Ingress: denied, denied by rule [unspec:name=never] ingressDeny[0], from standard input:2 (rule 2)",
		"not by [unspec:name=web] ingress[0]", "import this rule, which comes before all others:",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the explanation does not say %q:\n%s", want, text)
		}
	}
	var answer api.PolicyExplanation
	if err := json.Unmarshal([]byte(a.cli("policy", "explain", "--last-drop", endpoint, "-o", "json")), &answer); err != nil {
		t.Fatal(err)
	}
	if again := a.cli("policy", "explain", answer.Event); again != text {
		t.Errorf("the event %s explains otherwise:\n%s", answer.Event, again)
	}
	if !strings.Contains(shown, " event "+answer.Event+"\n") {
		t.Errorf("the monitor does not show event %s:\n%s", answer.Event, shown)
	}
	var detail explain.Explanation
	if err := json.Unmarshal(answer.Detail, &detail); err != nil || len(detail.Changes) != 1 {
		t.Fatalf("%v: %s", err, answer.Detail)
	}
	a.add(string(detail.Changes[0].JSON))
	lab.Reaches(t, tcp, "as suggested", a.app3.Namespace, a.app1.IPv6, true)
	if text := a.cli("policy", "explain", answer.Event); !strings.Contains(text, "The policy has changed since") {
		t.Errorf("after the change:\n%s", text)
	}
}
