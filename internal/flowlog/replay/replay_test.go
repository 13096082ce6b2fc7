// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/flowlog"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func rules(t *testing.T, text string) []*policy.Rule {
	t.Helper()
	all, err := policy.Parse("web.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func workload(id identity.ID, name string) *flowlog.End {
	return &flowlog.End{Addr: netip.AddrFrom4([4]byte{10, 15, 0, byte(id)}), Identity: id, Endpoint: uint16(id), Labels: []string{"container:id=" + name}}
}

func outsider(addr string) *flowlog.End {
	return &flowlog.End{Addr: netip.MustParseAddr(addr), Identity: identity.WorldIPv4, Labels: []string{"reserved:world"}}
}

func record(from, to *flowlog.End, port uint16, count uint64, verdict flow.Verdict) *flowlog.Record {
	return &flowlog.Record{
		First: noon, Last: noon.Add(time.Minute), Count: count, Source: from, Dest: to,
		Port: l4.Port{Protocol: l4.TCP, Number: port}, Verdict: verdict, Rule: &flowlog.Rule{Cookie: 3, Labels: []string{"old"}},
	}
}

const web = `[{"labels": ["name=web"], "endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{
	"fromEndpoints": [{"matchLabels": {"id": "app2"}}], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]},
	{"fromCIDRSet": [{"cidr": "192.0.2.0/24", "except": ["192.0.2.9/32"]}]}]}]`

func TestReplayCountsWhatWouldChangeByPeersAndPort(t *testing.T) {
	app1, app2, app3 := workload(300, "app1"), workload(301, "app2"), workload(302, "app3")
	r := New(rules(t, web), policy.Options{Mode: policy.ModeDefault})
	for _, x := range []*flowlog.Record{
		record(app2, app1, 80, 5, flow.Allowed),
		record(app2, app1, 81, 2, flow.Allowed),
		record(workload(301, "app2"), app1, 81, 4, flow.Allowed), // another record's end, the same workload
		record(app3, app1, 80, 1, flow.Denied),
		record(app3, app2, 80, 1, flow.Denied), // nothing closes app2
		record(outsider("192.0.2.7"), app1, 80, 3, flow.Allowed),
		record(outsider("192.0.2.9"), app1, 80, 7, flow.Allowed),
		record(&flowlog.End{Addr: netip.MustParseAddr("10.15.0.99"), Endpoint: 9}, app1, 80, 11, flow.Allowed),
	} {
		r.Try(x)
	}
	found := r.Result()
	if found.Records != 7 || found.Flows != 23 || found.Changed != 14 || found.Unknown != 11 || found.Untold != 0 {
		t.Errorf("%+v", found)
	}
	if !found.First.Equal(noon) || !found.Last.Equal(noon.Add(time.Minute)) {
		t.Errorf("from %s to %s", found.First, found.Last)
	}
	want := []string{
		"7 192.0.2.9 (reserved:world) container:id=app1 80/TCP allowed denied no rule allows it unspec:name=web",
		"6 container:id=app2 container:id=app1 81/TCP allowed denied no rule allows it unspec:name=web",
		"1 container:id=app3 container:id=app2 80/TCP denied allowed not under enforcement ",
	}
	for i, c := range found.Changes {
		rule := ""
		if c.Side.Rule != nil {
			rule = c.Side.Rule.Name()
		}
		got := fmt.Sprint(c.Flows, " ", c.Source, " ", c.Dest, " ", c.Port, " ", c.Was, " ", c.Would, " ", c.Side.Reason, " ", rule)
		if i >= len(want) || got != want[i] {
			t.Errorf("change %d: %s", i, got)
		}
	}
	if len(found.Changes) != len(want) {
		t.Errorf("%d changes, want %d", len(found.Changes), len(want))
	}
}

// TestReplayOfManyKindsOfFlowsIsBounded has more different changes than are told
// apart, and more different flows than are remembered.
func TestReplayOfManyKindsOfFlowsIsBounded(t *testing.T) {
	app1 := workload(300, "app1")
	r := New(rules(t, web), policy.Options{Mode: policy.ModeDefault})
	const flows = maxMemory + 5000
	for i := range flows {
		r.Try(record(outsider(fmt.Sprintf("198.%d.%d.%d", i>>16, i>>8&0xff, i&0xff)), app1, uint16(i), 1, flow.Allowed))
	}
	found := r.Result()
	if found.Changed != flows || len(found.Changes) != MaxChanges || found.Untold != flows-MaxChanges || len(r.memory) > maxMemory {
		t.Errorf("%d changed, %d listed, %d untold, %d remembered", found.Changed, len(found.Changes), found.Untold, len(r.memory))
	}
}
