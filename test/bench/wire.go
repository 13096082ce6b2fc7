// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/test/bench/load"
	"cilium.local/cilium/test/lab"
)

// deviceMTU is that of every device, as the agent chooses it for a node alone.
const deviceMTU = 1500

// veth links two namespaces, each end with an address of one network of 24 bits.
func veth(a *lab.Namespace, nameA string, addrA netip.Addr, b *lab.Namespace, nameB string, addrB netip.Addr) error {
	var inB netlink.NsFd
	err := b.Do(func() error {
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		inB = netlink.NsFd(fd)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(int(inB)) }()
	err = a.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = nameA, deviceMTU
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerMTU: deviceMTU, PeerNamespace: inB})
	})
	if err != nil {
		return fmt.Errorf("link %s with %s: %w", nameA, nameB, err)
	}
	return errors.Join(
		a.Do(func() error { return setAddress(nameA, addrA) }),
		b.Do(func() error { return setAddress(nameB, addrB) }))
}

func setAddress(name string, addr netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	ipnet := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(24, 32)}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipnet}); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, addr, err)
	}
	return netlink.LinkSetUp(link)
}

func defaultRoute(ns *lab.Namespace, via netip.Addr) error {
	return ns.Do(func() error {
		_, anywhere, _ := net.ParseCIDR("0.0.0.0/0")
		return netlink.RouteAdd(&netlink.Route{Dst: anywhere, Gw: via.AsSlice()})
	})
}

// direct links client and server by one pair.
func direct(client, server *lab.Namespace) (at netip.Addr, err error) {
	at = netip.MustParseAddr("10.1.0.2")
	return at, veth(client, "eth0", netip.MustParseAddr("10.1.0.1"), server, "eth0", at)
}

// The ends of what is routed. The node has the first address of each network.
var (
	routedClient = netip.MustParseAddr("10.1.1.2")
	routedServer = netip.MustParseAddr("10.1.2.2")
)

// routed links client and server with the node, which is a router.
func routed(node *lab.Node, client, server *lab.Namespace) (at netip.Addr, err error) {
	for _, end := range []struct {
		ns   *lab.Namespace
		name string
		addr netip.Addr
	}{{client, "client", routedClient}, {server, "server", routedServer}} {
		gateway := end.addr.Prev()
		if err := veth(node.Namespace, end.name, gateway, end.ns, "eth0", end.addr); err != nil {
			return at, err
		}
		if err := defaultRoute(end.ns, gateway); err != nil {
			return at, err
		}
	}
	return routedServer, nil
}

// nftRules are the policy of l4Rule in the words of nftables: what is established
// passes, new connections only from the clients to the servers' ports.
const nftRules = `table inet bench {
	set clients { type ipv4_addr; elements = { %s } }
	set servers { type ipv4_addr; elements = { %s } }
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		ct state invalid drop
		ip saddr @clients ip daddr @servers tcp dport %d-%d accept
		ip saddr @clients ip daddr @servers udp dport %d accept
	}
}
`

// firewall puts nftRules into the node's namespace.
func firewall(ctx context.Context, node *lab.Node) error {
	nft, err := exec.LookPath("nft")
	if err != nil {
		return fmt.Errorf("%w: run tools/setup bench (as make bench does)", err)
	}
	cmd := node.Command(ctx, nft, "-f", "-")
	cmd.Stdin = bytes.NewBufferString(fmt.Sprintf(nftRules, routedClient, routedServer, load.FirstPort, load.LastTCPPort, load.UDPPort))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load the rules of nftables: %w: %s", err, out)
	}
	return nil
}
