// SPDX-License-Identifier: Apache-2.0

package device

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Interface is the device inside a container. Addresses that are not valid
// stand for a family which the container does not have.
type Interface struct {
	Name        string // inside the container, at most 15 bytes
	MAC         net.HardwareAddr
	MTU         int // bytes
	IPv4        netip.Addr
	IPv6        netip.Addr
	GatewayIPv4 netip.Addr
	GatewayIPv6 netip.Addr
}

func (i Interface) families() []addressed {
	var all []addressed
	if i.IPv4.IsValid() {
		all = append(all, addressed{i.IPv4, i.GatewayIPv4})
	}
	if i.IPv6.IsValid() {
		all = append(all, addressed{i.IPv6, i.GatewayIPv6})
	}
	return all
}

// addressed is one family of an interface.
type addressed struct{ addr, gateway netip.Addr }

// MoveAndConfigure moves the device peerName from the caller's namespace into
// the one at netnsPath, names it, gives it its addresses as /32 and /128, a
// route to the gateway and a default route by it, and brings it and the
// namespace's loopback up. It may be repeated after a failure: what is already
// done stays. A device or default route of somebody else in the namespace is an
// error.
func MoveAndConfigure(peerName, netnsPath string, iface Interface) error {
	if err := move(peerName, netnsPath, iface); err != nil {
		return err
	}
	return InNamespace(netnsPath, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("configure %s in %s: open netlink: %w", iface.Name, netnsPath, err)
		}
		defer h.Close()
		if err := configure(h, peerName, iface); err != nil {
			return fmt.Errorf("configure interface %s in %s: %w", iface.Name, netnsPath, err)
		}
		return nil
	})
}

// move puts the device into the namespace, if it is not there yet.
func move(peerName, netnsPath string, iface Interface) error {
	target, err := netns.GetFromPath(netnsPath)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", netnsPath, err)
	}
	defer func() { _ = target.Close() }()
	peer, err := netlink.LinkByName(peerName)
	if IsNotFound(err) {
		return nil // moved before, or else configure says that it is missing
	}
	if err != nil {
		return fmt.Errorf("find device %s: %w", peerName, err)
	}
	if !bytes.Equal(peer.Attrs().HardwareAddr, iface.MAC) {
		return fmt.Errorf("move device %s: its MAC is %s, not the endpoint's %s", peerName, peer.Attrs().HardwareAddr, iface.MAC)
	}
	if err := netlink.LinkSetNsFd(peer, int(target)); err != nil {
		return fmt.Errorf("move device %s into %s: %w", peerName, netnsPath, err)
	}
	return nil
}

