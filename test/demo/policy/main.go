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
	"slices"
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
	defer func() {
		failed := n.Close()
		if ctx.Err() != nil {
			err = errors.New("interrupted; everything is stopped and removed")
		}
		err = errors.Join(err, failed)
	}()
	bin, err := lab.Build()
	if err != nil {
		return err
	}
	d := &demo{ctx: ctx, node: n, bin: bin, dir: filepath.Join(n.Dir, "rules")}
	d.Show = show.New(ctx, "demo-policy", d.command)
	if err := d.setUp(); err != nil {
		return err
	}
	for _, step := range []func() error{
		d.deny, d.tiers, d.audit, d.prefixes, d.simulate, d.explain, d.hits, d.lint, d.removal,
	} {
		if err := step(); err != nil {
			return err
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

// workloads are who is on the node.
var workloads = []struct{ name, app, env string }{
	{"db", "db", "prod"}, {"web", "web", "prod"}, {"batch", "batch", "prod"}, {"tester", "web", "test"},
}

// demo is the demonstration: the database, and who asks it.
type demo struct {
	*show.Show
	ctx       context.Context
	node      *lab.Node
	bin, dir  string // of our programs, and of the rules
	db        *lab.Container
	workloads []*lab.Container // as in the variable
	clients   []client
}

// client is somebody who talks to the database.
type client struct {
	name   string
	labels []string // by which a record of flows names it; none: by its address
	from   *lab.Namespace
	ipv6   bool // whether it has an address of both families
}

// command has a command begin in the folder of the rules, find our programs, and
// these the node's agent.
func (d *demo) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if name == "cilium" { // by its path: the PATH below is the command's, and not looked at here
		name = filepath.Join(d.bin, name)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "CILIUM_SOCK="+d.node.Socket, "CNI_PATH="+d.bin, "PATH="+d.bin+":"+os.Getenv("PATH"))
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
	for _, w := range workloads {
		c, err := d.connect(w.name, "app="+w.app, "env="+w.env)
		if err != nil {
			return err
		}
		d.workloads = append(d.workloads, c)
		d.clients = append(d.clients, client{w.name, []string{"container:app=" + w.app, "container:env=" + w.env}, c.Namespace, true})
	}
	d.db, d.clients = d.workloads[0], d.clients[1:]
	d.clients = append(d.clients, client{"the node", []string{"reserved:host"}, d.node.Namespace, true})
	for _, addr := range append([]netip.Addr{d.node.Outside.IPv4}, partners...) {
		d.clients = append(d.clients, client{addr.String(), nil, d.node.Outside.From(addr), false})
	}
	out, exit := d.Run("cilium", "endpoint", "list")
	d.Check(exit == 0 && strings.Count(out, "ready") == len(d.workloads), "%d endpoints are ready", len(d.workloads))
	return d.serve()
}

// connect makes a workload and has the CNI plugin connect it, as a runtime would.
func (d *demo) connect(name string, labels ...string) (*lab.Container, error) {
	c, err := d.node.NewContainer(name)
	if err != nil {
		return nil, err
	}
	conf, err := c.PluginConf(labels...)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(d.dir, name+".conf"), append(conf, '\n'), 0o600); err != nil {
		return nil, err
	}
	if len(d.workloads) == 0 { // one is like another
		d.Run("cat", name+".conf")
	}
	if exit := d.plugin(c, name, "ADD", " > "+name+".result"); exit != 0 {
		return nil, fmt.Errorf("connect workload %s: the plugin ends with %d", name, exit)
	}
	result, err := os.ReadFile(filepath.Join(d.dir, name+".result"))
	if err != nil {
		return nil, err
	}
	if err := c.Connected(result); err != nil {
		return nil, err
	}
	return c, nil
}

// plugin runs the CNI plugin for a workload.
func (d *demo) plugin(c *lab.Container, name, operation, output string) (exit int) {
	_, exit = d.Run("sh", "-c", strings.Join(c.PluginVariables(operation), " ")+" cilium-cni < "+name+".conf"+output)
	return exit
}

// serve has the database answer.
func (d *demo) serve() error {
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
	_, exit := d.Run("cilium", "policy", "delete", "--all")
	d.Check(exit == 0, "no rule is left")
	_, exit = d.Run("cilium", "policy", "import", "--wait", file)
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

// asks has a client ask by TCP in both families, and checks what comes of it.
func (d *demo) asks(name string, answered bool) { d.asksBy("TCP", name, answered) }

// asksBy is asks with another protocol.
func (d *demo) asksBy(protocol, name string, answered bool) {
	at := slices.IndexFunc(d.clients, func(c client) bool { return c.name == name })
	c := d.clients[at]
	for _, ipv6 := range []bool{false, true}[:1+btoi(c.ipv6)] {
		d.Say("%s asks db, %s %d, IPv%d", name, protocol, port, 4+2*btoi(ipv6))
		wanted := map[bool]string{true: "it is answered", false: "no answer"}[answered]
		d.Check(d.ask(c, protocol, ipv6) == answered, "%s", wanted)
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
