// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
)

const traced = `[
{"endpointSelector": {"matchLabels": {"id": "app1"}}, "labels": ["name=web"],
 "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}], "toPorts": [{"ports": [{"port": "80", "endPort": 90, "protocol": "TCP"}]}]},
             {"fromEntities": ["host", "health"], "icmps": [{"fields": [{"type": 8}]}]}]},
{"endpointSelector": {"matchLabels": {"id": "app3"}}, "description": "app3 sends to nobody on 81",
 "egressDeny": [{"toPorts": [{"ports": [{"port": "81", "protocol": "TCP"}]}]}], "egress": [{"toEntities": ["all"]}], "ingress": [{"fromEndpoints": []}]},
{"endpointSelector": {"matchLabels": {"id": "app9"}}, "ingress": [{"fromEntities": ["all"]}]}]`

// TestTracesReadAsTranscripts goes through flows and compares with
// testdata/trace.txt; -update writes it.
func TestTracesReadAsTranscripts(t *testing.T) {
	repository := policy.NewRepository()
	if _, _, err := repository.Add(parse(t, traced), false); err != nil {
		t.Fatal(err)
	}
	app := func(n int) policy.Party {
		return policy.Party{ID: identity.ID(255 + n), Labels: labels(t, fmt.Sprintf("container:id=app%d", n)), Local: true}
	}
	reserved := func(id identity.ID) policy.Party {
		return policy.Party{ID: id, Labels: labels(t, "reserved:"+id.Name())}
	}
	byLabels := app(2)
	byLabels.ID = identity.Unknown
	tcp := func(n uint16) l4.Port { return l4.Port{Protocol: l4.TCP, Number: n} }
	open := policy.Options{Mode: policy.ModeDefault}
	var got strings.Builder
	for _, step := range []struct {
		title   string
		flow    policy.Flow
		opts    policy.Options
		verbose bool
	}{
		{"allowed by rule", policy.Flow{Source: byLabels, Dest: app(1), Port: tcp(80)}, open, false},
		{"denied by default, all rules shown", policy.Flow{Source: app(3), Dest: app(1), Port: tcp(80)}, open, true},
		{"denied by rule at the sender", policy.Flow{Source: app(3), Dest: app(2), Port: tcp(81)}, open, false},
		{"nobody may reach app3, by any port", policy.Flow{Source: app(1), Dest: app(3)}, open, false},
		{"the node, by ICMP", policy.Flow{Source: reserved(identity.Host), Dest: app(1), Port: l4.Port{Protocol: l4.ICMP, Number: 8}}, open, false},
		{"the node, always", policy.Flow{Source: reserved(identity.Host), Dest: app(1), Port: tcp(1)}, policy.Options{Mode: policy.ModeDefault, AllowLocalhost: true}, false},
		{"always closed", policy.Flow{Source: app(4), Dest: app(5), Port: tcp(1)}, policy.Options{Mode: policy.ModeAlways}, false},
		{"never closed", policy.Flow{Source: app(3), Dest: app(1), Port: tcp(81)}, policy.Options{Mode: policy.ModeNever}, false},
		{"no endpoint of ours", policy.Flow{Source: reserved(identity.World), Dest: reserved(identity.Host), Port: tcp(22)}, open, false},
	} {
		trace := policy.TraceFlow(repository.Rules(), step.opts, step.flow)
		fmt.Fprintf(&got, "## %s\n%s\n", step.title, trace.String(step.verbose))
		if !strings.HasSuffix(trace.String(step.verbose), "\nFinal verdict: "+trace.Verdict+"\n") {
			t.Errorf("%s: does not end with the verdict", step.title)
		}
		if want := policy.Decide(repository.Rules(), step.opts, step.flow).Allowed; trace.Allowed != want {
			t.Errorf("%s: trace says %v, the definition %v", step.title, trace.Allowed, want)
		}
		if text, err := json.Marshal(trace); err != nil || !strings.Contains(string(text), `"verdict":"`+trace.Verdict+`"`) {
			t.Errorf("%s: %s, %v", step.title, text, err)
		}
	}
	const golden = "testdata/trace.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
