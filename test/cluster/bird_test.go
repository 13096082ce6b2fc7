// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// birdOnNode announces a node's ranges and takes over those of the others, by OSPF. It is
// the example of docs/design/overlay.md, with timers that do not keep a test waiting.
const birdOnNode = `
router id %[1]s;
protocol device { scan time 1; }
protocol static own4 { ipv4; route %[2]s unreachable; }
protocol static own6 { ipv6; route %[3]s unreachable; }
protocol kernel { ipv4 { import none; export where source != RTS_STATIC; }; }
protocol kernel { ipv6 { import none; export where source != RTS_STATIC; }; }
protocol ospf v2 { ipv4 { import all; export where source = RTS_STATIC; }; area 0 { interface "eth0" { type ptp; hello 1; dead 3; }; }; }
protocol ospf v3 { ipv6 { import all; export where source = RTS_STATIC; }; area 0 { interface "eth0" { type ptp; hello 1; dead 3; }; }; }
`

// birdOnRouter takes part between the nodes.
const birdOnRouter = `
router id 172.30.0.254;
protocol device { scan time 1; }
protocol kernel { ipv4 { import none; export all; }; }
protocol kernel { ipv6 { import none; export all; }; }
protocol ospf v2 { ipv4 { import all; export none; }; area 0 { interface "port*" { type ptp; hello 1; dead 3; }; }; }
protocol ospf v3 { ipv6 { import all; export none; }; area 0 { interface "port*" { type ptp; hello 1; dead 3; }; }; }
`

// routed is a cluster whose routes a routing daemon sets.
type routed struct {
	*cluster
	central *lab.Bird   // of the router
	birds   []*lab.Bird // of the nodes
}

func startRouted(t *testing.T) *routed {
	t.Helper()
	c := start(t, lab.ClusterOptions{
		Nodes: 3, Wire: lab.WireOptions{Routed: true}, Flags: []string{"--routing=native", "--direct-node-routes=false"},
	})
	r := &routed{cluster: c, central: c.NewBird(nil)}
	for _, n := range c.Nodes {
		r.birds = append(r.birds, c.NewBird(n))
	}
	t.Cleanup(func() {
		for _, b := range append(r.birds, r.central) {
			if t.Failed() {
				t.Logf("bird: %s", b.Log())
			}
		}
	})
	return r
}

func (r *routed) startBirds() {
	r.t.Helper()
	if err := r.central.Start(birdOnRouter); err != nil {
		r.t.Fatal(err)
	}
	for i := range r.Nodes {
		r.startBird(i)
	}
}

func (r *routed) startBird(i int) {
	r.t.Helper()
	config := fmt.Sprintf(birdOnNode, r.Nodes[i].IPv4, fmt.Sprintf("10.%d.0.0/24", i+1), fmt.Sprintf("fd01::%x:0/112", i+1))
	if err := r.birds[i].Start(config); err != nil {
		r.t.Fatal(err)
	}
}

// ranges are the prefixes of a node's workloads, as ip prints them.
func ranges(i int) []string {
	return []string{fmt.Sprintf("10.%d.0.0/24 ", i+1), fmt.Sprintf("fd01::%x:0/112 ", i+1)}
}

// router stands among the nodes for the router between them.
const router = -1

// awaitAll waits until all nodes and the router have routes to all other nodes' ranges.
// Daemons that have just met may take routes back once more, so they have to stay.
func (r *routed) awaitAll() {
	r.t.Helper()
	for begin := time.Now(); time.Since(begin) < settled; time.Sleep(100 * time.Millisecond) {
		waited := r.awaitRoutes(router, 0, 1, 2)
		for i := range r.Nodes {
			waited = r.awaitRoutes(i, (i+1)%3, (i+2)%3) || waited
		}
		if waited {
			begin = time.Now()
		}
	}
}

// settled is how long routes have to be there before they are taken to stay.
const settled = 3 * time.Second

// awaitRoutes waits until the node has routes to exactly these other nodes' ranges, and
// reports whether it had to.
func (r *routed) awaitRoutes(at int, to ...int) (waited bool) {
	r.t.Helper()
	wanted := map[string]bool{}
	for i := range r.Nodes {
		if i != at {
			wanted[ranges(i)[0]], wanted[ranges(i)[1]] = false, false
		}
	}
	for _, i := range to {
		wanted[ranges(i)[0]], wanted[ranges(i)[1]] = true, true
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		text, good := r.routes(at), true
		for prefix, want := range wanted {
			good = good && strings.Contains(text, prefix) == want
		}
		if good {
			return waited
		}
		waited = true
		if time.Now().After(end) {
			r.t.Fatalf("place %d should have routes to the ranges of %v:\n%s", at, to, text)
		}
	}
}

// routes are those of a node, or of the router, that BIRD has set.
func (r *routed) routes(at int) (text string) {
	r.t.Helper()
	place := r.Wire.Namespace
	if at != router {
		place = r.Nodes[at].Namespace
	}
	for _, family := range []string{"-4", "-6"} {
		out, err := place.Command(within(r.t, 10*time.Second), "ip", family, "route", "show", "proto", "bird").CombinedOutput()
		if err != nil {
			r.t.Fatalf("ip route: %v\n%s", err, out)
		}
		text += string(out)
	}
	return text
}

// betweenNodes are attempts of app2 and app3 to reach app1 of every other node.
func (r *routed) betweenNodes(when string, allowed func(from, probe string, node int) bool) (list []attempt) {
	for i := range r.Nodes {
		for j := range r.Nodes {
			if i == j {
				continue
			}
			for _, name := range []string{"app2", "app3"} {
				for _, addr := range r.addresses("app1", j) {
					for _, p := range lab.Probes {
						what := fmt.Sprintf("%s, %s of %s", when, name, r.Nodes[i].Name)
						ok := allowed(name, p.Name, i) && allowed(name, p.Name, j)
						list = append(list, attempt{p, what, r.apps[name][i].Namespace, addr, ok})
					}
				}
			}
		}
	}
	return list
}

// TestRoutingDaemon has BIRD bring the nodes' ranges around behind a router.
func TestRoutingDaemon(t *testing.T) {
	r := startRouted(t)
	r.expect(r.betweenNodes("without a daemon", func(string, string, int) bool { return false }))
	r.startBirds()
	r.awaitAll()
	r.expect(r.betweenNodes("with BIRD", func(string, string, int) bool { return true }))
	r.apply(lab.AllowRule(`"fromEndpoints": [{"matchLabels": {"id": "app2"}}]`, lab.L4Rules["TCP"]))
	policy := func(from, probe string, _ int) bool { return from == "app2" && probe == "TCP" }
	r.expect(r.betweenNodes("under a policy", policy))

	if err := r.Nodes[0].KillAgent(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Nodes[0].StartAgent(within(t, 30*time.Second), r.Flags(0)...); err != nil {
		t.Fatal(err)
	}
	r.awaitRoutes(0, 1, 2)
	r.expect(r.betweenNodes("after the agent's restart", policy))

	// The daemon of one node ends: its ranges go, and only these.
	if err := r.birds[2].Kill(); err != nil {
		t.Fatal(err)
	}
	r.awaitRoutes(router, 0, 1)
	r.awaitRoutes(0, 1)
	r.awaitRoutes(1, 0)
	r.expect(r.betweenNodes("without the third node's daemon", func(from, probe string, node int) bool {
		return node != 2 && policy(from, probe, node)
	}))
	r.startBird(2)
	r.awaitAll()
	r.expect(r.betweenNodes("when it is back", policy))
}
