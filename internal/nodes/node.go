// SPDX-License-Identifier: Apache-2.0

// Package nodes tells nodes of each other through the key-value store: every node
// writes down where it is reached and which range its workloads get addresses from, and
// follows what the others have written.
package nodes

import (
	"net/netip"
)

// Key names a node among all clusters.
type Key struct{ Cluster, Name string }

// String returns CLUSTER/NAME.
func (k Key) String() string { return k.Cluster + "/" + k.Name }

// InStore returns the store's key, under which the node is registered.
func (k Key) InStore() string { return prefix + k.String() }

// Node is what a node says of itself.
type Node struct {
	Name, Cluster string
	ClusterID     uint8
	// IPv4 and IPv6 are its addresses in the network between the nodes; one may be
	// invalid.
	IPv4, IPv6 netip.Addr
	// GatewayIPv4 and GatewayIPv6 are its own addresses in its ranges.
	GatewayIPv4, GatewayIPv6 netip.Addr
	// IPv4Range and IPv6Range are those that its workloads get addresses from.
	IPv4Range, IPv6Range netip.Prefix
	Labels               map[string]string
	Instance             string // tells two nodes of one name apart
	HealthPort           uint16 // TCP, of its health responder; 0: it has none
}

// Key returns the node's name among all clusters.
func (n Node) Key() Key { return Key{n.Cluster, n.Name} }

// Ranges returns the ranges that it has.
func (n Node) Ranges() []netip.Prefix {
	var list []netip.Prefix
	for _, prefix := range []netip.Prefix{n.IPv4Range, n.IPv6Range} {
		if prefix.IsValid() {
			list = append(list, prefix)
		}
	}
	return list
}

// Addresses returns all addresses of the node itself.
func (n Node) Addresses() []netip.Addr {
	var list []netip.Addr
	for _, addr := range []netip.Addr{n.IPv4, n.IPv6, n.GatewayIPv4, n.GatewayIPv6} {
		if addr.IsValid() {
			list = append(list, addr)
		}
	}
	return list
}

// Underlay returns its addresses in the network between the nodes.
func (n Node) Underlay() []netip.Addr {
	var list []netip.Addr
	for _, addr := range []netip.Addr{n.IPv4, n.IPv6} {
		if addr.IsValid() {
			list = append(list, addr)
		}
	}
	return list
}

// claims are the prefixes that no other node may be in, or have a part of.
func (n Node) claims() []netip.Prefix {
	var list []netip.Prefix
	for _, addr := range n.Underlay() {
		list = append(list, netip.PrefixFrom(addr, addr.BitLen()))
	}
	for _, r := range n.Ranges() {
		list = append(list, r.Masked())
	}
	return list
}

// Owns says whether an address lies in one of the node's ranges.
func (n Node) Owns(addr netip.Addr) bool {
	return n.IPv4Range.IsValid() && n.IPv4Range.Contains(addr) || n.IPv6Range.IsValid() && n.IPv6Range.Contains(addr)
}

// SamePlace says whether both are reached alike and have the same ranges.
func (n Node) SamePlace(o Node) bool {
	return n.IPv4 == o.IPv4 && n.IPv6 == o.IPv6 && n.GatewayIPv4 == o.GatewayIPv4 && n.GatewayIPv6 == o.GatewayIPv6 &&
		n.IPv4Range == o.IPv4Range && n.IPv6Range == o.IPv6Range
}

// Change is news of a node: how it is now, or that it is gone.
type Change struct {
	Node Node
	Gone bool
}
