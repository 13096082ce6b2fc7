// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Our filter is known by its name. It gets the handle 1 of the first priority that
// nobody else uses, and stays there: the program in it is replaced.
const (
	filterHandle   = 1
	filterPrefix   = "cilium_"
	lastPriority   = 1<<16 - 1
	placementTries = 5 // others may take the same priority at the same time
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
	for range placementTries {
		present, err := listAll(ifindex, d)
		if err != nil {
			return false, err
		}
		if ours(bpfFilters(present), d.other()) != nil {
			return false, errors.New("the device has an ingress qdisc, which sees one direction only: remove it (tc qdisc del dev DEVICE ingress)")
		}
		if f := ours(bpfFilters(present), d); f != nil {
			return false, putFilter(netlink.FilterReplace, f, prog)
		}
		f, err := newFilter(ifindex, d, present)
		if err != nil {
			return false, err
		}
		if err = putFilter(netlink.FilterAdd, f, prog); !errors.Is(err, unix.EEXIST) {
			return true, err
		}
	}
	return false, errors.New("add the filter: others take each priority that was free")
}

func putFilter(put func(netlink.Filter) error, f *netlink.BpfFilter, prog *ebpf.Program) error {
	f.Fd, f.DirectAction = prog.FD(), true
	if err := put(f); err != nil {
		return fmt.Errorf("put the filter at priority %d: %w (is CONFIG_NET_CLS_BPF on?)", f.Priority, err)
	}
	return nil
}

// newFilter is our filter at a priority that none of those present has, of whatever
// kind they are.
func newFilter(ifindex int, d Direction, present []netlink.Filter) (*netlink.BpfFilter, error) {
	taken := map[uint16]bool{}
	for _, f := range present {
		taken[f.Attrs().Priority] = true
	}
	for priority := uint16(1); priority < lastPriority; priority++ {
		if taken[priority] {
			continue
		}
		return &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: ifindex, Parent: d.parent(), Handle: filterHandle,
				Priority: priority, Protocol: unix.ETH_P_ALL,
			},
			Name: filterPrefix + string(d),
		}, nil
	}
	return nil, errors.New("no priority is free for a filter: remove some of the device's filters")
}

// listFilters returns the BPF filters of one direction. A device without the
// qdisc, or a device that is gone, has none.
func listFilters(ifindex int, d Direction) ([]*netlink.BpfFilter, error) {
	all, err := listAll(ifindex, d)
	return bpfFilters(all), err
}

// listAll likewise returns filters of every kind.
func listAll(ifindex int, d Direction) ([]netlink.Filter, error) {
	device := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	all, err := netlink.FilterList(device, d.parent())
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the %s filters of device %d: %w", d, ifindex, err)
	}
	return all, nil
}

func bpfFilters(all []netlink.Filter) (found []*netlink.BpfFilter) {
	for _, f := range all {
		if bpf, ok := f.(*netlink.BpfFilter); ok {
			found = append(found, bpf)
		}
	}
	return found
}

// ours returns our filter for a direction among those listed, or nil.
func ours(filters []*netlink.BpfFilter, d Direction) *netlink.BpfFilter {
	for _, f := range filters {
		if f.Name == filterPrefix+string(d) {
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
	if err != nil {
		return err
	}
	present := ours(filters, d)
	if present == nil {
		return nil
	}
	if err := netlink.FilterDel(present); err != nil && !gone(err) {
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
