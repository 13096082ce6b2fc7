// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// State is what decides about the packets of a device.
type State struct {
	Ingress, Egress ebpf.ProgramID // 0: no program of ours
	// Lasting says that each program is alone, and stays when the agent ends.
	Lasting bool
}

// StateOf is the state of a device that has these programs as it should.
func StateOf(p Pair) (s State, err error) {
	s.Lasting = true
	for program, id := range map[*ebpf.Program]*ebpf.ProgramID{p.Ingress: &s.Ingress, p.Egress: &s.Egress} {
		if program == nil {
			continue
		}
		info, err := program.Info()
		if err != nil {
			return s, fmt.Errorf("read a program's number: %w", err)
		}
		*id, _ = info.ID()
	}
	return s, nil
}

func (s *State) of(d Direction) *ebpf.ProgramID {
	if d == Ingress {
		return &s.Ingress
	}
	return &s.Egress
}

// State reads what a device has, of which the directions that want has programs for
// are looked at.
func (a *Attacher) State(ifindex int, ifname string, want State) (s State, err error) {
	s.Lasting = true
	for _, d := range directions {
		if *want.of(d) == 0 {
			continue
		}
		var lasting bool
		if *s.of(d), lasting, err = a.decides(ifindex, ifname, d, *want.of(d)); err != nil {
			return s, err
		}
		s.Lasting = s.Lasting && lasting
	}
	return s, nil
}

// decides returns the program of ours that has a packet first.
func (a *Attacher) decides(ifindex int, ifname string, d Direction, want ebpf.ProgramID) (id ebpf.ProgramID, lasting bool, err error) {
	programs, err := queryTCX(ifindex, d)
	if err != nil {
		return 0, false, err
	}
	var found []link.AttachedProgram
	for _, p := range programs {
		if p.ID == want || isOurs(p.ID) {
			found = append(found, p)
		}
	}
	if len(found) > 0 {
		on, _ := found[0].LinkID()
		return found[0].ID, len(found) == 1 && a.pins(ifindex, ifname, d, on), nil
	}
	filters, err := listFilters(ifindex, d)
	if f := ours(filters, d); f != nil {
		return ebpf.ProgramID(f.Id), true, err
	}
	return 0, false, err
}

// pins tells whether the device's pin leads to the link.
func (a *Attacher) pins(ifindex int, ifname string, d Direction, id link.ID) bool {
	l, err := openPin(a.pin(ifname, d), ifindex, d)
	if err != nil || l == nil {
		return false
	}
	defer func() { _ = l.Close() }()
	return l.id == id
}

// Has tells whether a device has a program of ours, in whichever form.
func Has(ifindex int) (bool, error) {
	for _, d := range directions {
		programs, err := queryTCX(ifindex, d)
		if err != nil {
			return false, err
		}
		filters, err := listFilters(ifindex, d)
		if err != nil {
			return false, err
		}
		if ours(filters, d) != nil || slices.ContainsFunc(programs, func(p link.AttachedProgram) bool { return isOurs(p.ID) }) {
			return true, nil
		}
	}
	return false, nil
}
