// SPDX-License-Identifier: Apache-2.0

// Package device makes, configures and removes the network devices of a node:
// the node's own gateway device, and one veth pair per workload with its
// addresses, routes, neighbours and kernel settings.
//
// Every function works in the network namespace of the calling thread, which
// for the agent is the node's. Devices of workloads carry an interface alias
// that says whose they are, so that the package never touches a device that it
// has not made. Functions may be called from several goroutines at once, as
// long as they are about different devices.
package device

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ErrExists says that a device of the wanted name is already there. ErrForeign says that
// a device is not one that this package has made, by its alias.
var (
	ErrExists  = errors.New("device exists")
	ErrForeign = errors.New("not one of ours")
)

// aliasPrefix begins the alias of the host end of every workload's pair; the
// endpoint's number follows.
const aliasPrefix = "cilium endpoint "

// routeProtocol marks the routes that this package adds, in `ip route` as
// "proto 193". The number is free in the kernel's and iproute2's tables.
const routeProtocol = netlink.RouteProtocol(193)

const hostPrefix = "lxc"

// HostName is the name of the host end of an endpoint's pair.
func HostName(endpoint uint16) string { return fmt.Sprintf(hostPrefix+"%05x", endpoint) }

// PeerName is the name that the container end has in the host's namespace,
// before it is moved into the container.
func PeerName(endpoint uint16) string { return fmt.Sprintf("tmp%05x", endpoint) }

// PairSpec describes a veth pair to be made.
type PairSpec struct {
	Endpoint uint16 // number of the owner, kept in the alias of the host end
	HostName string // at most 15 bytes, as PeerName
	PeerName string
	// HostMAC is the gateway's address, the same for all pairs of a node.
	HostMAC net.HardwareAddr
	PeerMAC net.HardwareAddr
	MTU     int // bytes, of both ends
	// PeerNetns is the path of the namespace in which the container end is
	// made; empty means the caller's. Moving a device later costs ten times as
	// much as making it where it belongs, because the kernel waits for all
	// processors before it lets a device go.
	PeerNetns string
	// IPv6 says whether the workload has an IPv6 address.
	IPv6 bool
	// Replace removes a leftover of the same name first. Only the caller
	// knows that no running workload uses it.
	Replace bool
}

// CreatePair makes a veth pair, sets the kernel's options of the host end and
// brings that end up. The host end is in the caller's namespace, and so is the
// container end unless PeerNetns is given. It returns the indexes of both ends,
// each of its own namespace. On failure nothing is left behind. When a name is
// taken and Replace is not set, the error is ErrExists.
func CreatePair(spec PairSpec) (hostIndex, peerIndex int, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, 0, fmt.Errorf("create device %s: open netlink: %w", spec.HostName, err)
	}
	defer h.Close()

	if err := addPair(h, spec); err != nil {
		return 0, 0, err
	}
	hostIndex, peerIndex, err = preparePair(h, spec)
	if err != nil {
		if cleanup := deleteByName(h, spec.HostName); cleanup != nil {
			err = errors.Join(err, cleanup)
		}
		return 0, 0, err
	}
	return hostIndex, peerIndex, nil
}

func addPair(h *netlink.Handle, spec PairSpec) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = spec.HostName
	attrs.HardwareAddr = spec.HostMAC
	attrs.MTU = spec.MTU
	veth := &netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         spec.PeerName,
		PeerHardwareAddr: spec.PeerMAC,
		PeerMTU:          uint32(spec.MTU),
	}
	if spec.PeerNetns != "" {
		target, err := netns.GetFromPath(spec.PeerNetns)
		if err != nil {
			return fmt.Errorf("create device %s: open network namespace %s: %w", spec.HostName, spec.PeerNetns, err)
		}
		defer func() { _ = target.Close() }()
		veth.PeerNamespace = netlink.NsFd(target)
	}
	err := h.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) && spec.Replace {
		leftovers := []string{spec.HostName, spec.PeerName}
		if spec.PeerNetns != "" {
			leftovers = leftovers[:1] // the peer goes with it
		}
		for _, name := range leftovers {
			if err := deleteByName(h, name); err != nil {
				return fmt.Errorf("create device %s: remove a leftover: %w", spec.HostName, err)
			}
		}
		err = h.LinkAdd(veth)
	}
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("create device pair %s, %s: %w", spec.HostName, spec.PeerName, ErrExists)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("create device pair %s, %s: %w (is the kernel module veth there?)", spec.HostName, spec.PeerName, err)
	case err != nil:
		return fmt.Errorf("create device pair %s, %s: %w", spec.HostName, spec.PeerName, err)
	}
	return nil
}

