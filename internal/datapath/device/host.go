// SPDX-License-Identifier: Apache-2.0

package device

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	hostAlias     = "cilium host"
	hostPeerAlias = "cilium host peer"
	// hostMetric is higher than any metric that a person chooses, so that a
	// route of theirs to the same range wins.
	hostMetric = 1 << 24
)

// HostConfig describes the device which carries the gateway addresses.
type HostConfig struct {
	Name     string // default cilium_host
	PeerName string // the other end, which carries nothing; default cilium_net
	// MAC is the gateway's address on every workload's link. When it is not
	// given, the device keeps the one it has, or gets a random one.
	MAC  net.HardwareAddr
	IPv4 netip.Addr // gateway address; not valid: no IPv4
	IPv6 netip.Addr // gateway address; not valid: no IPv6
	// Ranges are those from which the node's workloads get addresses. Packets
	// to addresses in them that no workload has are answered as unreachable,
	// instead of following the default route.
	Ranges []netip.Prefix
	MTU    int // bytes
}

// Host is the node's gateway device, as it is in the kernel.
type Host struct {
	Name  string
	Index int
	MAC   net.HardwareAddr
}

// named fills in the default names.
func (c HostConfig) named() HostConfig {
	c.Name, c.PeerName = cmp.Or(c.Name, "cilium_host"), cmp.Or(c.PeerName, "cilium_net")
	return c
}

// gateways are the addresses of the families that the node has.
func (c HostConfig) gateways() (list []netip.Addr) {
	for _, addr := range []netip.Addr{c.IPv4, c.IPv6} {
		if addr.IsValid() {
			list = append(list, addr)
		}
	}
	return list
}

// SetupHost makes the gateway device, or adopts the one that a former agent
// left, and brings its addresses and the routes of the ranges in line with the
// configuration: gateway addresses of a former configuration go.
func SetupHost(ctx context.Context, cfg HostConfig) (*Host, error) {
	cfg = cfg.named()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("set up device %s: open netlink: %w", cfg.Name, err)
	}
	defer h.Close()

	link, err := hostLink(h, cfg)
	if err != nil {
		return nil, fmt.Errorf("set up device %s: %w", cfg.Name, err)
	}
	steps := []func(*netlink.Handle, netlink.Link, HostConfig) error{hostUp, hostAddresses, hostRanges}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("set up device %s: %w", cfg.Name, err)
		}
		if err := step(h, link, cfg); err != nil {
			return nil, fmt.Errorf("set up device %s: %w", cfg.Name, err)
		}
	}
	return &Host{Name: cfg.Name, Index: link.Attrs().Index, MAC: link.Attrs().HardwareAddr}, nil
}

// RemoveHost removes the gateway device and the routes of the ranges, for
// `cilium cleanup`. Whatever is gone is no error.
func RemoveHost(name string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("remove device %s: open netlink: %w", name, err)
	}
	defer h.Close()
	if err := pruneRanges(h, nil); err != nil {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	link, err := h.LinkByName(name)
	if IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	if link.Type() != "veth" || link.Attrs().Alias != hostAlias {
		return fmt.Errorf("remove device %s: it is not ours: a %s with the alias %q", name, link.Type(), link.Attrs().Alias)
	}
	if err := h.LinkDel(link); err != nil {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
}

// hostLink returns the device with its final MAC and MTU, made if needed.
func hostLink(h *netlink.Handle, cfg HostConfig) (netlink.Link, error) {
	link, err := h.LinkByName(cfg.Name)
	if err == nil {
		return adoptHost(h, link, cfg)
	}
	if !IsNotFound(err) {
		return nil, err
	}
	mac := cfg.MAC
	if mac == nil {
		mac = RandomMAC()
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = cfg.Name, mac, cfg.MTU
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: cfg.PeerName, PeerHardwareAddr: RandomMAC(), PeerMTU: uint32(cfg.MTU)}
	if err := h.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("create it with the peer %s: %w", cfg.PeerName, err)
	}
	link, err = h.LinkByName(cfg.Name)
	if err == nil {
		err = h.LinkSetAlias(link, hostAlias)
	}
	if err != nil {
		return nil, errors.Join(err, h.LinkDel(veth))
	}
	return link, nil
}

