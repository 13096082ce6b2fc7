// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"cilium.local/cilium/test/lab"
)

// vxlanPort is where Linux has VXLAN, and so have we.
const vxlanPort = 8472

// overlay shows three nodes that reach each other by VXLAN.
func (d *demo) overlay() error {
	d.Title("Three nodes, etcd, VXLAN between them")
	if err := d.cluster.StartAgents(d.ctx, "--routing=vxlan"); err != nil {
		return err
	}
	d.Check(d.until("node1", []string{"cilium", "status"}, "Nodes reached:      2 of 2"), "node1 knows two others, and reaches them")
	out, exit := d.Run("node1", "cilium", "node", "list")
	d.Check(exit == 0 && hasAll(out, "node2", "10.2.0.0/24", "node3", "10.3.0.0/24"), "each has a range of its own")
	d.Title("app1, app2 and app3 on each node: one identity for each, everywhere")
	if err := d.connect(); err != nil {
		return err
	}
	out, _ = d.Run("node3", "cilium", "identity", "list")
	id := identity(out)
	d.Check(id != 0 && identity(d.Value("node1", "cilium", "identity", "list")) == id, "app2 is %d on node3 and on node1", id)
	d.Title("Without a policy, everybody reaches everybody")
	d.asks("app2", d.everywhere(), true, lab.Probes...)
	frames, err := d.onTheWire()
	if err != nil {
		return err
	}
	tunnelled, plain := d.sort(frames, id)
	d.Check(tunnelled > 0 && plain == 0, "on the wire: %d packets in VXLAN, with the identity %d of app2 as their network", tunnelled, id)
	if err := d.policy(); err != nil {
		return err
	}
	return d.failures()
}

// identity takes app2's number out of the list of identities.
func identity(list string) int {
	found := regexp.MustCompile(`(?m)^(\d+)\s.*container:id=app2`).FindStringSubmatch(list)
	if found == nil {
		return 0
	}
	id, _ := strconv.Atoi(found[1])
	return id
}

// sort counts packets from the first node's app2 to the second's app1: in VXLAN, with the
// sender's identity, or as they are.
func (d *demo) sort(frames []lab.Frame, id int) (tunnelled, plain int) {
	for _, f := range frames {
		if f.From == d.apps["app2"][0].IPv4 && f.To == d.apps["app1"][1].IPv4 {
			plain++
		}
		if vni, ok := f.VNI(vxlanPort); ok && int(vni) == id {
			tunnelled++
		}
	}
	return tunnelled, plain
}

// load has the rules of a file on every node, and no others.
func (d *demo) load(file string) {
	d.Run("node1", "cat", file)
	for i, n := range d.cluster.Nodes {
		d.Value(n.Name, "cilium", "policy", "delete", "--all")
		if i > 0 {
			d.Value(n.Name, "cilium", "policy", "import", "--wait", file)
			continue
		}
		_, exit := d.Run(n.Name, "cilium", "policy", "import", "--wait", file)
		d.Check(exit == 0, "the rules are in force; the other nodes get the same")
	}
}

// policy shows rules that hold across nodes, and a drop with both sides' labels.
func (d *demo) policy() error {
	d.Title("A policy holds between all nodes, and within each")
	d.load("app1.yaml")
	d.cases()
	d.Title("Who was denied, though the sender is on another node?")
	w, err := d.Watch("node1", "cilium", "monitor", "--type", "drop", "-v")
	if err != nil {
		return err
	}
	defer w.Stop()
	w.Wait("Listening", soon)
	d.Say("app3 of node3 asks app1 of node1")
	to := d.apps["app1"][0].IPv4
	_ = tcp.Check(d.ctx, "", d.apps["app3"][2].Namespace, to, false)
	text := w.Wait("destination:", soon)
	d.Say("%s", strings.TrimSpace(text))
	d.Check(hasAll(text, "Policy denied", "by tunnel from "+d.cluster.Nodes[2].IPv4.String(), "source: container:id=app3", "destination: container:id=app1", "name=app1"),
		"the drop names node, both sides' labels and the rule")
	return nil
}

