// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"cilium.local/cilium/test/bench/load"
	"cilium.local/cilium/test/lab"
)

// setup is a client and a server with something between them.
type setup struct {
	key, name string
	node      *lab.Node
	other     *lab.Node  // where traffic is between two nodes
	agent     *lab.Agent // nil where there is none
	pair      *load.Pair
	extra     []*lab.Namespace
}

// close ends everything of the setup.
func (s *setup) close() error {
	var err error
	for _, n := range []*lab.Node{s.other, s.node} {
		if n != nil {
			err = errors.Join(err, n.Close())
		}
	}
	for _, ns := range s.extra {
		ns.Close()
	}
	return err
}

// rule lets clients reach the servers' ports, and closes the servers for all else.
var l4Rule = fmt.Sprintf(`{"labels": ["name=bench"], "endpointSelector": {"matchLabels": {"role": "server"}}, "ingress": [{
	"fromEndpoints": [{"matchLabels": {"role": "client"}}],
	"toPorts": [{"ports": [{"port": "%d", "endPort": %d, "protocol": "TCP"}, {"port": "%d", "protocol": "UDP"}]}]}]}`,
	load.FirstPort, load.LastTCPPort, load.UDPPort)

// The setups, by the keys of the report.
const (
	keyPair    = "a"
	keyRouted  = "b"
	keyNft     = "c"
	keyOpen    = "d"
	keyPolicy  = "e"
	keyLarge   = "f"
	keyNoFlows = "g"
)

// recipe says how a setup is made.
type recipe struct {
	key, name string
	plain     func(ctx context.Context, s *setup, client, server *lab.Namespace) (at netip.Addr, err error)
	flags     []string // of the agent, where plain is nil
	rules     func() string
	large     bool // with the store of a large cluster
	apart     bool // client and server are on two nodes
}

func oneRule() string { return "[" + l4Rule + "]" }

func recipes() []recipe {
	return []recipe{
		{key: keyPair, name: "plain veth pair", plain: func(_ context.Context, _ *setup, client, server *lab.Namespace) (netip.Addr, error) {
			return direct(client, server)
		}},
		{key: keyRouted, name: "kernel routing", plain: func(_ context.Context, s *setup, client, server *lab.Namespace) (netip.Addr, error) {
			return routed(s.node, client, server)
		}},
		{key: keyNft, name: "nftables", plain: func(ctx context.Context, s *setup, client, server *lab.Namespace) (netip.Addr, error) {
			at, err := routed(s.node, client, server)
			if err == nil {
				err = firewall(ctx, s.node)
			}
			return at, err
		}},
		{key: keyOpen, name: "ours, no policy"},
		{key: keyPolicy, name: "ours, L4 policy", rules: oneRule},
		{key: keyLarge, name: "ours, 1000 rules, 10000 identities", rules: largeRules, large: true},
		{key: keyNoFlows, name: "ours, L4 policy, flow visibility off", rules: oneRule, flags: []string{"--flow-visibility=false"}},
	}
}

// setup builds what the recipe says, with both ends of the load running.
func (b *bench) setup(ctx context.Context, r recipe) (*setup, error) {
	s := &setup{key: r.key, name: r.name}
	if err := b.build(ctx, s, r); err != nil {
		return nil, errors.Join(fmt.Errorf("set up %s: %w", r.name, err), s.close())
	}
	return s, nil
}

func (b *bench) build(ctx context.Context, s *setup, r recipe) (err error) {
	if s.node, err = lab.Create("bench-"+r.key, lab.Options{Forward: r.plain != nil || r.apart}); err != nil {
		return err
	}
	if r.apart {
		if err := s.addNode(r); err != nil {
			return err
		}
	}
	var client, server *lab.Namespace
	var at netip.Addr
	switch {
	case r.plain != nil:
		client, server, at, err = s.plain(ctx, r)
	case r.apart:
		client, server, at, err = s.oursApart(ctx, r)
	default:
		client, server, at, err = b.ours(ctx, s, r)
	}
	if err != nil {
		return err
	}
	if s.pair, err = load.Start(s.node, b.processor, client, server, at); err != nil {
		return err
	}
	return s.check()
}

func (s *setup) plain(ctx context.Context, r recipe) (client, server *lab.Namespace, at netip.Addr, err error) {
	if client, err = lab.NewNamespace("client"); err != nil {
		return
	}
	s.extra = append(s.extra, client)
	if server, err = lab.NewNamespace("server"); err != nil {
		return
	}
	s.extra = append(s.extra, server)
	at, err = r.plain(ctx, s, client, server)
	return
}

func (b *bench) ours(ctx context.Context, s *setup, r recipe) (client, server *lab.Namespace, at netip.Addr, err error) {
	flags := r.flags
	if r.large {
		cluster, err := b.largeCluster(ctx)
		if err != nil {
			return nil, nil, at, err
		}
		flags = append(flags, "--kvstore-endpoints="+cluster.endpoint())
	}
	if s.agent, err = s.node.StartAgent(ctx, flags...); err != nil {
		return
	}
	for _, role := range []string{"client", "server"} {
		c, err := s.node.Container(ctx, "bench-"+r.key+"-"+role, "role="+role)
		if err != nil {
			return nil, nil, at, err
		}
		s.extra = append(s.extra, c.Namespace)
		client, server = server, c.Namespace
	}
	if r.rules != nil {
		err = importRules(ctx, s.node, r.rules())
	}
	return client, server, server.IPv4, err
}

// check sends a little of each kind, so that a setup which does not work is found
// before anything is measured.
func (s *setup) check() error {
	for _, kind := range load.Kinds() {
		if _, err := s.pair.Run(kind, checkDuration); err != nil {
			return err
		}
	}
	return nil
}
