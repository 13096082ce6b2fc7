// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nodeMetric is that of routes to other nodes' ranges: a route of the operator's, or
// of a routing daemon, to the same range wins.
const nodeMetric = 1 << 23

// NodeRoute is how the host reaches the range of another node: by the overlay's
// device, or by the node as a neighbour.
type NodeRoute struct {
	Overlay int        // index of the device; 0: none
	Via     netip.Addr // the neighbour
	Source  netip.Addr // of what the host itself sends
}

// NodeRoutes are the host's routes to other nodes' ranges, in the caller's network
// namespace. Make them with NewNodeRoutes.
type NodeRoutes struct {
	left map[netip.Prefix]NodeRoute // to the network, because the node is no neighbour
}

// NewNodeRoutes returns a target that has written nothing yet.
func NewNodeRoutes() NodeRoutes { return NodeRoutes{left: map[netip.Prefix]NodeRoute{}} }

// Update adds or changes a route. A node that is no neighbour is left to the network:
// then there is no route, and no error.
func (n NodeRoutes) Update(to netip.Prefix, r NodeRoute) error {
	delete(n.left, to)
	route := nodeRoute(to)
	route.Src = r.Source.AsSlice()
	if r.Overlay != 0 {
		route.LinkIndex = r.Overlay
		if to.Addr().Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
	} else {
		direct, err := neighbour(r.Via)
		if err == nil && direct == 0 {
			n.left[to] = r
		}
		if err != nil || direct == 0 {
			return err
		}
		route.LinkIndex, route.Gw = direct, r.Via.AsSlice()
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("add the route to %s: %w", to, err)
	}
	return nil
}

// Delete removes a route; one that is gone is no error.
func (n NodeRoutes) Delete(to netip.Prefix) error {
	delete(n.left, to)
	route := nodeRoute(to)
	route.Scope = netlink.SCOPE_NOWHERE // of whichever scope it is
	if err := netlink.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the route to %s: %w", to, err)
	}
	return nil
}

// Dump returns the routes that are there, and those that are still left to the network.
func (n NodeRoutes) Dump() (map[netip.Prefix]NodeRoute, error) {
	found := map[netip.Prefix]NodeRoute{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Protocol: routeProtocol, Type: unix.RTN_UNICAST}
		routes, err := netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list the routes to other nodes: %w", err)
		}
		for _, r := range routes {
			prefix, ok := toPrefix(r.Dst)
			if !ok || r.Priority != nodeMetric {
				continue
			}
			is := NodeRoute{Source: toAddr(r.Src), Via: toAddr(r.Gw)}
			if r.Gw == nil {
				is.Overlay = r.LinkIndex
			}
			found[prefix] = is
		}
	}
	for to, r := range n.left {
		if _, present := found[to]; present {
			continue
		}
		direct, err := neighbour(r.Via)
		if err != nil {
			return nil, err
		}
		if direct == 0 {
			found[to] = r
		}
	}
	return found, nil
}

func nodeRoute(to netip.Prefix) *netlink.Route {
	to = to.Masked()
	return &netlink.Route{
		Dst:      &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())},
		Protocol: routeProtocol, Priority: nodeMetric,
	}
}

// neighbour returns the index of the device behind which an address is without a
// router in between, 0 if there is one.
func neighbour(addr netip.Addr) (int, error) {
	routes, err := netlink.RouteGet(addr.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find the way to %s: %w", addr, err)
	}
	for _, r := range routes {
		if r.Gw == nil {
			return r.LinkIndex, nil
		}
	}
	return 0, nil
}

func toAddr(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
