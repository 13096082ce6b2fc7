// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

func TestTrafficWithTheOutsideUnderPolicy(t *testing.T) {
	n := lab.NewNode(t, "node1", lab.Options{Outside: true, Forward: true})
	a := &apps{Node: n, t: t}
	a.startAgent()
	a.app1 = a.workload("app1")
	inside := []netip.Addr{a.app1.IPv4, a.app1.IPv6}
	outside := []netip.Addr{n.Outside.IPv4, n.Outside.IPv6}
	lab.Serve(t, a.app1.Namespace, inside...)
	lab.Serve(t, n.Outside, outside...)

	a.load(`[{"endpointSelector": {"matchLabels": {"id": "app1"}},
		"ingress": [{"fromEntities": ["world"], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}],
		"egress": [{"toEntities": ["world"], "toPorts": [{"ports": [{"port": "80", "protocol": "UDP"}]}]}]}]`)
	for i := range inside {
		for _, p := range lab.Probes {
			lab.Reaches(t, p, "the outside", n.Outside, inside[i], p.Name == "TCP")
			lab.Reaches(t, p, "app1", a.app1.Namespace, outside[i], p.Name == "UDP")
		}
		lab.Reaches(t, lab.Probes[0], "the host is not the world", n.Namespace, inside[i], false)
	}
}

func TestUnusedAddressesOfTheRangeDoNotLeak(t *testing.T) {
	n := lab.NewNode(t, "node1", lab.Options{Outside: true, Forward: true})
	a := &apps{Node: n, t: t}
	a.startAgent()
	a.app1 = a.workload("app1")
	ctx := within(t, 5*time.Second)
	err := a.app1.RoundTripTCP(ctx, netip.MustParseAddrPort("10.15.200.200:80"), []byte("x"))
	if err == nil || !strings.Contains(err.Error(), "no route to host") {
		t.Errorf("an address that nobody has: %v, want the node to say that there is no route", err)
	}
}

func TestMonitorTraceAndMetricsTellOfADrop(t *testing.T) {
	a := start(t, "--prometheus-serve-addr=127.0.0.1:9962")
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	a.add(lab.AllowRule(fromApp2, lab.L4Rules["TCP"]))
	lab.Reaches(t, lab.Probes[0], "allowed", a.app2.Namespace, a.app1.IPv4, true)
	lines := a.monitor("--type", "drop", "-v")
	lab.Reaches(t, lab.Probes[0], "denied", a.app3.Namespace, a.app1.IPv4, false)
	text := lines.WaitFor(t, "decided at")
	for _, want := range []string{"xx drop (Policy denied)", "container:id=app3", "container:id=app1", "tcp SYN", "event ", "bpf/lib/policy.h:", "name=rule"} {
		if !strings.Contains(text, want) {
			t.Errorf("the monitor does not show %q:\n%s", want, text)
		}
	}

	metrics := a.scrape("http://127.0.0.1:9962/metrics")
	for _, want := range []string{
		`cilium_drop_count_total{direction="INGRESS",reason="Policy denied"}`, `cilium_forward_count_total{direction="EGRESS"}`,
		`cilium_endpoint_state{endpoint_state="ready"} 3`, "cilium_policy_max_revision 2", "cilium_identity_count",
		"cilium_kvstore_operations_duration_seconds_count", "cilium_policy_implementation_delay", "cilium_agent_api_process_time_seconds",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// monitor starts a monitor and waits until it listens.
func (a *apps) monitor(args ...string) *lab.Monitor {
	a.t.Helper()
	return lab.StartMonitor(a.t, a.Node, args...)
}

// scrape reads the metrics from within the node.
func (a *apps) scrape(url string) string {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 5*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return a.DialTCP(ctx, netip.MustParseAddrPort(addr))
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		a.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(body)
}
