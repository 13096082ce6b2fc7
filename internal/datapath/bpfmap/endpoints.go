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
}

// Endpoints is the map from a workload's address to its facts.
type Endpoints struct {
	m          *ebpf.Map
	generation *Generation
}

// NewEndpoints wraps the endpoint map.
func NewEndpoints(m *ebpf.Map, g *Generation) *Endpoints { return &Endpoints{m, g} }

// Update writes a row. A full map is an error that names the size option.
func (e *Endpoints) Update(ip netip.Addr, row Endpoint) error {
	value := abi.Endpoint{
		Ifindex: uint32(row.IfIndex), Identity: uint32(row.Identity), Policy: row.PolicyID,
		ID: row.ID, MTU: uint16(min(row.MTU, 0xffff)), MAC: row.MAC,
	}
	if err := e.m.Put(abi.AddrFrom(ip), &value); err != nil {
		return fullError("endpoint map", ip, e.m.MaxEntries(), err)
	}
	return e.generation.Advance()
}

// Delete removes a row; a missing one is no error.
func (e *Endpoints) Delete(ip netip.Addr) error {
	if err := e.m.Delete(abi.AddrFrom(ip)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("endpoint map: delete %s: %w", ip, err)
	}
	return e.generation.Advance()
}

// Dump returns all rows.
func (e *Endpoints) Dump() (map[netip.Addr]Endpoint, error) {
	rows := make(map[netip.Addr]Endpoint)
	var key abi.Addr
	var v abi.Endpoint
	iterator := e.m.Iterate()
	for iterator.Next(&key, &v) {
		rows[key.IP()] = Endpoint{
			ID: v.ID, Identity: identity.ID(v.Identity), PolicyID: v.Policy,
			IfIndex: int(v.Ifindex), MAC: v.MAC, MTU: int(v.MTU),
		}
	}
	if err := iterator.Err(); err != nil {
		return nil, fmt.Errorf("read the endpoint map: %w", err)
	}
	return rows, nil
}

// fullError explains a failed write; maps without a free entry answer E2BIG or
// ENOSPC.
func fullError(name string, key any, entries uint32, err error) error {
	if isFull(err) {
		return fmt.Errorf("%s: add %v: all %d entries are in use: %w", name, key, entries, err)
	}
	return fmt.Errorf("%s: add %v: %w", name, key, err)
}
