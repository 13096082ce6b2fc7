// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/device"
)

// Namespace is a network namespace of this process. It goes away when it is
// closed and no process is in it any more.
type Namespace struct {
	name   string
	handle netns.NsHandle
	IPv4   netip.Addr // its main addresses; not valid when it has none
	IPv6   netip.Addr
	source netip.Addr // of what it sends; not valid for what the routes say
}

// From returns the namespace as one that sends from one of its addresses. It is
// closed with the namespace itself.
func (n *Namespace) From(addr netip.Addr) *Namespace {
	view := *n
	view.source = addr
	return &view
}

// AddAddresses gives the namespace further addresses, for itself alone: whoever
// is to reach them needs a route.
func (n *Namespace) AddAddresses(addrs ...netip.Addr) error {
	return n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			whole := netip.PrefixFrom(addr, addr.BitLen())
			err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: network(whole), Flags: unix.IFA_F_NODAD})
			if err != nil {
				return fmt.Errorf("add %s to %s: %w", addr, n.name, err)
			}
		}
		return nil
	})
}

// NewNamespace makes a namespace in which only the loopback is up. The name is
// for messages.
func NewNamespace(name string) (*Namespace, error) {
	made := make(chan netns.NsHandle, 1)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		origin, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			failed <- err
			return
		}
		defer func() { _ = origin.Close() }()
		handle, err := netns.New()
		// A thread that cannot go back stays locked, which ends it.
		if netns.Set(origin) == nil {
			runtime.UnlockOSThread()
		}
		if err != nil {
			failed <- err
			return
		}
		made <- handle
	}()
	select {
	case err := <-failed:
		return nil, fmt.Errorf("make network namespace %s: %w", name, err)
	case handle := <-made:
		n := &Namespace{name: name, handle: handle}
		if err := n.Do(loopbackUp); err != nil {
			n.Close()
			return nil, err
		}
		return n, nil
	}
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// Path is a path to the namespace that works for every process while this one
// has the namespace open.
func (n *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(n.handle))
}

// Do runs fn on a thread inside the namespace. Sockets that it opens stay there.
func (n *Namespace) Do(fn func() error) error { return device.InNamespace(n.Path(), fn) }

// Command is a command that runs in the namespace, and in the machine's other
// namespaces, so that mounts and cgroups are seen as they are.
func (n *Namespace) Command(ctx context.Context, program string, args ...string) *exec.Cmd {
	args = append([]string{"--net=" + n.Path(), "--", program}, args...)
	return exec.CommandContext(ctx, "nsenter", args...)
}

// Close lets go of the namespace.
func (n *Namespace) Close() {
	if n.handle.IsOpen() {
		_ = n.handle.Close()
	}
}

// uplinkIndex is one that no device in the outside has.
const uplinkIndex = 100

// The addresses of the link between a node and the outside, from the ranges
// that are set aside for documentation.
var (
	uplinkIPv4  = netip.MustParseAddr("192.0.2.1")
	outsideIPv4 = netip.MustParseAddr("192.0.2.2")
	uplinkIPv6  = netip.MustParseAddr("2001:db8::1")
	outsideIPv6 = netip.MustParseAddr("2001:db8::2")
)

// nodeRanges are the agent's default ranges, which the outside routes to the
// node.
var nodeRanges = []netip.Prefix{netip.MustParsePrefix("10.15.0.0/16"), netip.MustParsePrefix("f00d::a0f:0:0:0/96")}

// connect links a node, by its device uplink, with the outside.
func connect(node, outside *Namespace) error {
	err := node.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = "uplink", 1500
		// The kernel takes its time, a second, to see the carrier of a device
		// whose index is that of its peer, because it takes it for a device
		// without one; IPv6 is silent until then.
		attrs.Index = uplinkIndex
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: "node", PeerMTU: 1500, PeerNamespace: netlink.NsFd(outside.handle),
		})
	})
	if err != nil {
		return fmt.Errorf("make the uplink: %w", err)
	}
	node.IPv4, node.IPv6, outside.IPv4, outside.IPv6 = uplinkIPv4, uplinkIPv6, outsideIPv4, outsideIPv6
	if err := node.Do(func() error { return address("uplink", uplinkIPv4, uplinkIPv6) }); err != nil {
		return fmt.Errorf("set up the uplink: %w", err)
	}
	err = outside.Do(func() error {
		if err := address("node", outsideIPv4, outsideIPv6); err != nil {
			return err
		}
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{Dst: network(nodeRanges[0]), Gw: uplinkIPv4.AsSlice()}),
			netlink.RouteAdd(&netlink.Route{Dst: network(nodeRanges[1]), Gw: uplinkIPv6.AsSlice()}),
		)
	})
	if err != nil {
		return fmt.Errorf("set up the outside: %w", err)
	}
	// The default routes need the other end to be up.
	return node.Do(func() error {
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{Gw: outsideIPv4.AsSlice()}),
			netlink.RouteAdd(&netlink.Route{Gw: outsideIPv6.AsSlice()}),
		)
	})
}

// address gives a device addresses of the networks of 24 and 64 bits.
func address(name string, addrs ...netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		bits := 24
		if addr.Is6() {
			bits = 64
		}
		ipnet := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipnet, Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("add %s to %s: %w", addr, name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// becomeRouter sets what a router's operator sets. The settings are the
// namespace's of the calling thread.
func becomeRouter() error {
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			return fmt.Errorf("turn forwarding on: %w", err)
		}
	}
	return nil
}
