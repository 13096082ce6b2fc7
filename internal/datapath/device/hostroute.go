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

// HostRoute is what the host needs to reach a workload. Addresses that are not
// valid stand for a family which the workload does not have.
type HostRoute struct {
	HostName string           // host end of the pair
	MAC      net.HardwareAddr // container end
	IPv4     netip.Addr
	IPv6     netip.Addr
	// The gateway addresses are the source of what the host itself sends.
	GatewayIPv4 netip.Addr
	GatewayIPv6 netip.Addr
}

func (r HostRoute) families() []addressed {
	return Interface{IPv4: r.IPv4, IPv6: r.IPv6, GatewayIPv4: r.GatewayIPv4, GatewayIPv6: r.GatewayIPv6}.families()
}

// AddHostRoutes gives the host a route to each address of the workload and a
// permanent neighbour, so that the host never asks the container for its MAC.
// It replaces what was there before, so it may be repeated. The gateway
// addresses must be the host's: see SetupHost.
func AddHostRoutes(r HostRoute) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("add routes by device %s: open netlink: %w", r.HostName, err)
	}
	defer h.Close()
	link, err := h.LinkByName(r.HostName)
	if err != nil {
		return fmt.Errorf("add routes by device %s: %w", r.HostName, err)
	}
	for _, f := range r.families() {
		neighbour := &netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: family(f.addr), State: netlink.NUD_PERMANENT,
			IP: f.addr.AsSlice(), HardwareAddr: r.MAC,
		}
		if err := h.NeighSet(neighbour); err != nil {
			return fmt.Errorf("add neighbour %s to device %s: %w", f.addr, r.HostName, err)
		}
		if err := h.RouteReplace(hostRoute(link, f)); err != nil {
			return fmt.Errorf("add route %s by device %s from %s: %w (does the gateway device have that address?)", f.addr, r.HostName, f.gateway, err)
		}
	}
	return nil
}

// DelHostRoutes takes away what AddHostRoutes added. Rows or a device that are
// gone are no error.
func DelHostRoutes(r HostRoute) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("delete routes by device %s: open netlink: %w", r.HostName, err)
	}
	defer h.Close()
	link, err := h.LinkByName(r.HostName)
	if IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete routes by device %s: %w", r.HostName, err)
	}
	for _, f := range r.families() {
		if err := h.RouteDel(hostRoute(link, f)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete route %s by device %s: %w", f.addr, r.HostName, err)
		}
		neighbour := &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: family(f.addr), IP: f.addr.AsSlice()}
		if err := h.NeighDel(neighbour); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete neighbour %s of device %s: %w", f.addr, r.HostName, err)
		}
	}
	return nil
}

func hostRoute(link netlink.Link, f addressed) *netlink.Route {
	route := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: prefixNet(f.addr), Src: f.gateway.AsSlice(),
		Scope: netlink.SCOPE_LINK, Protocol: routeProtocol,
	}
	if f.addr.Is6() {
		route.Scope = netlink.SCOPE_UNIVERSE
	}
	return route
}
