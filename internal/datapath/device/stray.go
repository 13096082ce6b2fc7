// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Strays returns the pairs that have the name of an endpoint's host end, but not its
// alias. Whether one is ours, with an alias that somebody changed, is for the caller to
// find out; see Mark.
func Strays() ([]Device, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var strays []Device
	for _, l := range links {
		number, isHostEnd := endpointOf(l.Attrs().Name)
		if _, ours := fromLink(l); ours || !isHostEnd || l.Type() != "veth" {
			continue
		}
		strays = append(strays, Device{Name: l.Attrs().Name, Endpoint: number, Index: l.Attrs().Index})
	}
	return strays, nil
}

// endpointOf is the opposite of HostName.
func endpointOf(hostName string) (endpoint uint16, ok bool) {
	digits, found := strings.CutPrefix(hostName, hostPrefix)
	number, err := strconv.ParseUint(digits, 16, 16)
	if !found || err != nil || HostName(uint16(number)) != hostName {
		return 0, false
	}
	return uint16(number), true
}

// Mark gives a device the alias of its endpoint.
func Mark(d Device) error {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: d.Index}}
	if err := netlink.LinkSetAlias(link, aliasPrefix+strconv.Itoa(int(d.Endpoint))); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("set alias of device %s: %w", d.Name, err)
	}
	return nil
}

// IsDown tells whether there is a device of that index, and it is down.
func IsDown(index int) bool {
	link, err := netlink.LinkByIndex(index)
	return err == nil && link.Attrs().Flags&net.FlagUp == 0
}

// SetUp sets a device up, or down.
func SetUp(index int, up bool) error {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	set, to := netlink.LinkSetUp, "up"
	if !up {
		set, to = netlink.LinkSetDown, "down"
	}
	if err := set(link); err != nil {
		return fmt.Errorf("set device %d %s: %w", index, to, err)
	}
	return nil
}
