// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// joined are two clusters of one node each, west and east, with a store of its own each.
type joined struct {
	*cluster
	east *lab.Etcd
}

// join starts both and has each read the other's store.
func join(t *testing.T, routing string) *joined {
	t.Helper()
	j := &joined{cluster: &cluster{Cluster: lab.NewCluster(t, lab.ClusterOptions{Nodes: 2}), t: t, apps: map[string][]*lab.Workload{}}}
	j.east = j.NewEtcd(2479)
	if err := j.east.Start(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	for i := range j.Nodes {
		j.startCluster(i, routing)
	}
	for _, n := range j.Nodes {
		for _, name := range []string{"app1", "app2", "app3"} {
			j.apps[name] = append(j.apps[name], j.workload(n, name))
		}
	}
	for i := range j.Nodes {
		lab.Serve(t, j.apps["app1"][i].Namespace, j.addresses("app1", i)...)
	}
	return j
}

// clusterNames are those of the nodes' clusters, whose numbers begin with 1.
var clusterNames = []string{"west", "east"}

func (j *joined) startCluster(i int, routing string) {
	j.t.Helper()
	dir := filepath.Join(j.Nodes[i].Dir, "mesh")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		j.t.Fatal(err)
	}
	j.joinWith(i, 1-i)
	_, err := j.Nodes[i].StartAgent(within(j.t, 30*time.Second), append(j.FlagsFor(i, j.store(i)), "--routing="+routing,
		"--cluster-name="+clusterNames[i], fmt.Sprintf("--cluster-id=%d", i+1), "--clustermesh-config="+dir)...)
	if err != nil {
		j.t.Fatal(err)
	}
}

// joinWith writes the file by which a node's cluster reads another's store.
func (j *joined) joinWith(i, other int) {
	j.t.Helper()
	text := fmt.Sprintf("endpoints: [%q]\n", j.store(other).URL())
	if err := os.WriteFile(j.meshFile(i), []byte(text), 0o600); err != nil {
		j.t.Fatal(err)
	}
}

func (j *joined) meshFile(i int) string {
	return filepath.Join(j.Nodes[i].Dir, "mesh", clusterNames[1-i])
}

func (j *joined) store(i int) *lab.Etcd {
	if i == 0 {
		return j.Etcd
	}
	return j.east
}

// TestJoinedClusters has workloads of two clusters reach each other under policies that
// name clusters, also while one store is lost.
func TestJoinedClusters(t *testing.T) {
	for _, routing := range []string{"vxlan", "native"} {
		t.Run(routing, func(t *testing.T) {
			j := join(t, routing)
			j.meet()
			j.expect(j.attempts("without policy", func(string, string) bool { return true }))

			// Labels alone are those of both clusters; with the cluster's, of one.
			j.apply(lab.AllowRule(`"fromEndpoints": [{"matchLabels": {"id": "app2"}}]`, lab.L4Rules["TCP"]))
			j.expect(j.attempts("app2 of both", func(from, probe string) bool { return from == "app2" && probe == "TCP" }))
			j.onlyFromEast("east's app2 only")
			if err := j.east.Kill(); err != nil {
				t.Fatal(err)
			}
			j.onlyFromEast("while east's store is lost")
			j.awaitStatus("Not connected, id 2, 3 identities, 6 addresses; etcd at " + j.east.URL())
			// An agent that starts meanwhile knows who was who.
			if err := j.Nodes[0].KillAgent(); err != nil {
				t.Fatal(err)
			}
			j.startCluster(0, routing)
			j.awaitStatus("Not connected, id 2, 3 identities, 0 addresses; etcd at " + j.east.URL())
			j.onlyFromEast("after a restart while east's store is lost")
			// What goes on in west is not disturbed.
			late := j.workload(j.Nodes[0], "app4")
			lab.Reaches(t, lab.Probes[2], "while east's store is lost, a new workload", late.Namespace, j.apps["app2"][0].IPv4, true)
			if err := j.east.Start(within(t, 20*time.Second)); err != nil {
				t.Fatal(err)
			}
			// A workload that starts in east after that is known in west.
			fresh := j.workload(j.Nodes[1], "app5")
			j.await(j.Nodes[0], fresh.IPv4)

			// A cluster that is not joined any more is the world.
			if err := os.Remove(j.meshFile(0)); err != nil {
				t.Fatal(err)
			}
			j.awaitGone(j.Nodes[0], fresh.IPv4.String())
			if err := j.Nodes[0].Apply(within(t, 30*time.Second), lab.AllowRule(`"fromEndpoints": [{"matchLabels": {"id": "app2"}}]`, lab.L4Rules["TCP"])); err != nil {
				t.Fatal(err)
			}
			lab.Reaches(t, lab.Probes[0], "after the clusters parted", j.apps["app2"][1].Namespace, j.apps["app1"][0].IPv4, false)
		})
	}
}

// onlyFromEast has app1 everywhere accept east's app2 only.
func (j *joined) onlyFromEast(when string) {
	j.t.Helper()
	j.apply(lab.AllowRule(`"fromEndpoints": [{"matchLabels": {"id": "app2", "k8s:io.cilium.k8s.policy.cluster": "east"}}]`, lab.L4Rules["TCP"]))
	var list []attempt
	for i := range j.Nodes {
		for to := range j.Nodes {
			for _, addr := range j.addresses("app1", to) {
				what := fmt.Sprintf("%s, app2 of %s", when, clusterNames[i])
				list = append(list, attempt{lab.Probes[0], what, j.apps["app2"][i].Namespace, addr, i == 1})
			}
		}
	}
	j.expect(list)
}

func (j *joined) awaitStatus(want string) {
	j.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		status := j.cli(j.Nodes[0], "status")
		if strings.Contains(status, want) {
			return
		}
		if time.Now().After(end) {
			j.t.Fatalf("status does not say %q:\n%s", want, status)
		}
	}
}

func (c *cluster) awaitGone(n *lab.Node, text string) {
	c.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		rows := c.cli(n, "bpf", "ipcache", "list")
		if !strings.Contains(rows, text) {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("node %s still knows %s:\n%s", n.Name, text, rows)
		}
	}
}

// TestClustersThatCannotBeJoined names each mistake in the status.
func TestClustersThatCannotBeJoined(t *testing.T) {
	j := join(t, "vxlan")
	j.meet()
	mesh := filepath.Join(j.Nodes[0].Dir, "mesh")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(mesh, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("west", fmt.Sprintf("endpoints: [%q]\n", j.Etcd.URL()))
	j.awaitStatus("names this cluster itself: remove the file")
	write("north", fmt.Sprintf("endpoints: [%q]\n", j.east.URL()))
	j.awaitStatus("no agent of a cluster named north has written to its store yet")
	write("south", "endpoints: {\n")
	j.awaitStatus("mesh/south")
	j.setKey(j.Nodes[1], "cilium/cluster-config/north", `{"id":2}`)
	j.awaitStatus("cluster north has the number 2 of east: give one of them another --cluster-id")
	j.setKey(j.Nodes[1], "cilium/state/identities/v1/id/70000", "container:id=evil;")
	j.awaitStatus("identity 70000 is none of cluster 2")
	// The cluster that was joined well is, still.
	lab.Reaches(t, lab.Probes[0], "beside all that", j.apps["app2"][1].Namespace, j.apps["app1"][0].IPv4, true)
}

func (c *cluster) setKey(n *lab.Node, key, value string) {
	c.t.Helper()
	c.cli(n, "kvstore", "set", key, value)
}
