// SPDX-License-Identifier: Apache-2.0

// Package health tells whether nodes reach each other: each asks all others, in turn, by
// ICMP echo and by HTTP on their addresses in the network between the nodes, and answers
// the others. It also asks the address that a node has in the range of its workloads, by
// ICMP: the question takes the way of their packets, through the tunnel if there is one.
// What it finds bears on nothing that packets do.
package health

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"cilium.local/cilium/internal/nodes"
)

// Protocol is a way to ask a node.
type Protocol string

// The protocols, under the names that metrics have.
const (
	ICMP Protocol = "icmp"
	HTTP Protocol = "http"
)

// Probe is what came of asking one address of a node the last time.
type Probe struct {
	Protocol Protocol
	Addr     netip.Addr
	Gateway  bool          // the address is that of the node among its workloads
	Latency  time.Duration // 0 with an error
	Err      error
	At       time.Time // of the question
	// Reached is when there was an answer last; zero: not since the node is known.
	Reached time.Time
}

// Result is a node with its probes; without any it was not asked yet.
type Result struct {
	Node   nodes.Node
	Probes []Probe
}

// Reached says whether all probes of the node were answered.
func (r Result) Reached() bool {
	return len(r.Probes) > 0 && !slices.ContainsFunc(r.Probes, func(p Probe) bool { return p.Err != nil })
}

// Config says how often and how long. Zero values mean the defaults.
type Config struct {
	Interval time.Duration // between two questions to one node; 60 s
	Timeout  time.Duration // of one question; 3 s
	Parallel int           // nodes that are asked at one time; 16
	// IPv4Gateways and IPv6Gateways have the nodes' addresses among their workloads asked,
	// too, which takes a range of that family here.
	IPv4Gateways, IPv6Gateways bool
}

func (c *Config) setDefaults() {
	c.Interval = cmp.Or(c.Interval, time.Minute)
	c.Timeout = cmp.Or(c.Timeout, 3*time.Second)
	c.Parallel = cmp.Or(c.Parallel, 16)
}

// Prober asks the other nodes. It is safe for concurrent use. Make it with New.
type Prober struct {
	cfg     Config
	client  *http.Client
	changed chan struct{}

	mu      sync.Mutex
	targets map[nodes.Key]*target
}

// target is a node at one place. What is found out about it after it has moved or gone
// stays with the old target, which nobody asks for.
type target struct {
	node   nodes.Node
	due    time.Time
	busy   bool // it is being asked
	failed int  // questions since all was well
	probes []Probe
}

// New returns a prober that knows no nodes.
func New(cfg Config) *Prober {
	cfg.setDefaults()
	return &Prober{cfg: cfg, client: newClient(), changed: make(chan struct{}, 1), targets: map[nodes.Key]*target{}}
}

// spread is how many parts of the interval the first questions to new nodes are apart.
const spread = 60

// NodesChanged takes over news of other nodes. It does not block. New nodes are asked
// soon, one after the other.
func (p *Prober) NodesChanged(changes []nodes.Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	due, pause := time.Now(), p.cfg.Interval/time.Duration(max(spread, len(changes)))
	for _, c := range changes {
		known := p.targets[c.Node.Key()]
		switch {
		case c.Gone:
			delete(p.targets, c.Node.Key())
		case known != nil && known.node.SamePlace(c.Node) && known.node.HealthPort == c.Node.HealthPort:
			known.node = c.Node
		default:
			p.targets[c.Node.Key()] = &target{node: c.Node, due: due}
			due = due.Add(pause)
		}
	}
	p.wake()
}

// wake has Run look anew who has its turn.
func (p *Prober) wake() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Results returns the other nodes with what their probes came to, by cluster and name.
func (p *Prober) Results() []Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]Result, 0, len(p.targets))
	for _, t := range p.targets {
		list = append(list, Result{t.node, slices.Clone(t.probes)})
	}
	slices.SortFunc(list, func(a, b Result) int {
		return cmp.Or(cmp.Compare(a.Node.Cluster, b.Node.Cluster), cmp.Compare(a.Node.Name, b.Node.Name))
	})
	return list
}

