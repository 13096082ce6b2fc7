// SPDX-License-Identifier: Apache-2.0

// Package bpfmap gives the data plane's maps their types: rows in terms of the
// rest of the agent on one side, the C structs on the other. Every write that
// can change a decision ends with a new epoch of those it concerns, so that their
// tracked flows are decided again.
//
// The agent is the only writer of these maps. All types are safe for concurrent
// use.
package bpfmap

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/abi"
)

// Epochs makes cached decisions stale, those that a change may concern and no
// others: each flow was decided under the epochs of its two ends, a local endpoint's
// own or one that an address shares with few others by a hash, and one epoch of all.
// It also publishes policies: the lowest bit of their generation, which a packet
// reads once, selects one of two banks of policy maps.
//
// An epoch moves after the write that changed what decisions depend on.
type Epochs struct {
	mu                 sync.Mutex
	control, endpoints *ebpf.Map
	slots              []byte // shared with the programs
}

// NewEpochs wraps the maps, until Close; that of endpoints is only read, for who uses a policy.
// The first time it gives the flow table the seed of its hash.
func NewEpochs(control, slots, endpoints *ebpf.Map) (*Epochs, error) {
	memory, err := mapMemory(slots, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, fmt.Errorf("map the epochs: %w", err)
	}
	e := &Epochs{control: control, slots: memory, endpoints: endpoints}
	_, err = e.change(func(c *abi.Control) {
		if c.Seed != [2]uint64{} {
			return
		}
		var seed [16]byte
		_, _ = rand.Read(seed[:]) // never fails
		c.Seed = [2]uint64{binary.NativeEndian.Uint64(seed[:]), binary.NativeEndian.Uint64(seed[8:])}
	})
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Everything makes all cached decisions stale.
func (e *Epochs) Everything() error {
	_, err := e.change(func(c *abi.Control) { c.Epoch++ })
	return err
}

// Address makes the decisions about an address stale.
func (e *Epochs) Address(ip netip.Addr) { e.advance(addressSlot(ip)) }

// Prefix makes the decisions about the addresses of a prefix stale.
func (e *Epochs) Prefix(p netip.Prefix) error {
	if p.IsSingleIP() {
		e.Address(p.Addr())
		return nil
	}
	return e.Everything()
}

// Endpoint makes the decisions about a local workload stale.
func (e *Epochs) Endpoint(id uint16) { e.advance(uint32(id)) }

// policies makes the decisions stale of the workloads that have one of the policies
// or its audited companion.
func (e *Epochs) policies(ids []uint32) error {
	changed := make(map[uint32]bool, len(ids))
	for _, id := range ids {
		changed[id&^1] = true
	}
	concerned := make(map[uint16]bool)
	err := eachEndpoint(e.endpoints, func(_ *abi.Addr, row *abi.Endpoint) {
		if changed[row.Policy&^1] {
			concerned[row.ID] = true
		}
	})
	if err != nil {
		return err
	}
	for id := range concerned {
		e.Endpoint(id)
	}
	return nil
}

// SetWatched says whether somebody wants to know of every change of a flow.
func (e *Epochs) SetWatched(watched bool) error {
	_, err := e.change(func(c *abi.Control) {
		c.Watched = 0
		if watched {
			c.Watched = 1
		}
	})
	return err
}

// SetOverlay says by which device, and up to which size in bytes, packets go to other
// nodes; 0 for none. Decisions name the device, so a change makes all of them stale.
func (e *Epochs) SetOverlay(ifindex, mtu int) error {
	_, err := e.change(func(c *abi.Control) {
		if c.Overlay != uint32(ifindex) || c.OverlayMTU != uint32(mtu) {
			c.Overlay, c.OverlayMTU = uint32(ifindex), uint32(mtu)
			c.Epoch++
		}
	})
	return err
}

// SetPhase says what the programs do while maps of another layout give way to these
// (enum phase in bpf/lib/abi.h).
func (e *Epochs) SetPhase(phase uint32) error {
	_, err := e.change(func(c *abi.Control) { c.Phase = phase })
	return err
}

// Phase returns the phase.
func (e *Epochs) Phase() (uint32, error) {
	c, err := e.change(nil)
	return c.Phase, err
}

// bank returns the bank of policy slots in force, 0 or 1.
func (e *Epochs) bank() (uint32, error) {
	generation, err := e.generation()
	return generation & 1, err
}

func (e *Epochs) generation() (uint32, error) {
	c, err := e.change(nil)
	return c.Generation, err
}

// begin has the generation say, from before the first policy is written, that there may
// be some: what a change leaves that fails, or whose agent is killed, is then found by the
// next agent. The bank in force stays the same.
func (e *Epochs) begin() error {
	_, err := e.change(func(c *abi.Control) {
		if c.Generation == 0 {
			c.Generation = 2
		}
	})
	return err
}

// flip puts the other bank in force for every packet that asks from now on.
func (e *Epochs) flip() error {
	_, err := e.change(func(c *abi.Control) { c.Generation++ })
	return err
}

// change writes the row of the control map, if there is something to write, and
// returns it.
func (e *Epochs) change(edit func(*abi.Control)) (abi.Control, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var c abi.Control
	if err := e.control.Lookup(uint32(0), &c); err != nil {
		return c, fmt.Errorf("read the control map: %w", err)
	}
	if edit == nil {
		return c, nil
	}
	before := c
	if edit(&c); c == before {
		return c, nil
	}
	if err := e.control.Put(uint32(0), &c); err != nil {
		return c, fmt.Errorf("write the control map: %w", err)
	}
	return c, nil
}

func (e *Epochs) advance(slot uint32) {
	atomic.AddUint64((*uint64)(unsafe.Pointer(&e.slots[slot*epochBytes])), 1)
}

// Close unmaps the epochs. They stay.
func (e *Epochs) Close() error { return unix.Munmap(e.slots) }

// epochBytes is the size of an epoch.
const epochBytes = 8

// epochMultiplier is that of the programs (bpf/lib/epoch.h).
const epochMultiplier = 0x9e3779b97f4a7c15

// addressSlot is the slot of an address, as the programs compute it.
func addressSlot(ip netip.Addr) uint32 {
	bytes := ip.As16()
	h := binary.NativeEndian.Uint64(bytes[:]) * epochMultiplier
	h = (h + binary.NativeEndian.Uint64(bytes[8:])) * epochMultiplier
	return abi.EpochAddresses + uint32(h>>48)
}
