// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Our filter has always the same priority and handle, so that adding it again
// replaces the former one.
const (
	filterPriority = 1
	filterHandle   = 1
	filterPrefix   = "cilium_"
)

func (d Direction) parent() uint32 {
	if d == Ingress {
		return netlink.HANDLE_MIN_INGRESS
	}
	return netlink.HANDLE_MIN_EGRESS
}

// replaceFilter adds our filter or puts the program into the one that is there.
func replaceFilter(ifindex int, d Direction, prog *ebpf.Program) (fresh bool, err error) {
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("add the clsact qdisc: %w (is CONFIG_NET_SCH_INGRESS on?)", err)
	}
	present, err := listFilters(ifindex, d)
	if err != nil {
		return false, err
	}
	filter := ourFilter(ifindex, d)
	filter.Fd, filter.DirectAction = prog.FD(), true
	if err := netlink.FilterReplace(filter); err != nil {
		return false, fmt.Errorf("replace the filter: %w (is CONFIG_NET_CLS_BPF on?)", err)
	}
	return ours(present) == nil, nil
}

func ourFilter(ifindex int, d Direction) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: d.parent(), Handle: filterHandle,
			Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Name: filterPrefix + string(d),
	}
}

// listFilters returns the BPF filters of one direction. A device without the
// qdisc, or a device that is gone, has none.
func listFilters(ifindex int, d Direction) ([]*netlink.BpfFilter, error) {
	device := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	all, err := netlink.FilterList(device, d.parent())
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the %s filters of device %d: %w", d, ifindex, err)
	}
	var found []*netlink.BpfFilter
	for _, f := range all {
		if bpf, ok := f.(*netlink.BpfFilter); ok {
			found = append(found, bpf)
		}
	}
	return found, nil
}

// ours returns our filter among those of one direction, or nil.
func ours(filters []*netlink.BpfFilter) *netlink.BpfFilter {
	for _, f := range filters {
		named := f.Name == filterPrefix+string(Ingress) || f.Name == filterPrefix+string(Egress)
		if f.Priority == filterPriority && f.Handle == filterHandle && named {
			return f
		}
	}
	return nil
}

// removeFilter removes our filter, if it is there. The name guards against a
// device whose index was given to another one meanwhile.
func removeFilter(ifindex int, ifname string, d Direction) error {
	if present, err := hasName(ifindex, ifname); err != nil || !present {
		return err
	}
	filters, err := listFilters(ifindex, d)
	if err != nil || ours(filters) == nil {
		return err
	}
	if err := netlink.FilterDel(ourFilter(ifindex, d)); err != nil && !gone(err) {
		return fmt.Errorf("remove the %s filter: %w", d, err)
	}
	return nil
}

// removeQdisc removes the clsact qdisc when no filter is left that needs it.
func removeQdisc(ifindex int, ifname string) error {
	if present, err := hasName(ifindex, ifname); err != nil || !present {
		return err
	}
	device := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	qdiscs, err := netlink.QdiscList(device)
	if err != nil {
		return fmt.Errorf("list the qdiscs: %w", err)
	}
	for _, q := range qdiscs {
		if q.Type() != "clsact" {
			continue
		}
		for _, d := range directions {
			left, err := netlink.FilterList(device, d.parent())
			if err != nil || len(left) > 0 {
				return err
			}
		}
		if err := netlink.QdiscDel(q); err != nil && !gone(err) {
			return fmt.Errorf("remove the clsact qdisc: %w", err)
		}
	}
	return nil
}

func hasName(ifindex int, ifname string) (bool, error) {
	l, err := netlink.LinkByIndex(ifindex)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find device %d: %w", ifindex, err)
	}
	return l.Attrs().Name == ifname, nil
}

func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL)
}
