// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/api"
	"cilium.local/cilium/test/lab"
)

// attempt is one way to talk that a test tries again and again.
type attempt struct {
	from, to string // a workload's name, "node" or "outside"
	probe    lab.Probe
	source   *lab.Namespace
	addr     netip.Addr
}

// matches reports whether a predicted change is about the attempt.
func (x *attempt) matches(c *api.PolicyFlowChange, outside []netip.Addr) bool {
	ports := map[string][]string{"TCP": {"80/TCP"}, "UDP": {"80/UDP"}, "ICMP": {"8/ICMP", "128/ICMPv6"}}
	is := func(name string, p api.FlowPeer) bool {
		switch name {
		case "outside":
			return slices.ContainsFunc(outside, func(ip netip.Addr) bool { return ip.Is4() == x.addr.Is4() && p.Address == ip.String() })
		case "node":
			return slices.Contains(p.Labels, "reserved:host")
		}
		return slices.Contains(p.Labels, "container:id="+name)
	}
	if x.probe.Name == "ICMP" && strings.HasSuffix(c.Port, "v6") != x.addr.Is6() {
		return false
	}
	return slices.Contains(ports[x.probe.Name], c.Port) && is(x.from, c.Source) && is(x.to, c.Destination)
}

// TestSimulatePredictsWhatThenHappens talks in every way under one policy, tries
// another on what was recorded, imports that, and talks again.
func TestSimulatePredictsWhatThenHappens(t *testing.T) {
	n := lab.NewNode(t, "node1", lab.Options{Outside: true, Forward: true})
	a := &apps{Node: n, t: t}
	a.startAgent()
	a.app1, a.app2, a.app3 = a.workload("app1"), a.workload("app2"), a.workload("app3")
	inside, outside := []netip.Addr{a.app1.IPv4, a.app1.IPv6}, []netip.Addr{n.Outside.IPv4, n.Outside.IPv6}
	lab.Serve(t, a.app1.Namespace, inside...)
	lab.Serve(t, n.Outside, outside...)
	var attempts []attempt
	for _, p := range lab.Probes {
		for i := range inside {
			for from, ns := range map[string]*lab.Namespace{"app2": a.app2.Namespace, "app3": a.app3.Namespace, "node": n.Namespace, "outside": n.Outside} {
				attempts = append(attempts, attempt{from, "app1", p, ns, inside[i]})
			}
			attempts = append(attempts, attempt{"app1", "outside", p, a.app1.Namespace, outside[i]})
		}
	}

	const rule = `[{"labels": ["name=rule"], "endpointSelector": {"matchLabels": {"id": "app1"}}, %s}]`
	before := fmt.Sprintf(rule, `"ingress": [{`+fromApp2+`}, {`+fromHost+`, `+lab.L4Rules["TCP"]+`}],
		"egress": [{"toCIDR": ["0.0.0.0/0"]}]`)
	sets := fmt.Sprintf(`[{"fromCIDRSet": [{"cidr": "0.0.0.0/0"}, {"cidr": "::/0", "except": ["%s/128"]}]}, {%s}]`, outside[1], fromApp2)
	after := fmt.Sprintf(rule, `"ingress": `+sets+`, "ingressDeny": [{`+fromApp2+`, `+lab.L4Rules["UDP"]+`}],
		"egress": [{"toCIDR": ["::/0"]}]`)
	file := filepath.Join(t.TempDir(), "after.json")
	must(t, os.WriteFile(file, []byte(after), 0o600))

	a.load(before)
	was := outcomes(t, attempts)
	var found api.PolicySimulation
	must(t, json.Unmarshal([]byte(a.cli("policy", "simulate", "--replace", "--since", "10m", "-o", "json", file)), &found))
	if found.Unknown != 0 || found.NotRecorded != 0 || found.DamagedBytes != 0 || found.Rules != 1 {
		t.Errorf("the simulation left something out: %+v", found)
	}
	if dry := a.cli("policy", "import", "--dry-run", "--replace", file); !strings.Contains(dry, "with 1 rule in force. Nothing was imported.") {
		t.Errorf("dry run: %s", dry)
	}
	if again := outcomes(t, attempts[:3]); !slices.Equal(again, was[:3]) {
		t.Error("a simulation or a dry run changed what is enforced")
	}
	used := make([]bool, len(found.Changes))
	predicted := slices.Clone(was)
	for i := range attempts {
		for j := range found.Changes {
			if attempts[i].matches(&found.Changes[j], outside) {
				predicted[i], used[j] = found.Changes[j].Would == "allowed", true
			}
		}
	}
	a.cli("policy", "import", "--replace", "--wait", file)
	is, changed := outcomes(t, attempts), 0
	for i, x := range attempts {
		if is[i] != predicted[i] {
			t.Errorf("%s from %s to %s (%s): predicted %t, it is %t", x.probe.Name, x.from, x.to, x.addr, predicted[i], is[i])
		}
		if is[i] != was[i] {
			changed++
		}
	}
	for j, c := range found.Changes {
		if !used[j] {
			t.Errorf("predicted, but nobody talks like that: %+v", c)
		}
	}
	if changed < 10 {
		t.Errorf("only %d of %d attempts changed: the test is about too little", changed, len(attempts))
	}
}

// outcomes tries all at once.
func outcomes(t *testing.T, attempts []attempt) []bool {
	t.Helper()
	results := make(chan [2]int, len(attempts))
	for i := range attempts {
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			ok := 0
			if attempts[i].probe.Try(ctx, attempts[i].source, attempts[i].addr) == nil {
				ok = 1
			}
			results <- [2]int{i, ok}
		}()
	}
	reached := make([]bool, len(attempts))
	for range attempts {
		r := <-results
		reached[r[0]] = r[1] == 1
	}
	return reached
}
