// SPDX-License-Identifier: Apache-2.0

// Command cluster shows nodes that know each other through etcd: three by VXLAN, three
// by native routing, and two clusters joined. On each, workloads talk across nodes, and
// what arrives is checked against what the rules say.
//
// Nodes, workloads and the wire between them are network namespaces of this process,
// which are gone when it ends; agents and what they pinned are removed, also after an
// interrupt.
package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cilium.local/cilium/test/demo/show"
	"cilium.local/cilium/test/lab"
)

//go:embed rules
var rules embed.FS

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "demo-cluster: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: it makes namespaces and loads BPF programs")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	bin, err := lab.Build()
	if err != nil {
		return err
	}
	d := &demo{ctx: ctx, bin: bin}
	d.Show = show.New(ctx, "demo-cluster", d.command)
	d.Say("What is run on a node is written behind its name; etcd and the nodes are on one wire.")
	for _, part := range []struct {
		nodes int
		show  func() error
	}{{3, d.overlay}, {3, d.native}, {2, d.joined}} {
		if err := d.part(part.nodes, part.show); err != nil {
			return err
		}
	}
	return d.Finish()
}

// demo is the demonstration, and the cluster of its present part.
type demo struct {
	*show.Show
	ctx     context.Context
	bin     string // folder of our programs
	cluster *lab.Cluster
	apps    map[string][]*lab.Workload // by the label id, one of each node
}

// part makes a cluster, shows something on it, and removes it.
func (d *demo) part(nodes int, show func() error) (err error) {
	if d.cluster, err = lab.CreateCluster(d.ctx, lab.ClusterOptions{Nodes: nodes, Flags: []string{"--health-interval=1s"}}); err != nil {
		return d.interrupted(err)
	}
	defer func() {
		failed := d.cluster.Close()
		d.cluster = nil
		err = errors.Join(d.interrupted(err), failed)
	}()
	d.apps = map[string][]*lab.Workload{}
	if err := os.CopyFS(d.cluster.Nodes[0].Dir, rules); err != nil {
		return err
	}
	if err := show(); err != nil {
		return err
	}
	if d.Failed() {
		for _, n := range d.cluster.Nodes {
			fmt.Printf("the agent's log on %s:\n%s", n.Name, n.Log(60))
		}
	}
	return nil
}

// interrupted says instead of any consequence of an interrupt that there was one.
func (d *demo) interrupted(err error) error {
	if d.ctx.Err() != nil {
		return errors.New("interrupted; everything is stopped and removed")
	}
	return err
}

// command runs a command on the node of that name, where ours find their agent.
func (d *demo) command(ctx context.Context, node string, args ...string) *exec.Cmd {
	name := args[0]
	if name == "cilium" {
		name = filepath.Join(d.bin, name)
	}
	n := d.node(node)
	cmd := n.Command(ctx, name, args[1:]...)
	cmd.Env = append(os.Environ(), "CILIUM_SOCK="+n.Socket)
	cmd.Dir = filepath.Join(d.cluster.Nodes[0].Dir, "rules")
	return cmd
}

func (d *demo) node(name string) *lab.Node {
	for _, n := range d.cluster.Nodes {
		if n.Name == name {
			return n
		}
	}
	panic("no node " + name)
}

// soon is how long nodes may take to learn of each other.
const soon = 20 * time.Second

// until waits until a command on a node prints all the texts.
func (d *demo) until(node string, args []string, texts ...string) bool {
	for end := time.Now().Add(soon); time.Now().Before(end) && d.ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		if hasAll(d.Value(node, args...), texts...) {
			return true
		}
	}
	return false
}

func hasAll(text string, parts ...string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// connect starts app1, app2 and app3 on every node, has app1 answer, and waits until all
// nodes know all of them.
func (d *demo) connect() error {
	for _, n := range d.cluster.Nodes {
		for _, name := range []string{"app1", "app2", "app3"} {
			w, err := n.Workload(d.ctx, name, "container:id="+name)
			if err != nil {
				return err
			}
			d.apps[name] = append(d.apps[name], w)
		}
	}
	var addresses []string
	for _, list := range d.apps {
		for _, w := range list {
			addresses = append(addresses, w.IPv4.String()+"/32 ", w.IPv6.String()+"/128 ")
		}
	}
	for i, n := range d.cluster.Nodes {
		if err := serve(d.apps["app1"][i].Namespace); err != nil {
			return err
		}
		if !d.until(n.Name, []string{"cilium", "bpf", "ipcache", "list"}, addresses...) && d.ctx.Err() == nil {
			return fmt.Errorf("%s does not know all workloads after %v", n.Name, soon)
		}
	}
	return nil
}
