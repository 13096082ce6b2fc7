// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

const (
	fromApp2 = `"fromEndpoints": [{"matchLabels": {"id": "app2"}}]`
	fromHost = `"fromEntities": ["host"]`
)

func TestPolicyByLabelsProtocolAndPort(t *testing.T) {
	a := start(t)
	both := []netip.Addr{a.app1.IPv4, a.app1.IPv6}
	lab.Serve(t, a.app1.Namespace, both...)
	for _, to := range both {
		for _, p := range lab.Probes {
			lab.Reaches(t, p, "without policy, app2", a.app2.Namespace, to, true)
			lab.Reaches(t, p, "without policy, app3", a.app3.Namespace, to, true)
			lab.Reaches(t, p, "without policy, host", a.Namespace, to, true)
		}
	}
	for allowed, l4 := range lab.L4Rules {
		a.load(lab.AllowRule(fromApp2, l4))
		for _, to := range both {
			for _, p := range lab.Probes {
				lab.Reaches(t, p, "app2 under "+allowed, a.app2.Namespace, to, p.Name == allowed)
				lab.Reaches(t, p, "app3 under "+allowed, a.app3.Namespace, to, false)
				lab.Reaches(t, p, "host under "+allowed, a.Namespace, to, false)
			}
		}
		a.load(lab.AllowRule(fromHost, l4))
		for _, to := range both {
			for _, p := range lab.Probes {
				lab.Reaches(t, p, "app2 under host "+allowed, a.app2.Namespace, to, false)
				lab.Reaches(t, p, "host under host "+allowed, a.Namespace, to, p.Name == allowed)
			}
		}
	}
	a.cli("policy", "delete", "--all")
	lab.Reaches(t, lab.Probes[0], "after delete, app3", a.app3.Namespace, a.app1.IPv4, true)
}

func TestEgressPolicyTowardsTheHost(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.Namespace, gateways(t, a)...)
	rule := func(entity string) string {
		return `[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "egress": [{"toEntities": ["` + entity + `"]}]}]`
	}
	for _, entity := range []string{"host", "world"} {
		a.load(rule(entity))
		for _, to := range gateways(t, a) {
			for _, p := range lab.Probes {
				lab.Reaches(t, p, "app1 with egress to "+entity, a.app1.Namespace, to, entity == "host")
				lab.Reaches(t, p, "app2 without policy", a.app2.Namespace, to, true)
			}
		}
	}
}

// gateways are the node's addresses towards its workloads.
func gateways(t *testing.T, a *apps) []netip.Addr {
	t.Helper()
	return []netip.Addr{netip.MustParseAddr("10.15.0.1"), netip.MustParseAddr("f00d::a0f:0:0:1")}
}

func TestPortRangesDenyRulesAndSwitchedOffDefaultDeny(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	tcp := lab.Probes[0]
	ports := func(from, to int) string {
		return fmt.Sprintf(`"toPorts": [{"ports": [{"port": "%d", "endPort": %d, "protocol": "TCP"}]}]`, from, to)
	}
	a.load(lab.AllowRule(fromApp2, ports(70, 90)))
	lab.Reaches(t, tcp, "inside the range", a.app2.Namespace, a.app1.IPv4, true)
	a.load(lab.AllowRule(fromApp2, ports(81, 90)))
	lab.Reaches(t, tcp, "below the range", a.app2.Namespace, a.app1.IPv4, false)

	a.load(`[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{"fromEndpoints": [{}]}],
		"ingressDeny": [{"fromEndpoints": [{"matchLabels": {"id": "app3"}}]}]}]`)
	lab.Reaches(t, tcp, "not denied", a.app2.Namespace, a.app1.IPv4, true)
	lab.Reaches(t, tcp, "denied", a.app3.Namespace, a.app1.IPv4, false)

	a.load(`[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "enableDefaultDeny": {"ingress": false},
		"ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}]}]}]`)
	lab.Reaches(t, tcp, "not closed by a rule that only adds", a.app3.Namespace, a.app1.IPv4, true)

	a.load(`[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{"fromEntities": ["all"]}]}]`)
	lab.Reaches(t, tcp, "open to all", a.app3.Namespace, a.app1.IPv4, true)
	a.load(`[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{}]}]`)
	lab.Reaches(t, tcp, "an empty element closes", a.app3.Namespace, a.app1.IPv4, false)
}

func TestImportCutsEstablishedConnections(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	conn, err := a.app3.DialTCP(within(t, 5*time.Second), netip.AddrPortFrom(a.app1.IPv4, lab.ProbePort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := exchange(conn, time.Second); err != nil {
		t.Fatal(err)
	}
	a.add(lab.AllowRule(fromApp2, lab.L4Rules["TCP"]))
	if err := exchange(conn, 300*time.Millisecond); err == nil {
		t.Error("an established connection goes on after its peer was denied")
	}
	a.cli("policy", "delete", "--all")
	if err := exchange(conn, 10*time.Second); err != nil {
		t.Errorf("the connection does not resume when it is allowed again: %v", err)
	}
}

func TestSpoofedSourceIsDroppedAndReported(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	if err := addAddress(a.app3.Namespace, a.app2.IPv4); err != nil {
		t.Fatal(err)
	}
	before := dropped(t, a, "Invalid source ip")
	if err := sendUDPFrom(a.app3.Namespace, a.app2.IPv4, netip.AddrPortFrom(a.app1.IPv4, lab.ProbePort)); err != nil {
		t.Fatal(err)
	}
	if after := dropped(t, a, "Invalid source ip"); after != before+1 {
		t.Errorf("spoofed packets counted: %d, want %d", after, before+1)
	}
}

func TestWorkloadWithoutKnownLabelsIsClosed(t *testing.T) {
	n := lab.NewNode(t, "node1", lab.Options{})
	a := &apps{Node: n, t: t}
	a.startAgent("--kvstore-endpoints=http://127.0.0.1:9")
	a.app1, a.app2 = a.workload("app1"), a.workload("app2")
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	for _, p := range lab.Probes {
		lab.Reaches(t, p, "while the store is away", a.app2.Namespace, a.app1.IPv4, false)
	}
	if list := a.endpoints(); !strings.Contains(list, "waiting-for-identity") || !strings.Contains(list, "reserved:init") {
		t.Errorf("endpoints that wait for the store:\n%s", list)
	}
	result, err := a.CLI(within(t, 10*time.Second), "status")
	if err != nil {
		t.Fatal(err)
	}
	if result.Code != 1 || !strings.Contains(result.Stdout+result.Stderr, "127.0.0.1:9") {
		t.Errorf("status with an unreachable store: exit %d\n%s%s", result.Code, result.Stdout, result.Stderr)
	}
}