func preparePair(h *netlink.Handle, spec PairSpec) (hostIndex, peerIndex int, err error) {
	host, err := h.LinkByName(spec.HostName)
	if err != nil {
		return 0, 0, fmt.Errorf("find device %s, just made: %w", spec.HostName, err)
	}
	if err := h.LinkSetAlias(host, aliasPrefix+strconv.Itoa(int(spec.Endpoint))); err != nil {
		return 0, 0, fmt.Errorf("set alias of device %s: %w", spec.HostName, err)
	}
	if err := setAll(spec.HostName, hostEndOptions(spec.IPv6)); err != nil {
		return 0, 0, err
	}
	if err := h.LinkSetUp(host); err != nil {
		return 0, 0, fmt.Errorf("set device %s up: %w", spec.HostName, err)
	}
	return host.Attrs().Index, host.Attrs().ParentIndex, nil
}

// Device is the host end of a workload's pair, as found in the kernel.
type Device struct {
	Name     string
	Endpoint uint16 // owner, from the alias
	Index    int
	// PeerIndex is the container end's, in the namespace where that is.
	PeerIndex int
	MAC       net.HardwareAddr
	MTU       int // bytes
	Up        bool
}

// List returns the host ends of all pairs which this package has made in the
// caller's namespace, in the kernel's order.
func List() ([]Device, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var devices []Device
	for _, l := range links {
		if d, ours := fromLink(l); ours {
			devices = append(devices, d)
		}
	}
	return devices, nil
}

func fromLink(l netlink.Link) (Device, bool) {
	a := l.Attrs()
	number, found := strings.CutPrefix(a.Alias, aliasPrefix)
	id, err := strconv.ParseUint(number, 10, 16)
	if l.Type() != "veth" || !found || err != nil {
		return Device{}, false
	}
	return Device{
		Name: a.Name, Endpoint: uint16(id), Index: a.Index, PeerIndex: a.ParentIndex,
		MAC: a.HardwareAddr, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0,
	}, true
}

// Find returns the host end of that name. The error is a
// netlink.LinkNotFoundError when there is no such device; see IsNotFound.
func Find(hostName string) (Device, error) {
	l, err := netlink.LinkByName(hostName)
	if err != nil {
		return Device{}, fmt.Errorf("find device %s: %w", hostName, err)
	}
	d, ours := fromLink(l)
	if !ours {
		return Device{}, fmt.Errorf("device %s is %w: its alias is %q", hostName, ErrForeign, l.Attrs().Alias)
	}
	return d, nil
}

// IsNotFound tells whether the error says that a device is not there.
func IsNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

// Delete removes the pair of that host end, and with it its routes and
// neighbours. A pair that is gone is no error. A device that this package has
// not made is refused.
func Delete(hostName string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("delete device %s: open netlink: %w", hostName, err)
	}
	defer h.Close()
	return deleteByName(h, hostName)
}

func deleteByName(h *netlink.Handle, name string) error {
	l, err := h.LinkByName(name)
	if IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete device %s: %w", name, err)
	}
	// A pair whose maker died before it set the alias has none.
	alias := l.Attrs().Alias
	if l.Type() != "veth" || (alias != "" && !strings.HasPrefix(alias, aliasPrefix)) {
		return fmt.Errorf("delete device %s: it is %w: a %s with the alias %q; rename or remove it yourself", name, ErrForeign, l.Type(), alias)
	}
	if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete device %s: %w", name, err)
	}
	return nil
}

// prefixNet is the whole-address network of an address: /32 or /128.
func prefixNet(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}

func family(addr netip.Addr) int {
	if addr.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
