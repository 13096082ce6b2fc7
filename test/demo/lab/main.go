// SPDX-License-Identifier: Apache-2.0

// Command lab makes a cluster of nodes for a person to try things on, says how, and
// removes it again when it is interrupted. Nodes and workloads are network namespaces;
// the machine's own network is not touched.
package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cilium.local/cilium/test/lab"
)

//go:embed scripts
var scripts embed.FS

func main() {
	nodes := flag.Int("nodes", 3, "number of nodes, 1 to 50")
	routing := flag.String("routing", "vxlan", "how packets travel between them: vxlan, geneve or native")
	flag.Parse()
	if err := run(*nodes, *routing); err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
		os.Exit(1)
	}
}

func run(nodes int, routing string) (err error) {
	switch {
	case os.Geteuid() != 0:
		return errors.New("needs root: it makes namespaces and loads BPF programs")
	case nodes < 1 || nodes > 50:
		return fmt.Errorf("NODES=%d: use 1 to 50", nodes)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	fmt.Printf("Starting etcd and %d nodes ...\n", nodes)
	c, err := lab.CreateCluster(ctx, lab.ClusterOptions{Nodes: nodes, Flags: []string{"--health-interval=2s"}})
	if err != nil {
		return err
	}
	p := &playground{cluster: c, dir: filepath.Join(c.Nodes[0].Dir, "lab")}
	defer func() {
		err = errors.Join(err, c.Close())
		fmt.Println("\nEverything is stopped and removed.")
	}()
	if err := c.StartAgents(ctx, "--routing="+routing); err != nil {
		return ended(ctx, err)
	}
	if err := p.setUp(ctx); err != nil {
		return ended(ctx, err)
	}
	p.explain(routing)
	<-ctx.Done()
	return nil
}

// ended is no error once the lab is interrupted, which may break anything.
func ended(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
		return err
	}
}

// playground is a cluster with a folder of commands for it.
type playground struct {
	cluster *lab.Cluster
	dir     string
}

// setUp writes the commands, and starts a server on every node and a client beside it.
func (p *playground) setUp(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(p.dir, "nodes"), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(p.dir, "bin"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"attach", "detach"} {
		if err := p.script(name, name); err != nil {
			return err
		}
	}
	for _, n := range p.cluster.Nodes {
		if err := p.addNode(ctx, n); err != nil {
			return err
		}
		for _, name := range []string{"server", "client"} {
			out, err := n.Command(ctx, filepath.Join(p.dir, "bin", n.Name), "attach", name, "id="+name).CombinedOutput()
			if err != nil {
				return fmt.Errorf("start %s on %s: %w: %s", name, n.Name, err, out)
			}
		}
	}
	return p.meet(ctx)
}

// meet waits until every node reaches all others.
func (p *playground) meet(ctx context.Context) error {
	others := len(p.cluster.Nodes) - 1
	want := fmt.Sprintf(" %d of %d that were asked\n", others, others)
	for _, n := range p.cluster.Nodes {
		for end := time.Now().Add(20 * time.Second); others > 0; time.Sleep(50 * time.Millisecond) {
			status, err := n.CLI(ctx, "status")
			if err != nil {
				return err
			}
			if strings.Contains(status.Stdout, want) {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("%s does not reach all others:\n%s", n.Name, status.Stdout)
			}
		}
	}
	return nil
}

func (p *playground) script(from, to string) error {
	text, err := scripts.ReadFile("scripts/" + from)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(p.dir, "bin", to), text, 0o755)
}

// holderScript keeps a mount namespace in which the node's workloads have their names.
const holderScript = `mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && echo ready && exec sleep infinity`

// addNode makes the command that is named like the node.
func (p *playground) addNode(ctx context.Context, n *lab.Node) error {
	holder := n.Command(context.WithoutCancel(ctx), "unshare", "--mount", "--propagation", "private", "sh", "-c", holderScript)
	var out lockedBuffer
	holder.Stdout, holder.Stderr = &out, &out
	if err := n.Start(holder); err != nil {
		return err
	}
	go func() { _ = holder.Wait() }() // it is killed with the node
	for end := time.Now().Add(5 * time.Second); !bytes.Contains(out.bytes(), []byte("ready")); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("mount namespace of %s: %s", n.Name, out.bytes())
		}
	}
	programs, err := lab.Build()
	if err != nil {
		return err
	}
	facts := fmt.Sprintf("HOLDER=%d\nCILIUM_SOCK=%s\nQUEUE=%s\nPROGRAMS=%s\n",
		holder.Process.Pid, n.Socket, filepath.Join(n.StateDir, "deletions"), programs)
	if err := os.WriteFile(filepath.Join(p.dir, "nodes", n.Name), []byte(facts), 0o644); err != nil {
		return err
	}
	return p.script("node", n.Name)
}
