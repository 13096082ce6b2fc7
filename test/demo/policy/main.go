// SPDX-License-Identifier: Apache-2.0

// Command policy shows the policy language at work on one node: each step loads
// rules, sends packets between workloads, and checks what arrives against what the
// rules say.
//
// Node and workloads are network namespaces of this process, which are gone when it
// ends; an agent and what it pinned are removed, also after an interrupt.
package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"cilium.local/cilium/test/demo/show"
	"cilium.local/cilium/test/lab"
)

//go:embed rules
var rules embed.FS

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "demo-policy: %v\n", err)
		os.Exit(1)
	}
}

func run() (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root: it makes namespaces and loads BPF programs")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	n, err := lab.Create("node1", lab.Options{Outside: true, Forward: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	d := &demo{ctx: ctx, node: n, dir: filepath.Join(n.Dir, "rules")}
	d.Show = show.New(ctx, "demo-policy", d.command)
	if err := d.setUp(); err != nil {
		return err
	}
	for _, step := range []func() error{
		d.deny, d.tiers, d.audit, d.prefixes, d.simulate, d.explain, d.hits, d.lint,
	} {
		if err := step(); err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
	}
	if d.Failed() {
		fmt.Print(n.Log(100))
	}
	return d.Finish()
}

// port is where the database answers.
const port = 80

// Addresses outside, beside the main one.
var partners = []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("198.51.100.9")}

// demo is the demonstration: the database, and who asks it.
type demo struct {
	*show.Show
	ctx     context.Context
	node    *lab.Node
	dir     string
	db      *lab.Workload
	clients []client
}

// client is somebody who talks to the database.
type client struct {
	name   string
	labels []string // by which a record of flows names it; none: by its address
	from   *lab.Namespace
	ipv6   bool // whether it has an address of both families
}

// command has a command begin in the folder of the rules, and ours speak to the
// node's agent.
func (d *demo) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	bin, err := lab.Build()
	if name != "cilium" || err != nil {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = d.dir
		return cmd
	}
	cmd := d.node.Command(ctx, filepath.Join(bin, name), args...)
	cmd.Env = append(os.Environ(), "CILIUM_SOCK="+d.node.Socket)
	cmd.Dir = d.dir
	return cmd
}

func (d *demo) setUp() error {
	if err := os.CopyFS(d.dir, rules); err != nil {
		return err
	}
	d.dir = filepath.Join(d.dir, "rules")
	if err := d.node.Outside.AddAddresses(partners...); err != nil {
		return err
	}
	if _, err := d.node.StartAgent(d.ctx); err != nil {
		return err
	}
	d.Title("A node with four workloads, told apart by labels, and three addresses outside")
	for _, w := range []struct{ name, env string }{{"db", "prod"}, {"web", "prod"}, {"batch", "prod"}, {"tester", "test"}} {
		app := w.name
		if app == "tester" {
			app = "web"
		}
		workload, err := d.node.Workload(d.ctx, w.name, "container:app="+app, "container:env="+w.env)
		if err != nil {
			return err
		}
		fmt.Printf("%-7s app=%s env=%s  %s  %s\n", w.name, app, w.env, workload.IPv4, workload.IPv6)
		if w.name == "db" {
			d.db = workload
			continue
		}
		d.clients = append(d.clients, client{w.name, []string{"container:app=" + app, "container:env=" + w.env}, workload.Namespace, true})
	}
	d.clients = append(d.clients, client{"the node", []string{"reserved:host"}, d.node.Namespace, true})
	for _, addr := range append([]netip.Addr{d.node.Outside.IPv4}, partners...) {
		d.clients = append(d.clients, client{addr.String(), nil, d.node.Outside.From(addr), false})
	}
	for _, addr := range []netip.Addr{d.db.IPv4, d.db.IPv6} {
		if _, err := d.db.ServeTCP(netip.AddrPortFrom(addr, port)); err != nil {
			return err
		}
		if _, err := d.db.ServeUDP(netip.AddrPortFrom(addr, port)); err != nil {
			return err
		}
	}
	return nil
}

// load has the rules of a file, and no others.
func (d *demo) load(file string) {
	d.Run("cat", file)
	d.Run("cilium", "policy", "delete", "--all")
	_, exit := d.Run("cilium", "policy", "import", "--wait", file)
	d.Check(exit == 0, "the rules are in force")
}

// answer is how long the database may take.
const answer = 500 * time.Millisecond

// ask sends a request, and reports whether it is answered.
func (d *demo) ask(c client, protocol string, ipv6 bool) bool {
	ctx, cancel := context.WithTimeout(d.ctx, answer)
	defer cancel()
	addr := d.db.IPv4
	if ipv6 {
		addr = d.db.IPv6
	}
	to := netip.AddrPortFrom(addr, port)
	switch protocol {
	case "TCP":
		return c.from.RoundTripTCP(ctx, to, []byte("hello")) == nil
	case "UDP":
		return c.from.RoundTripUDP(ctx, to, []byte("hello")) == nil
	}
	return c.from.Ping(ctx, addr) == nil
}

// asks has a client ask in both families, and checks what comes of it.
func (d *demo) asks(name string, answered bool) {
	for _, c := range d.clients {
		if c.name != name {
			continue
		}
		for _, ipv6 := range []bool{false, true}[:1+btoi(c.ipv6)] {
			fmt.Printf("%s asks db, TCP %d, IPv%d\n", name, port, 4+2*btoi(ipv6))
			wanted := map[bool]string{true: "it is answered", false: "no answer"}[answered]
			d.Check(d.ask(c, "TCP", ipv6) == answered, "%s", wanted)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
