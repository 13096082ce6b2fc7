// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// streamRate is that of each stream, in datagrams a second.
const streamRate = 2000

// streams are datagrams both ways between two workloads, until stop.
type streams struct {
	t    *testing.T
	stop context.CancelFunc
	all  []*lab.Datagrams
}

const streamPort = 90

func (c *cluster) stream(a, b *lab.Workload) *streams {
	c.t.Helper()
	ctx, stop := context.WithCancel(c.t.Context())
	s := &streams{t: c.t, stop: stop}
	for _, way := range [][2]*lab.Workload{{a, b}, {b, a}} {
		d, err := way[0].StreamUDP(ctx, way[1].Namespace, netip.AddrPortFrom(way[1].IPv4, streamPort), streamRate)
		if err != nil {
			stop()
			c.t.Fatal(err)
		}
		s.all = append(s.all, d)
	}
	return s
}

// lostNone ends the streams, and fails unless all that was sent has arrived.
func (s *streams) lostNone() {
	s.t.Helper()
	s.stop()
	for _, d := range s.all {
		overrun, err := d.Finish()
		if err != nil {
			s.t.Error(err)
		}
		if sent, received := d.Sent.Load(), d.Received.Load(); received+overrun != sent || sent == 0 {
			s.t.Errorf("%d datagrams sent, %d received, %d had no room at the receiver", sent, received, overrun)
		}
	}
}

// TestTrafficBetweenNodesGoesOnWithoutAgentsAndStore kills agents, and etcd, and starts
// them again, while workloads of two nodes talk.
func TestTrafficBetweenNodesGoesOnWithoutAgentsAndStore(t *testing.T) {
	for _, routing := range []string{"vxlan", "native"} {
		t.Run(routing, func(t *testing.T) {
			c := start(t, lab.ClusterOptions{Nodes: 2, Flags: []string{"--routing=" + routing}})
			c.apply(lab.AllowRule(`"fromEndpoints": [{"matchLabels": {"id": "app2"}}]`, lab.L4Rules["TCP"]))
			s := c.stream(c.apps["app2"][0], c.apps["app3"][1])
			c.restartAgents()
			if err := c.Etcd.Kill(); err != nil {
				t.Fatal(err)
			}
			c.stillDecided("without the store")
			c.restartAgents()
			c.stillDecided("after agents started without the store")
			if err := c.Etcd.Start(within(t, 20*time.Second)); err != nil {
				t.Fatal(err)
			}
			c.restartAgents()
			c.stillDecided("after the store came back")
			s.lostNone()
		})
	}
}

// restartAgents kills all agents and starts others.
func (c *cluster) restartAgents() {
	c.t.Helper()
	for i, n := range c.Nodes {
		if err := n.KillAgent(); err != nil {
			c.t.Fatal(err)
		}
		if _, err := n.StartAgent(within(c.t, 30*time.Second), c.Flags(i)...); err != nil {
			c.t.Fatal(err)
		}
	}
}

// stillDecided tries new connections under the rule that lets app2 use TCP.
func (c *cluster) stillDecided(when string) {
	c.t.Helper()
	c.expect(c.attempts(when, func(from, probe string) bool { return from == "app2" && probe == "TCP" }))
}

// TestANodeThatIsLostIsForgotten ends an agent without goodbye.
func TestANodeThatIsLostIsForgotten(t *testing.T) {
	c := start(t, lab.ClusterOptions{Nodes: 3, Flags: []string{"--routing=vxlan", "--kvstore-lease-ttl=10s"}})
	s := c.stream(c.apps["app2"][0], c.apps["app3"][1])
	if err := c.Nodes[2].KillAgent(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		left := c.cli(c.Nodes[0], "node", "list") + c.cli(c.Nodes[0], "bpf", "ipcache", "list")
		if !strings.Contains(left, "node3") && !strings.Contains(left, "10.3.0.") && !strings.Contains(left, "fd01::3:") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("node3 is still known:\n%s", left)
		}
	}
	routes, err := c.Nodes[0].Command(t.Context(), "ip", "route").CombinedOutput()
	if err != nil || strings.Contains(string(routes), "10.3.0.0/24") {
		t.Errorf("routes: %v\n%s", err, routes)
	}
	s.lostNone()
}
