// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Overlap returns what of the caller's namespace lies in a range, or holds it: an
// address or a connected route of a device that is not ours, "" if there is none. Routes
// by a router do not count, since a more specific route of ours may stand beside them,
// and neither does what earlier agents have left.
func Overlap(prefix netip.Prefix) (what string, err error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return "", fmt.Errorf("list devices: %w", err)
	}
	others := map[int]string{}
	for _, l := range links {
		if !isOurs(l) {
			others[l.Attrs().Index] = l.Attrs().Name
		}
	}
	family := family(prefix.Addr())
	addrs, err := netlink.AddrList(nil, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return "", fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if name := others[a.LinkIndex]; name != "" && prefix.Contains(toAddr(a.IP)) {
			return fmt.Sprintf("the address %s of device %s", toAddr(a.IP), name), nil
		}
	}
	filter := &netlink.Route{Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_MAIN}
	routes, err := netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TYPE|netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return "", fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		to, ok := toPrefix(r.Dst)
		name := others[r.LinkIndex]
		if !ok || to.Bits() == 0 || name == "" || r.Gw != nil || r.Via != nil || r.Protocol == routeProtocol {
			continue
		}
		if prefix.Overlaps(to) {
			return fmt.Sprintf("the connected route %s of device %s", to, name), nil
		}
	}
	return "", nil
}