func configure(h *netlink.Handle, peerName string, iface Interface) error {
	link, err := named(h, peerName, iface)
	if err != nil {
		return err
	}
	if link.Attrs().MTU != iface.MTU {
		if err := h.LinkSetMTU(link, iface.MTU); err != nil {
			return fmt.Errorf("set the MTU %d: %w", iface.MTU, err)
		}
	}
	// Before the device is up, or the kernel makes a link-local address.
	if iface.IPv6.IsValid() {
		if err := setAll(iface.Name, containerEndOptions()); err != nil {
			return err
		}
	}
	for _, f := range iface.families() {
		// Addresses are checked by the node, so duplicate detection would only
		// delay the container's start by a second.
		addr := &netlink.Addr{IPNet: prefixNet(f.addr), Flags: unix.IFA_F_NODAD}
		if err := h.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("add address %s: %w", f.addr, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	for _, f := range iface.families() {
		for _, r := range containerRoutes(link.Attrs().Index, f) {
			if err := addRoute(h, r); err != nil {
				return err
			}
		}
	}
	return loopbackUp(h)
}

// named returns the device under its final name.
func named(h *netlink.Handle, peerName string, iface Interface) (netlink.Link, error) {
	link, err := h.LinkByName(iface.Name)
	if err == nil {
		if !bytes.Equal(link.Attrs().HardwareAddr, iface.MAC) {
			return nil, fmt.Errorf("another device of that name is there already, with the MAC %s", link.Attrs().HardwareAddr)
		}
		return link, nil
	}
	if !IsNotFound(err) {
		return nil, err
	}
	link, err = h.LinkByName(peerName)
	if err != nil {
		return nil, fmt.Errorf("find the container end, %s: %w", peerName, err)
	}
	if err := h.LinkSetName(link, iface.Name); err != nil {
		return nil, fmt.Errorf("rename device %s to %s: %w", peerName, iface.Name, err)
	}
	return link, nil
}

// containerRoutes are the route to the gateway and the default route. The
// gateway is no neighbour by address, so the first says that it is on the link.
func containerRoutes(index int, f addressed) []*netlink.Route {
	anywhere := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	scope := netlink.SCOPE_LINK
	if f.addr.Is6() {
		anywhere = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		scope = netlink.SCOPE_UNIVERSE // the only one in IPv6
	}
	return []*netlink.Route{
		{LinkIndex: index, Dst: prefixNet(f.gateway), Scope: scope},
		{LinkIndex: index, Dst: anywhere, Gw: f.gateway.AsSlice()},
	}
}

func addRoute(h *netlink.Handle, r *netlink.Route) error {
	err := h.RouteAdd(r)
	if errors.Is(err, unix.EEXIST) {
		present, listErr := hasRoute(h, r)
		if listErr != nil {
			return listErr
		}
		if present {
			return nil
		}
		return fmt.Errorf("add route %s: %w: another interface has it", r.Dst, err)
	}
	if err != nil {
		return fmt.Errorf("add route %s: %w", r.Dst, err)
	}
	return nil
}

// hasRoute tells whether the main table has the route, by its destination,
// device and gateway.
func hasRoute(h *netlink.Handle, want *netlink.Route) (bool, error) {
	family := netlink.FAMILY_V6
	if want.Dst.IP.To4() != nil {
		family = netlink.FAMILY_V4
	}
	filter := &netlink.Route{LinkIndex: want.LinkIndex}
	routes, err := h.RouteListFiltered(family, filter, netlink.RT_FILTER_OIF)
	if err != nil {
		return false, fmt.Errorf("list routes: %w", err)
	}
	return slices.ContainsFunc(routes, func(r netlink.Route) bool {
		return r.Dst.String() == want.Dst.String() && r.Gw.Equal(want.Gw)
	}), nil
}

func loopbackUp(h *netlink.Handle) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set the loopback up: %w", err)
	}
	return nil
}

// CheckInNetns compares the device in the namespace at netnsPath with what
// MoveAndConfigure made. The error lists every difference.
func CheckInNetns(netnsPath string, iface Interface) error {
	return InNamespace(netnsPath, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("check %s in %s: open netlink: %w", iface.Name, netnsPath, err)
		}
		defer h.Close()
		link, err := h.LinkByName(iface.Name)
		if err != nil {
			return fmt.Errorf("check interface %s in %s: %w", iface.Name, netnsPath, err)
		}
		wrong, err := differences(h, link, iface)
		if err != nil {
			return fmt.Errorf("check interface %s in %s: %w", iface.Name, netnsPath, err)
		}
		if len(wrong) > 0 {
			return fmt.Errorf("interface %s in %s was changed: %s", iface.Name, netnsPath, strings.Join(wrong, "; "))
		}
		return nil
	})
}

func differences(h *netlink.Handle, link netlink.Link, iface Interface) (wrong []string, err error) {
	a := link.Attrs()
	if !bytes.Equal(a.HardwareAddr, iface.MAC) {
		wrong = append(wrong, fmt.Sprintf("the MAC is %s, not %s", a.HardwareAddr, iface.MAC))
	}
	if a.MTU != iface.MTU {
		wrong = append(wrong, fmt.Sprintf("the MTU is %d, not %d", a.MTU, iface.MTU))
	}
	if a.Flags&net.FlagUp == 0 {
		wrong = append(wrong, "it is down")
	}
	for _, f := range iface.families() {
		addrs, err := h.AddrList(link, family(f.addr))
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IPNet.String() == prefixNet(f.addr).String() }) {
			wrong = append(wrong, fmt.Sprintf("the address %s is missing", f.addr))
		}
		for _, r := range containerRoutes(a.Index, f) {
			present, err := hasRoute(h, r)
			if err != nil {
				return nil, err
			}
			if !present {
				wrong = append(wrong, fmt.Sprintf("the route %s is missing", r.Dst))
			}
		}
	}
	return wrong, nil
}
