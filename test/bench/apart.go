// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/test/bench/load"
	"cilium.local/cilium/test/bench/stats"
	"cilium.local/cilium/test/lab"
)

const (
	sectionVXLAN  = "Traffic between two nodes by VXLAN, IPv4, all on one processor"
	sectionNative = "Traffic between two nodes by native routing, IPv4, all on one processor"

	keyPlainVXLAN  = "h"
	keyOurVXLAN    = "i"
	keyPlainNative = "j"
	keyOurNative   = "k"
)

// betweenNodes measures what passes between containers of two nodes.
func (b *bench) betweenNodes(ctx context.Context) error {
	for _, c := range []contest{byVXLAN(), byRouting()} {
		if err := b.compete(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func byVXLAN() contest {
	return contest{
		section: sectionVXLAN, baseline: keyPlainVXLAN,
		recipes: []recipe{
			{key: keyPlainVXLAN, name: "kernel VXLAN and routing", apart: true, plain: plainVXLAN},
			{key: keyOurVXLAN, name: "ours, L4 policy", apart: true, flags: []string{"--routing=vxlan"}, rules: oneRule},
		},
		goals: []comparison{
			{"TCP request/response, 1 byte, median", keyOurVXLAN, keyPlainVXLAN, stats.AtMost(1.1)},
			{"one TCP stream", keyOurVXLAN, keyPlainVXLAN, stats.AtLeast(0.95)},
		},
	}
}

func byRouting() contest {
	flags := []string{"--routing=native", "--native-routing-cidr=10.0.0.0/8,fd00::/8"}
	return contest{
		section: sectionNative, baseline: keyPlainNative,
		recipes: []recipe{
			{key: keyPlainNative, name: "kernel routing", apart: true, plain: plainRouting},
			{key: keyOurNative, name: "ours, L4 policy", apart: true, flags: flags, rules: oneRule},
		},
		goals: []comparison{
			{"TCP request/response, 1 byte, median", keyOurNative, keyPlainNative, stats.AtMost(1.02)},
			{"one TCP stream", keyOurNative, keyPlainNative, stats.AtLeast(0.98)},
		},
	}
}

// The nodes' addresses on the wire between them.
var (
	wireOne = netip.MustParseAddr("172.30.0.1")
	wireTwo = netip.MustParseAddr("172.30.0.2")
)

// addNode makes the second node, with a wire between both.
func (s *setup) addNode(r recipe) (err error) {
	if s.other, err = lab.Create("bench-"+r.key+"2", lab.Options{Forward: true}); err != nil {
		return err
	}
	return veth(s.node.Namespace, "wire", wireOne, s.other.Namespace, "wire", wireTwo)
}

// oursApart starts an agent on each node, and has the client on the one and the server
// on the other.
func (s *setup) oursApart(ctx context.Context, r recipe) (client, server *lab.Namespace, at netip.Addr, err error) {
	store := "--kvstore-endpoints=unix://" + filepath.Join(s.node.StateDir, "etcd", "sock")
	for _, end := range []struct {
		node  *lab.Node
		flags []string
	}{
		{s.node, []string{"--ipv4-range=10.1.0.0/24", "--ipv6-range=fd01::1:0/112"}},
		{s.other, []string{"--ipv4-range=10.2.0.0/24", "--ipv6-range=fd01::2:0/112", store}},
	} {
		if s.agent, err = end.node.StartAgent(ctx, append(end.flags, r.flags...)...); err != nil {
			return
		}
		if err = importRules(ctx, end.node, r.rules()); err != nil {
			return
		}
	}
	one, err := s.node.Container(ctx, "bench-"+r.key+"-client", "role=client")
	if err != nil {
		return
	}
	two, err := s.other.Container(ctx, "bench-"+r.key+"-server", "role=server")
	if err != nil {
		return
	}
	s.extra = append(s.extra, one.Namespace, two.Namespace)
	return one.Namespace, two.Namespace, two.IPv4, meet(ctx, one.Namespace, two.IPv4)
}

// meetLimit is how long nodes may take to know each other.
const meetLimit = 10 * time.Second

// meet waits until they do.
func meet(ctx context.Context, client *lab.Namespace, server netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, meetLimit)
	defer cancel()
	var err error
	for ctx.Err() == nil {
		// Nobody listens, so being refused is being there.
		attempt, stop := context.WithTimeout(ctx, meetLimit/50)
		_, err = client.DialTCP(attempt, netip.AddrPortFrom(server, load.FirstPort))
		stop()
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
	}
	return fmt.Errorf("the nodes do not reach each other: %w", err)
}

// plainRouting has each node be the router of one end, with a route to the other's.
func plainRouting(_ context.Context, s *setup, client, server *lab.Namespace) (at netip.Addr, err error) {
	if err := s.plainEnds(client, server, deviceMTU); err != nil {
		return at, err
	}
	return routedServer, errors.Join(
		route(s.node.Namespace, routedServer, wireTwo, "wire"), route(s.other.Namespace, routedClient, wireOne, "wire"))
}

// plainVXLAN likewise, through a kernel VXLAN device on each.
func plainVXLAN(_ context.Context, s *setup, client, server *lab.Namespace) (at netip.Addr, err error) {
	if err := s.plainEnds(client, server, deviceMTU-vxlanBytes); err != nil {
		return at, err
	}
	one, two := netip.MustParseAddr("172.31.0.1"), netip.MustParseAddr("172.31.0.2")
	return routedServer, errors.Join(
		vxlan(s.node.Namespace, one, wireTwo), vxlan(s.other.Namespace, two, wireOne),
		route(s.node.Namespace, routedServer, two, "vxlan"), route(s.other.Namespace, routedClient, one, "vxlan"))
}

// vxlanBytes is what VXLAN over IPv4 adds to an IP packet.
const vxlanBytes = 50

func (s *setup) plainEnds(client, server *lab.Namespace, mtu int) error {
	for _, end := range []struct {
		node *lab.Node
		ns   *lab.Namespace
		addr netip.Addr
	}{{s.node, client, routedClient}, {s.other, server, routedServer}} {
		gateway := end.addr.Prev()
		if err := veth(end.node.Namespace, "end", gateway, end.ns, "eth0", end.addr); err != nil {
			return err
		}
		if err := defaultRoute(end.ns, gateway); err != nil {
			return err
		}
		for ns, name := range map[*lab.Namespace]string{end.node.Namespace: "end", end.ns: "eth0"} {
			if err := ns.Do(func() error { return setMTU(name, mtu) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func setMTU(name string, mtu int) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetMTU(link, mtu)
	}
	return err
}

// vxlan makes a device that leads to one other node.
func vxlan(ns *lab.Namespace, addr, remote netip.Addr) error {
	return ns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "vxlan"
		err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Group: remote.AsSlice(), Port: 8472})
		if err != nil {
			return fmt.Errorf("make a VXLAN device: %w", err)
		}
		return setAddress("vxlan", addr)
	})
}

// route leads to the network of 24 bits that an address is in.
func route(ns *lab.Namespace, to, via netip.Addr, name string) error {
	return ns.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		dst := &net.IPNet{IP: netip.PrefixFrom(to, 24).Masked().Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: via.AsSlice()}); err != nil {
			return fmt.Errorf("add a route to %s by %s: %w", dst, name, err)
		}
		return nil
	})
}
