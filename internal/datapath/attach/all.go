// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// spot is a place where a program of ours hangs.
type spot struct {
	ifname    string
	direction Direction
	program   ebpf.ProgramID
	replace   func(*ebpf.Program) error
}

// Pair are the programs of a device.
type Pair struct{ Ingress, Egress *ebpf.Program }

func (p Pair) of(d Direction) *ebpf.Program {
	if d == Ingress {
		return p.Ingress
	}
	return p.Egress
}

// ReplaceAll puts programs in place of all of ours, on whichever device and in
// whichever form, without a gap. Which ones is up to the device's name; where pair
// has none the present one stays. A device that goes away meanwhile is no error.
func (a *Attacher) ReplaceAll(pair func(ifname string) Pair) error {
	spots, closeLinks, err := a.spots()
	if err != nil {
		return err
	}
	defer closeLinks()
	var failed []error
	for _, s := range spots {
		program := pair(s.ifname).of(s.direction)
		if program == nil {
			continue
		}
		if err := s.replace(program); err != nil && !errors.Is(err, unix.ENOLINK) && !gone(err) {
			failed = append(failed, fmt.Errorf("replace the %s program of %s: %w", s.direction, s.ifname, err))
		}
	}
	return errors.Join(failed...)
}

// Devices returns the names of the devices that have programs of ours, in whichever
// form, and of those that have only their pins left.
func (a *Attacher) Devices() ([]string, error) {
	spots, closeLinks, err := a.spots()
	if err != nil {
		return nil, err
	}
	defer closeLinks()
	found := map[string]bool{}
	for _, s := range spots {
		found[s.ifname] = true
	}
	pins, err := filepath.Glob(filepath.Join(a.links, "*"))
	for _, pin := range pins {
		name, _, _ := cutLast(filepath.Base(pin), "_")
		found[name] = true
	}
	return slices.Sorted(maps.Keys(found)), err
}

func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return s, "", false
}

// Find returns a program of ours for each direction, from any device but these; nil if
// none has one. The caller closes them.
func (a *Attacher) Find(except ...string) (found Pair, err error) {
	spots, closeLinks, err := a.spots()
	if err != nil {
		return found, err
	}
	defer closeLinks()
	for _, s := range spots {
		into := &found.Egress
		if s.direction == Ingress {
			into = &found.Ingress
		}
		if *into == nil && !slices.Contains(except, s.ifname) {
			// One that is gone by now may be on the next device, too.
			*into, _ = ebpf.NewProgramFromID(s.program)
		}
	}
	return found, nil
}

// spots finds our programs, those on links first.
func (a *Attacher) spots() (spots []spot, closeLinks func(), err error) {
	var links []link.Link
	closeLinks = func() {
		for _, l := range links {
			_ = l.Close()
		}
	}
	defer func() {
		if err != nil {
			closeLinks()
		}
	}()
	pins, err := filepath.Glob(filepath.Join(a.links, "*"))
	if err != nil {
		return nil, nil, err
	}
	var known []link.ID
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			continue // not a link: no program hangs there
		}
		links = append(links, l)
		info, err := l.Info()
		if err != nil {
			return nil, nil, fmt.Errorf("read what the pinned link %s is attached to: %w", pin, err)
		}
		ifname, direction, _ := cutLast(filepath.Base(pin), "_")
		spots = append(spots, spot{ifname, Direction(direction), info.Program, l.Update})
		known = append(known, info.ID)
	}
	more, others, err := unpinnedSpots(known)
	links = append(links, others...)
	return append(spots, more...), closeLinks, err
}

// unpinnedSpots finds the programs of ours that no pin leads to: those on links but the
// known ones, which the caller closes, and those in filters.
func unpinnedSpots(known []link.ID) (spots []spot, links []link.Link, err error) {
	devices, err := netlink.LinkList()
	if err != nil {
		return nil, nil, os.NewSyscallError("list the devices", err)
	}
	for _, device := range devices {
		name, index := device.Attrs().Name, device.Attrs().Index
		for _, d := range directions {
			others, err := unpinned(index, d, known)
			if err != nil {
				return nil, links, err
			}
			for _, l := range others {
				links = append(links, l)
				spots = append(spots, spot{name, d, l.program, l.Update})
			}
			filter, err := filterSpot(index, name, d)
			if err != nil {
				return nil, links, err
			}
			spots = append(spots, filter...)
		}
	}
	return spots, links, nil
}

func filterSpot(ifindex int, ifname string, d Direction) ([]spot, error) {
	filters, err := listFilters(ifindex, d)
	f := ours(filters, d)
	if err != nil || f == nil {
		return nil, err
	}
	return []spot{{ifname, d, ebpf.ProgramID(f.Id), func(p *ebpf.Program) error {
		_, err := replaceFilter(ifindex, d, p)
		return err
	}}}, nil
}
