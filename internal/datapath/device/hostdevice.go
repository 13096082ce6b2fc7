// SPDX-License-Identifier: Apache-2.0

package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// HostDevice is the node's gateway device as it is wanted, with all that belongs to it,
// in the caller's network namespace: what has one row, by the device's name.
type HostDevice struct{ Config HostConfig }

// Update sets up what is missing.
func (HostDevice) Update(_ string, cfg HostConfig) error {
	_, err := SetupHost(context.Background(), cfg)
	return err
}

// Delete leaves the device to RemoveHost: it outlives the agent.
func (HostDevice) Delete(string) error { return nil }

// Dump returns the wanted row if nothing of it is missing, and else none.
func (d HostDevice) Dump() (map[string]HostConfig, error) {
	cfg := d.Config.named()
	whole, err := cfg.complete()
	if err != nil {
		return nil, fmt.Errorf("read device %s: %w", cfg.Name, err)
	}
	if !whole {
		return nil, nil
	}
	return map[string]HostConfig{cfg.Name: d.Config}, nil
}

// complete says that the kernel has all that SetupHost makes.
func (c HostConfig) complete() (bool, error) {
	links := make([]netlink.Link, 0, 2)
	for _, name := range []string{c.Name, c.PeerName} {
		link, err := netlink.LinkByName(name)
		if IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		links = append(links, link)
		if link.Attrs().Flags&net.FlagUp == 0 || !holds(name, hostEndOptions(c.IPv6.IsValid())) {
			return false, nil
		}
	}
	a := links[0].Attrs()
	if c.MTU != 0 && a.MTU != c.MTU || c.MAC != nil && !bytes.Equal(a.HardwareAddr, c.MAC) {
		return false, nil
	}
	return c.addressed(links[0])
}

// addressed says that the gateway addresses and the routes of the ranges are there.
func (c HostConfig) addressed(link netlink.Link) (bool, error) {
	var found []string
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		found = append(found, a.IPNet.String())
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Protocol: routeProtocol, Type: unix.RTN_UNREACHABLE}
		routes, err := netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return false, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			found = append(found, "range "+r.Dst.String())
		}
	}
	for _, addr := range c.gateways() {
		if !slices.Contains(found, prefixNet(addr).String()) {
			return false, nil
		}
	}
	for _, r := range c.Ranges {
		if !slices.Contains(found, "range "+rangeRoute(r.Masked()).Dst.String()) {
			return false, nil
		}
	}
	return true, nil
}