func adoptHost(h *netlink.Handle, link netlink.Link, cfg HostConfig) (netlink.Link, error) {
	// A device whose maker died before it set the alias has none.
	alias := link.Attrs().Alias
	if link.Type() != "veth" || (alias != "" && alias != hostAlias) {
		return nil, fmt.Errorf("a %s of that name with the alias %q is there already and not ours: rename or remove it", link.Type(), alias)
	}
	if err := h.LinkSetAlias(link, hostAlias); err != nil {
		return nil, fmt.Errorf("set its alias: %w", err)
	}
	if cfg.MAC != nil && !bytes.Equal(cfg.MAC, link.Attrs().HardwareAddr) {
		if err := h.LinkSetHardwareAddr(link, cfg.MAC); err != nil {
			return nil, fmt.Errorf("set its MAC to %s: %w", cfg.MAC, err)
		}
	}
	if cfg.MTU != 0 && cfg.MTU != link.Attrs().MTU {
		if err := h.LinkSetMTU(link, cfg.MTU); err != nil {
			return nil, fmt.Errorf("set its MTU to %d: %w", cfg.MTU, err)
		}
	}
	return h.LinkByName(cfg.Name)
}

// hostUp brings both ends up. Settings come first: see hostEndOptions.
func hostUp(h *netlink.Handle, link netlink.Link, cfg HostConfig) error {
	for _, name := range []string{cfg.Name, cfg.PeerName} {
		if err := setAll(name, hostEndOptions(cfg.IPv6.IsValid())); err != nil {
			return err
		}
	}
	peer, err := h.LinkByName(cfg.PeerName)
	if err != nil {
		return fmt.Errorf("find the peer: %w", err)
	}
	if err := h.LinkSetAlias(peer, hostPeerAlias); err != nil {
		return fmt.Errorf("set alias of device %s: %w", cfg.PeerName, err)
	}
	for _, l := range []netlink.Link{peer, link} {
		if err := h.LinkSetUp(l); err != nil {
			return fmt.Errorf("set device %s up: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// hostAddresses makes the gateway addresses the only ones of the device.
func hostAddresses(h *netlink.Handle, link netlink.Link, cfg HostConfig) error {
	wanted := map[string]bool{}
	for _, addr := range cfg.gateways() {
		wanted[prefixNet(addr).String()] = true
		if err := h.AddrReplace(link, &netlink.Addr{IPNet: prefixNet(addr), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("add address %s: %w", addr, err)
		}
	}
	present, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range present {
		if wanted[a.IPNet.String()] || a.IP.IsLinkLocalUnicast() {
			continue
		}
		if err := h.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove the former address %s: %w", a.IPNet, err)
		}
	}
	return nil
}

func hostRanges(h *netlink.Handle, _ netlink.Link, cfg HostConfig) error {
	wanted := map[netip.Prefix]bool{}
	for _, prefix := range cfg.Ranges {
		prefix = prefix.Masked()
		wanted[prefix] = true
		route := rangeRoute(prefix)
		if err := h.RouteReplace(route); err != nil {
			return fmt.Errorf("add unreachable route %s: %w", prefix, err)
		}
	}
	return pruneRanges(h, wanted)
}

// pruneRanges removes our unreachable routes except the wanted ones.
func pruneRanges(h *netlink.Handle, wanted map[netip.Prefix]bool) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Protocol: routeProtocol, Type: unix.RTN_UNREACHABLE}
		routes, err := h.RouteListFiltered(family, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			prefix, ok := toPrefix(r.Dst)
			if !ok || wanted[prefix] {
				continue
			}
			if err := h.RouteDel(rangeRoute(prefix)); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove the former route %s: %w", prefix, err)
			}
		}
	}
	return nil
}

func rangeRoute(prefix netip.Prefix) *netlink.Route {
	return &netlink.Route{
		Dst:      &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())},
		Type:     unix.RTN_UNREACHABLE,
		Protocol: routeProtocol,
		Priority: hostMetric,
	}
}

func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if n.IP.To4() != nil {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, bits), ok
}

// RandomMAC returns a locally administered unicast address.
func RandomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	// crypto/rand.Read never fails: it ends the program instead.
	_, _ = rand.Read(mac)
	mac[0] = mac[0]&^1 | 2
	return mac
}
