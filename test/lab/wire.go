// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Wire is the network between the nodes of a cluster: one link that all share, or a
// router with a link to each.
type Wire struct {
	*Namespace
	options WireOptions
}

// WireOptions choose what the network between the nodes is like. The zero value is one
// link with both families.
type WireOptions struct {
	Routed         bool // each node has a link of its own to a router
	NoIPv4, NoIPv6 bool
	MTU            int // bytes; 0: 1500
}

// wireDevice is what a node calls its end, wireBridge the device that joins all of a
// shared link.
const (
	wireDevice = "eth0"
	wireBridge = "wire"
	// wireHost is the last byte of the wire's own addresses.
	wireHost = 254
)

// NewWire makes a wire without nodes. The caller closes it.
func NewWire(o WireOptions) (w *Wire, err error) {
	if o.MTU == 0 {
		o.MTU = 1500
	}
	w = &Wire{options: o}
	if w.Namespace, err = NewNamespace("wire"); err != nil {
		return nil, err
	}
	w.IPv4, w.IPv6 = w.address(0, wireHost)
	err = w.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = wireBridge, o.MTU
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("make the wire: %w", err)
		}
		if o.Routed {
			if err := becomeRouter(); err != nil {
				return err
			}
		}
		return address(wireBridge, w.valid(w.IPv4, w.IPv6)...)
	})
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// address is that of a host on a link; a shared wire has link 0 only.
func (w *Wire) address(link, host byte) (ipv4, ipv6 netip.Addr) {
	return netip.AddrFrom4([4]byte{172, 30, link, host}), netip.AddrFrom16([16]byte{0xfd, 0x30, 3: link, 15: host})
}

// valid leaves out the families that the wire does not have.
func (w *Wire) valid(ipv4, ipv6 netip.Addr) (list []netip.Addr) {
	if !w.options.NoIPv4 {
		list = append(list, ipv4)
	}
	if !w.options.NoIPv6 {
		list = append(list, ipv6)
	}
	return list
}

// Connect links a namespace with the wire; number, from 1 on, gives it its addresses.
func (w *Wire) Connect(ns *Namespace, number byte) error {
	port := fmt.Sprintf("port%d", number)
	link, host := byte(0), number
	if w.options.Routed {
		link, host = number, 1
	}
	ipv4, ipv6 := w.address(link, host)
	err := w.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.Index = port, w.options.MTU, uplinkIndex+int(number)
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: wireDevice, PeerMTU: uint32(w.options.MTU), PeerNamespace: netlink.NsFd(ns.handle),
		})
	})
	if err != nil {
		return fmt.Errorf("link %s with the wire: %w", ns.name, err)
	}
	ns.IPv4, ns.IPv6 = netip.Addr{}, netip.Addr{}
	for _, addr := range w.valid(ipv4, ipv6) {
		if addr.Is4() {
			ns.IPv4 = addr
		} else {
			ns.IPv6 = addr
		}
	}
	routerIPv4, routerIPv6 := w.address(link, wireHost)
	err = w.Do(func() error { return w.join(port, w.valid(routerIPv4, routerIPv6)) })
	return errors.Join(err, ns.Do(func() error {
		if err := address(wireDevice, w.valid(ipv4, ipv6)...); err != nil || !w.options.Routed {
			return err
		}
		for _, via := range w.valid(routerIPv4, routerIPv6) {
			if err := netlink.RouteAdd(&netlink.Route{Gw: via.AsSlice()}); err != nil {
				return fmt.Errorf("add a default route by %s: %w", via, err)
			}
		}
		return nil
	}))
}

// join makes a port part of the shared link, or gives the router its address there.
func (w *Wire) join(port string, addrs []netip.Addr) error {
	if w.options.Routed {
		return address(port, addrs...)
	}
	link, err := netlink.LinkByName(port)
	if err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(wireBridge)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetUp(link))
}
