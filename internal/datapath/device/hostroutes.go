// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// HostRoutes are the host's side of all workloads by the names of their devices, in the
// caller's network namespace: routes, neighbours, kernel settings. Reading them costs a
// fixed number of dumps, whatever the number of workloads, and a few small files a device.
type HostRoutes struct{}

// Update adds or changes what the device needs. One that is down stays so: it may be for
// want of the programs that enforce policy.
func (HostRoutes) Update(name string, r HostRoute) error {
	if err := setAll(name, hostEndOptions(r.IPv6.IsValid())); err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find device %s: %w", name, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("device %s is down: its routes follow when it is up", name)
	}
	return AddHostRoutes(r)
}

// Delete takes routes and neighbours away; those of a device that is gone went with it.
func (HostRoutes) Delete(name string) error {
	all, err := HostRoutes{}.Dump()
	if err != nil {
		return err
	}
	return DelHostRoutes(HostRoute{HostName: name, IPv4: all[name].IPv4, IPv6: all[name].IPv6})
}

// Dump returns what is there. A family whose route or neighbour is missing is left out,
// and so are both of a device that is down or has other settings.
func (HostRoutes) Dump() (map[string]HostRoute, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		if a := l.Attrs(); l.Type() == "veth" && a.Flags&net.FlagUp != 0 {
			names[a.Index] = a.Name
		}
	}
	neighbours, err := permanentNeighbours()
	if err != nil {
		return nil, err
	}
	found := map[string]HostRoute{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Protocol: routeProtocol, Type: unix.RTN_UNICAST}
		routes, err := netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list the routes to workloads: %w", err)
		}
		for _, r := range routes {
			to, ok := toPrefix(r.Dst)
			name := names[r.LinkIndex]
			if !ok || !to.IsSingleIP() || r.Priority == nodeMetric || name == "" {
				continue
			}
			row := found[name]
			row.HostName = name
			row.add(to.Addr(), toAddr(r.Src), neighbours[neighbourKey{r.LinkIndex, to.Addr()}])
			found[name] = row
		}
	}
	for name, row := range found {
		if !holds(name, hostEndOptions(row.IPv6.IsValid())) {
			found[name] = HostRoute{HostName: name, MAC: row.MAC}
		}
	}
	return found, nil
}

// add takes over a route that is there, if its neighbour is, too.
func (r *HostRoute) add(to, source netip.Addr, mac net.HardwareAddr) {
	if mac == nil {
		return
	}
	r.MAC = mac
	if to.Is4() {
		r.IPv4, r.GatewayIPv4 = to, source
	} else {
		r.IPv6, r.GatewayIPv6 = to, source
	}
}

type neighbourKey struct {
	device int
	addr   netip.Addr
}

func permanentNeighbours() (map[neighbourKey]net.HardwareAddr, error) {
	list, err := netlink.NeighList(0, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	found := map[neighbourKey]net.HardwareAddr{}
	for _, n := range list {
		if n.State&netlink.NUD_PERMANENT != 0 {
			found[neighbourKey{n.LinkIndex, toAddr(n.IP)}] = n.HardwareAddr
		}
	}
	return found, nil
}

// holds tells whether a device has those settings.
func holds(device string, options []option) bool {
	for _, o := range options {
		current, err := os.ReadFile(optionPath(device, o))
		if err != nil && o.optional {
			continue
		}
		if err != nil || strings.TrimSpace(string(current)) != o.value {
			return false
		}
	}
	return true
}
