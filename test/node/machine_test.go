// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// TestAWorkloadWhoseNamespaceGoesIsForgotten takes a namespace away without a word to
// the agent, as a runtime that is killed does.
func TestAWorkloadWhoseNamespaceGoesIsForgotten(t *testing.T) {
	a := start(t)
	addr := a.app1.IPv4.String()
	a.app1.Close()
	eventually(t, "the endpoint is removed", func() bool { return !strings.Contains(a.endpoints(), addr) })
	again := a.workload("app1")
	a.add(lab.AllowRule(fromApp2, lab.L4Rules["TCP"]))
	lab.Serve(t, again.Namespace, again.IPv4)
	lab.Reaches(t, lab.Probes[0], "the container that was made again", a.app2.Namespace, again.IPv4, true)
}

// TestWhatIsTakenFromTheHostsNetworkComesBack takes away, in turn, all that the agent has
// set up in the node's namespace beside BPF, and looks at packets.
func TestWhatIsTakenFromTheHostsNetworkComesBack(t *testing.T) {
	a := start(t)
	reached := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		return a.Ping(ctx, a.app1.IPv4) == nil && a.Ping(ctx, a.app1.IPv6) == nil
	}
	run := func(args ...string) string {
		out, err := a.Command(within(t, 10*time.Second), args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		return string(out)
	}
	eventually(t, "the node reaches its workload", reached)
	routes := func() string { return run("ip", "route") + run("ip", "-6", "route") }
	before := routes()
	for _, taking := range [][]string{
		{"ip", "addr", "flush", "dev", "cilium_host"},
		{"ip", "route", "flush", "proto", "193"},
		{"ip", "-6", "route", "flush", "proto", "193"},
		{"ip", "link", "set", "cilium_host", "down"},
		{"ip", "link", "del", "cilium_host"},
	} {
		what := strings.Join(taking, " ")
		run(taking...)
		eventually(t, "what is gone after "+what+" is back", func() bool { return routes() == before && reached() })
	}
	name := "lxc" + fmt.Sprintf("%05x", a.app1.ID)
	run("ip", "neigh", "flush", "dev", name, "nud", "permanent")
	run("ip", "link", "set", name, "down")
	run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/"+name+"/forwarding")
	eventually(t, "the workload's device is as it was", func() bool {
		return reached() && strings.TrimSpace(run("cat", "/proc/sys/net/ipv4/conf/"+name+"/forwarding")) == "1" &&
			strings.Contains(run("ip", "neigh", "show", "dev", name), "PERMANENT")
	})
	if status := a.cli("status"); strings.Contains(status, "Failure") {
		t.Errorf("status:\n%s", status)
	}
}

// TestARangeThatTheMachineUsesIsRefused at the start, by name and with what to do; what an
// earlier agent has made there does not count.
func TestARangeThatTheMachineUsesIsRefused(t *testing.T) {
	n := lab.NewNode(t, "node1", lab.Options{Outside: true})
	for _, flag := range []string{"--ipv4-range=192.0.0.0/16", "--ipv4-range=192.0.2.0/28", "--ipv6-range=2001:db8::/64"} {
		_, err := n.StartAgent(within(t, time.Minute), flag)
		family, _, _ := strings.Cut(flag, "=")
		if err == nil || !strings.Contains(err.Error(), "overlaps") || !strings.Contains(err.Error(), family) {
			t.Errorf("%s: %v", flag, err)
		}
	}
	for range 2 {
		if _, err := n.StartAgent(within(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		if err := n.KillAgent(); err != nil {
			t.Fatal(err)
		}
	}
}