// Run asks the nodes until ctx ends.
func (p *Prober) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	defer p.client.CloseIdleConnections()
	room := make(chan struct{}, p.cfg.Parallel)
	for {
		t, wait := p.next(time.Now())
		if t == nil {
			select {
			case <-ctx.Done():
				return nil
			case <-p.changed:
			case <-time.After(wait):
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case room <- struct{}{}:
		}
		running.Go(func() {
			defer func() { <-room }()
			p.ask(ctx, t)
		})
	}
}

// next returns the target that has waited longest for its turn, and makes its next turn
// an interval later; or how long it takes until one has its turn.
func (p *Prober) next(now time.Time) (t *target, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, other := range p.targets {
		if other.busy {
			continue
		}
		if t == nil || other.due.Before(t.due) {
			t = other
		}
	}
	if t == nil {
		return nil, p.cfg.Interval
	}
	if wait = t.due.Sub(now); wait > 0 {
		return nil, wait
	}
	t.due, t.busy = now.Add(p.cfg.Interval), true
	return t, 0
}

func (p *Prober) ask(ctx context.Context, t *target) {
	p.mu.Lock()
	n, before := t.node, t.probes
	p.mu.Unlock()
	probes := p.questions(ctx, n)
	failed := false
	for i := range probes {
		if probes[i].Err != nil {
			failed = true
			if i < len(before) {
				probes[i].Reached = before[i].Reached
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t.probes, t.busy = probes, false
	t.failed++
	if !failed {
		t.failed = 0
	} else if again := time.Now().Add(time.Second << min(t.failed, 10)); again.Before(t.due) {
		t.due = again // the way may be just being made
	}
	p.wake()
}

func (p *Prober) questions(ctx context.Context, n nodes.Node) (probes []Probe) {
	for _, addr := range n.Underlay() {
		probes = append(probes, p.try(ctx, ICMP, addr, func(ctx context.Context) error { return echo(ctx, addr) }))
		if n.HealthPort != 0 {
			to := netip.AddrPortFrom(addr, n.HealthPort)
			probes = append(probes, p.try(ctx, HTTP, addr, func(ctx context.Context) error { return p.get(ctx, to, n.Key()) }))
		}
	}
	for _, addr := range p.gateways(n) {
		probe := p.try(ctx, ICMP, addr, func(ctx context.Context) error { return echo(ctx, addr) })
		probe.Gateway = true
		probes = append(probes, probe)
	}
	return probes
}

// Answers asks a node at once, and returns the first of its addresses at which its agent
// answers. One that listens nowhere cannot be asked.
func (p *Prober) Answers(ctx context.Context, n nodes.Node) (at netip.Addr, ok bool) {
	if n.HealthPort == 0 {
		return at, false
	}
	for _, addr := range n.Underlay() {
		to := netip.AddrPortFrom(addr, n.HealthPort)
		if p.try(ctx, HTTP, addr, func(ctx context.Context) error { return p.get(ctx, to, n.Key()) }).Err == nil {
			return addr, true
		}
	}
	return at, false
}

// gateways are the node's addresses among its workloads that are asked.
func (p *Prober) gateways(n nodes.Node) (list []netip.Addr) {
	if p.cfg.IPv4Gateways && n.GatewayIPv4.IsValid() {
		list = append(list, n.GatewayIPv4)
	}
	if p.cfg.IPv6Gateways && n.GatewayIPv6.IsValid() {
		list = append(list, n.GatewayIPv6)
	}
	return list
}

func (p *Prober) try(ctx context.Context, by Protocol, addr netip.Addr, question func(context.Context) error) Probe {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	probe := Probe{Protocol: by, Addr: addr, At: time.Now()}
	if probe.Err = plain(question(ctx)); probe.Err == nil {
		probe.Reached = time.Now()
		probe.Latency = probe.Reached.Sub(probe.At)
	}
	return probe
}
