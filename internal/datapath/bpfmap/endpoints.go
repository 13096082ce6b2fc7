// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/identity"
)

// Endpoint is what the kernel knows about a local workload, stored once for each
// of its addresses.
type Endpoint struct {
	ID       uint16
	Identity identity.ID
	PolicyID uint32 // 0: closed
	IfIndex  int    // host side of the veth pair
	MAC      [6]byte
	MTU      int
	Traced   bool // report each of its packets
}

// Endpoints is the map from a workload's address to its facts.
type Endpoints struct {
	m      *ebpf.Map
	epochs *Epochs
}

// NewEndpoints wraps the endpoint map.
func NewEndpoints(m *ebpf.Map, e *Epochs) *Endpoints { return &Endpoints{m, e} }

// Update writes a row. A full map is an error that names the size option.
func (e *Endpoints) Update(ip netip.Addr, row Endpoint) error {
	before, err := e.tenant(ip)
	if err != nil {
		return err
	}
	value := abi.Endpoint{
		Ifindex: uint32(row.IfIndex), Identity: uint32(row.Identity), Policy: row.PolicyID,
		ID: row.ID, MTU: uint16(min(row.MTU, 0xffff)), MAC: row.MAC,
	}
	if row.Traced {
		value.Traced = 1
	}
	if err := e.m.Put(abi.AddrFrom(ip), &value); err != nil {
		return fullError("endpoint map", ip, e.m.MaxEntries(), err)
	}
	e.changed(ip, before, row.ID)
	return nil
}

// Delete removes a row; a missing one is no error.
func (e *Endpoints) Delete(ip netip.Addr) error {
	before, err := e.tenant(ip)
	if err != nil {
		return err
	}
	if err := e.m.Delete(abi.AddrFrom(ip)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("endpoint map: delete %s: %w", ip, err)
	}
	e.changed(ip, before, before)
	return nil
}

// tenant returns the workload that has an address, 0 for none.
func (e *Endpoints) tenant(ip netip.Addr) (uint16, error) {
	var row abi.Endpoint
	if err := e.m.Lookup(abi.AddrFrom(ip), &row); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("endpoint map: look for %s: %w", ip, err)
	}
	return row.ID, nil
}

// changed moves the epochs of an address and of those that had it and have it.
func (e *Endpoints) changed(ip netip.Addr, before, after uint16) {
	e.epochs.Address(ip)
	e.epochs.Endpoint(after)
	if before != after && before != 0 {
		e.epochs.Endpoint(before)
	}
}

// Dump returns all rows.
func (e *Endpoints) Dump() (map[netip.Addr]Endpoint, error) {
	rows := make(map[netip.Addr]Endpoint)
	err := eachEndpoint(e.m, func(key *abi.Addr, v *abi.Endpoint) {
		rows[key.IP()] = Endpoint{
			ID: v.ID, Identity: identity.ID(v.Identity), PolicyID: v.Policy,
			IfIndex: int(v.Ifindex), MAC: v.MAC, MTU: int(v.MTU), Traced: v.Traced != 0,
		}
	})
	return rows, err
}

// batchEndpoints is how many rows one system call reads.
const batchEndpoints = 1024

func eachEndpoint(m *ebpf.Map, visit func(*abi.Addr, *abi.Endpoint)) error {
	size := min(batchEndpoints, int(m.MaxEntries()))
	keys, rows := make([]abi.Addr, size), make([]abi.Endpoint, size)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, rows, nil)
		for i := range n {
			visit(&keys[i], &rows[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the endpoint map: %w", err)
		}
	}
}

// fullError explains a failed write; maps without a free entry answer E2BIG or
// ENOSPC.
func fullError(name string, key any, entries uint32, err error) error {
	if isFull(err) {
		return fmt.Errorf("%s: add %v: all %d entries are in use: %w", name, key, entries, err)
	}
	return fmt.Errorf("%s: add %v: %w", name, key, err)
}
