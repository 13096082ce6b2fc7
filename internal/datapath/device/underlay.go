// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// Underlay is an address by which other nodes reach this one.
type Underlay struct {
	Addr    netip.Addr // not valid: there is none
	Default bool       // its device has the default route
}

// FindUnderlay returns the address by which other nodes reach this one: the first global
// one of the device that has the default route, else of any device that is up and not
// ours. The one that was found before stays as long as it is as good.
func FindUnderlay(ipv6 bool, before netip.Addr) (Underlay, error) {
	family := netlink.FAMILY_V4
	if ipv6 {
		family = netlink.FAMILY_V6
	}
	routes, err := netlink.RouteList(nil, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return Underlay{}, fmt.Errorf("find this node's address: list routes: %w", err)
	}
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return Underlay{}, fmt.Errorf("find this node's address: list devices: %w", err)
	}
	var best Underlay
	for _, l := range links {
		if !isUnderlay(l) {
			continue
		}
		addrs, err := globalAddresses(l, family)
		if err != nil {
			return Underlay{}, err
		}
		if len(addrs) == 0 {
			continue
		}
		is := Underlay{Addr: addrs[0], Default: hasDefaultRoute(routes, l.Attrs().Index)}
		kept := slices.Contains(addrs, before)
		if kept {
			is.Addr = before
		}
		if !best.Addr.IsValid() || is.Default && !best.Default || kept && is.Default == best.Default {
			best = is
		}
	}
	return best, nil
}

// isUnderlay leaves out the loopback and what the agent has made.
func isUnderlay(l netlink.Link) bool {
	a := l.Attrs()
	return !isOurs(l) && a.Flags&net.FlagLoopback == 0 && a.Flags&net.FlagUp != 0
}

// isOurs says that the agent, or an earlier one, has made the device.
func isOurs(l netlink.Link) bool {
	a := l.Attrs()
	_, workload := fromLink(l)
	return workload || a.Alias == hostAlias || a.Alias == hostPeerAlias || a.Alias == overlayAlias
}

func globalAddresses(l netlink.Link, family int) (addrs []netip.Addr, err error) {
	list, err := netlink.AddrList(l, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("find this node's address: list those of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range list {
		if addr := toAddr(a.IP); addr.IsGlobalUnicast() {
			addrs = append(addrs, addr)
		}
	}
	return addrs, nil
}

func hasDefaultRoute(routes []netlink.Route, index int) bool {
	for _, r := range routes {
		prefix, ok := toPrefix(r.Dst)
		if r.LinkIndex == index && (r.Dst == nil || ok && prefix.Bits() == 0) {
			return true
		}
	}
	return false
}

// WithAddress returns the device that has an address.
func WithAddress(addr netip.Addr) (index int, name string, err error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return 0, "", fmt.Errorf("find the device with the address %s: %w", addr, err)
	}
	for _, a := range list {
		if toAddr(a.IP) != addr {
			continue
		}
		link, err := netlink.LinkByIndex(a.LinkIndex)
		if err != nil {
			return 0, "", fmt.Errorf("find the device with the address %s: %w", addr, err)
		}
		return a.LinkIndex, link.Attrs().Name, nil
	}
	return 0, "", fmt.Errorf("no device of this node has the address %s: check --node-ipv4 and --node-ipv6", addr)
}