// failures shows what goes on without agents and without the store.
func (d *demo) failures() error {
	d.Title("All agents are killed, and etcd with them")
	for _, n := range d.cluster.Nodes {
		if err := n.KillAgent(); err != nil {
			return err
		}
	}
	if err := d.cluster.Etcd.Kill(); err != nil {
		return err
	}
	d.asks("app2", d.everywhere(), true, tcp)
	d.asks("app3", d.everywhere(), false, tcp)
	d.Title("The agents are back, etcd is not")
	if err := d.cluster.StartAgents(d.ctx, "--routing=vxlan"); err != nil {
		return err
	}
	out, _ := d.Run("node2", "cilium", "status")
	d.Check(strings.Contains(out, "key-value store is unreachable"), "the status says what is missing")
	d.asks("app2", d.everywhere(), true, tcp)
	d.asks("app3", d.everywhere(), false, tcp)
	return nil
}

// native shows the same by the network's own routes.
func (d *demo) native() error {
	d.Title("Three nodes with native routing: no tunnel, routes between the nodes")
	if err := d.cluster.StartAgents(d.ctx, "--routing=native"); err != nil {
		return err
	}
	if err := d.connect(); err != nil {
		return err
	}
	out, _ := d.Run("node1", "ip", "-4", "route")
	d.Check(hasAll(out, "10.2.0.0/24 via "+d.cluster.Nodes[1].IPv4.String(), "10.3.0.0/24 via "+d.cluster.Nodes[2].IPv4.String()), "node1 has a route to each other's range")
	d.asks("app2", d.everywhere(), true, lab.Probes...)
	frames, err := d.onTheWire()
	if err != nil {
		return err
	}
	_, plain := d.sort(frames, 0)
	d.Check(plain > 0, "on the wire: %d packets as app2 sent them", plain)
	d.load("app1.yaml")
	d.cases()
	return nil
}

// joined shows two clusters of one node each.
func (d *demo) joined() error {
	d.Title("Two clusters, west and east, with an etcd each; each reads the other's")
	stores := []*lab.Etcd{d.cluster.Etcd, d.cluster.NewEtcd(2479)}
	if err := stores[1].Start(d.ctx); err != nil {
		return err
	}
	names := []string{"west", "east"}
	for i, n := range d.cluster.Nodes {
		other := filepath.Join(n.Dir, "clusters", names[1-i])
		if err := os.MkdirAll(filepath.Dir(other), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(other, fmt.Appendf(nil, "endpoints: [%q]\n", stores[1-i].URL()), 0o600); err != nil {
			return err
		}
		d.Run(n.Name, "tail", "-v", "-n", "+1", other)
		_, err := n.StartAgent(d.ctx, append(d.cluster.FlagsFor(i, stores[i]), "--routing=vxlan", "--cluster-name="+names[i],
			fmt.Sprintf("--cluster-id=%d", i+1), "--clustermesh-config="+filepath.Dir(other))...)
		if err != nil {
			return err
		}
	}
	if err := d.connect(); err != nil {
		return err
	}
	out, _ := d.Run("node1", "cilium", "node", "list")
	d.Check(strings.Contains(out, "east/node2"), "west's node knows that of east")
	d.asks("app2", d.everywhere(), true, lab.Probes...)
	d.Title("Labels are those of both clusters")
	d.load("app1.yaml")
	d.cases()
	d.Title("One label tells the clusters apart")
	d.load("east.yaml")
	d.asks("app2", []int{1}, true, tcp)
	d.asks("app2", []int{0}, false, tcp)
	d.Title("East's store is lost: nothing changes in west")
	if err := stores[1].Kill(); err != nil {
		return err
	}
	d.Check(d.until("node1", []string{"cilium", "status"}, "Cluster east:       Not connected"), "west's status says so")
	d.asks("app2", []int{1}, true, tcp)
	d.asks("app2", []int{0}, false, tcp)
	return nil
}
