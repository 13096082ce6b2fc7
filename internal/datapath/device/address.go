// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long a watch waits for further changes before it reports.
	settle = 50 * time.Millisecond
	// rewatch is the pause before a broken watch is opened again.
	rewatch = time.Second
)

// HostAddresses returns the addresses by which the caller's namespace can be
// reached, sorted: those of all its devices, the gateway's among them, without
// loopback, link-local and multicast ones.
func HostAddresses() ([]netip.Addr, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("list the node's addresses: open netlink: %w", err)
	}
	defer h.Close()
	return listAddresses(h)
}

func listAddresses(h *netlink.Handle) ([]netip.Addr, error) {
	list, err := h.AddrList(nil, netlink.FAMILY_ALL)
	// An interrupted dump may miss a change; the watch reports that change.
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	var addrs []netip.Addr
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		if ok && addr.IsGlobalUnicast() {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), nil
}

// WatchHostAddresses calls report with HostAddresses of the namespace in which
// the caller is now: at once, and after every change, until the context ends.
// Changes in quick succession are reported together. It returns the context's
// error, or why the namespace cannot be watched at all.
func WatchHostAddresses(ctx context.Context, report func([]netip.Addr)) error {
	// The goroutine may move between threads, so hold on to the namespace.
	ns, err := netns.Get()
	if err != nil {
		return fmt.Errorf("watch the node's addresses: open the namespace: %w", err)
	}
	defer func() { _ = ns.Close() }()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("watch the node's addresses: open netlink: %w", err)
	}
	defer h.Close()

	var last []netip.Addr
	for first := true; ; first = false {
		updates := make(chan netlink.AddrUpdate, 64)
		done := make(chan struct{})
		options := netlink.AddrSubscribeOptions{Namespace: &ns, ErrorCallback: func(error) {}}
		if err := netlink.AddrSubscribeWithOptions(updates, done, options); err != nil {
			close(done)
			if first {
				return fmt.Errorf("watch the node's addresses: %w", err)
			}
		} else {
			// The kernel's queue may overflow, which ends the subscription;
			// the list read after opening the next one makes up for it.
			last = reportChanges(ctx, h, updates, last, first, report)
			close(done)
			go drain(updates)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rewatch):
		}
	}
}

// drain lets the subscription's goroutine, which may be about to send, end.
func drain(updates <-chan netlink.AddrUpdate) {
	for range updates {
		continue
	}
}

// reportChanges runs until the subscription or the context ends, and returns
// the addresses reported last.
func reportChanges(ctx context.Context, h *netlink.Handle, updates <-chan netlink.AddrUpdate,
	last []netip.Addr, first bool, report func([]netip.Addr)) []netip.Addr {
	pending := time.NewTimer(0)
	defer pending.Stop()
	for {
		select {
		case <-ctx.Done():
			return last
		case _, ok := <-updates:
			if !ok {
				return last
			}
			pending.Reset(settle)
		case <-pending.C:
			addrs, err := listAddresses(h)
			if err != nil {
				pending.Reset(rewatch)
				continue
			}
			if first || !slices.Equal(addrs, last) {
				report(addrs)
			}
			last, first = addrs, false
		}
	}
}

// DetectMTU returns the MTU, in bytes, of the device that has the default
// route; without one the smallest MTU of the devices that are up, and 1500 when
// there are none. Our own devices and the loopback do not count.
func DetectMTU() (int, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return 0, fmt.Errorf("find the MTU: list devices: %w", err)
	}
	mtus := map[int]int{}
	smallest := 0
	for _, l := range links {
		if !isUnderlay(l) {
			continue
		}
		a := l.Attrs()
		mtus[a.Index] = a.MTU
		if smallest == 0 || a.MTU < smallest {
			smallest = a.MTU
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteList(nil, family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return 0, fmt.Errorf("find the MTU: list routes: %w", err)
		}
		for _, r := range routes {
			prefix, ok := toPrefix(r.Dst)
			if mtu := mtus[r.LinkIndex]; mtu != 0 && (r.Dst == nil || ok && prefix.Bits() == 0) {
				return mtu, nil
			}
		}
	}
	if smallest == 0 {
		return 1500, nil
	}
	return smallest, nil
}
