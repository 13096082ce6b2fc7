// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	ingressHook = direction{"ingress", ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS}
	egressHook  = direction{"egress", ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS}
)

// Handle and priority of our filters. Fixed, so that a replacement meets the
// filter that it replaces.
const (
	filterHandle   = 0x1
	filterPriority = 0xc1
)

// clsact returns the queueing discipline that filters hang on.
func clsact(ifindex int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

func filter(ifindex int, d direction, program *ebpf.Program) *netlink.BpfFilter {
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: d.parent, Handle: filterHandle,
			Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Name: "cilium", DirectAction: true,
	}
	if program != nil {
		f.Fd = program.FD()
	}
	return f
}

func replaceFilter(ifindex int, d direction, program *ebpf.Program) error {
	if err := netlink.QdiscAdd(clsact(ifindex)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w (is CONFIG_NET_CLS_ACT on?)", err)
	}
	if err := netlink.FilterReplace(filter(ifindex, d, program)); err != nil {
		return fmt.Errorf("replace filter: %w (is CONFIG_NET_CLS_BPF on?)", err)
	}
	return nil
}

// removeFilter removes our filter and leaves the discipline, which others may
// use. Where there is neither device, discipline nor filter, there is nothing to do.
func removeFilter(ifindex int, d direction) error {
	err := netlink.FilterDel(filter(ifindex, d, nil))
	for _, gone := range []error{unix.ENOENT, unix.ENODEV, unix.EINVAL, unix.EOPNOTSUPP} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("remove filter: %w", err)
	}
	return nil
}
