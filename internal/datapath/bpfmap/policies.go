// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// TooLargeError says that a policy does not fit its map.
type TooLargeError struct {
	PolicyID     uint32
	Entries, Max int
}

// Error names the figures and what to do.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("policy %d needs %d map entries, but a policy map holds %d; select fewer peers or raise --policy-map-max",
		e.PolicyID, e.Entries, e.Max)
}

// Policies is the table of policy maps. Each policy has two slots, one in each
// bank; the generation says which bank is in force. A change of any number of
// policies is prepared in the other bank and takes effect with one write.
type Policies struct {
	mu         sync.Mutex
	outer      *ebpf.Map
	spec       *ebpf.MapSpec
	generation *Generation

	// stale holds the maps that are in force but missing from the idle bank. They
	// are copied before the next change, not right after a flip, because packets
	// that began before the flip may still be reading that bank.
	stale map[uint32]*ebpf.Map
}

// NewPolicies wraps the policies map; spec describes one policy's map.
func NewPolicies(outer *ebpf.Map, spec *ebpf.MapSpec, g *Generation) *Policies {
	return &Policies{outer: outer, spec: spec, generation: g, stale: make(map[uint32]*ebpf.Map)}
}

// Set replaces the given policies, all at once: every packet is decided either
// wholly by the old ones or wholly by the new. On an error the old stay in force.
func (p *Policies) Set(changes map[uint32]compile.Entries) error {
	if len(changes) == 0 {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	built, err := p.build(changes)
	if err != nil {
		return err
	}
	bank, err := p.generation.bank()
	if err != nil {
		closeAll(built)
		return err
	}
	idle := maps.Clone(p.stale)
	maps.Copy(idle, built)
	if err := p.install(1-bank, idle); err != nil {
		closeAll(built)
		return err
	}
	if err := p.generation.flip(); err != nil {
		closeAll(built)
		return err
	}
	closeAll(p.stale)
	p.stale = built
	return nil
}

func (p *Policies) build(changes map[uint32]compile.Entries) (map[uint32]*ebpf.Map, error) {
	built := make(map[uint32]*ebpf.Map, len(changes))
	for id, entries := range changes {
		m, err := p.buildOne(id, entries)
		if err != nil {
			closeAll(built)
			return nil, err
		}
		built[id] = m
	}
	return built, nil
}

func (p *Policies) buildOne(id uint32, entries compile.Entries) (*ebpf.Map, error) {
	if maximum := p.outer.MaxEntries()/2 - 1; id == 0 || id > maximum {
		return nil, fmt.Errorf("policy %d: ids go from 1 to %d; raise --policies-max", id, maximum)
	}
	if len(entries) > int(p.spec.MaxEntries) {
		return nil, &TooLargeError{PolicyID: id, Entries: len(entries), Max: int(p.spec.MaxEntries)}
	}
	m, err := ebpf.NewMap(p.spec)
	if err != nil {
		return nil, fmt.Errorf("create the map of policy %d: %w", id, err)
	}
	keys := make([]abi.PolicyKey, 0, len(entries))
	values := make([]abi.PolicyValue, 0, len(entries))
	for key, verdict := range entries {
		keys = append(keys, policyKey(key))
		values = append(values, policyValue(verdict))
	}
	if len(keys) == 0 {
		return m, nil
	}
	if _, err := m.BatchUpdate(keys, values, nil); err != nil {
		m.Close()
		return nil, fmt.Errorf("fill the map of policy %d with %d entries: %w", id, len(keys), err)
	}
	return m, nil
}

// install writes the maps into one bank, in one batch: the kernel waits for a
// grace period once a call.
func (p *Policies) install(bank uint32, built map[uint32]*ebpf.Map) error {
	slots := make([]uint32, 0, len(built))
	fds := make([]uint32, 0, len(built))
	for _, id := range slices.Sorted(maps.Keys(built)) {
		slots = append(slots, slot(id, bank))
		fds = append(fds, uint32(built[id].FD()))
	}
	_, err := p.outer.BatchUpdate(slots, fds, nil)
	if errors.Is(err, ebpf.ErrNotSupported) {
		for i := range slots {
			if err := p.outer.Put(slots[i], fds[i]); err != nil {
				return fmt.Errorf("install policy map in slot %d: %w", slots[i], err)
			}
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("install %d policy maps: %w", len(slots), err)
	}
	return nil
}

// Delete removes policies; endpoints that still name them are closed.
func (p *Policies) Delete(ids ...uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var failed []error
	for _, id := range ids {
		if m := p.stale[id]; m != nil {
			m.Close()
			delete(p.stale, id)
		}
		for bank := range uint32(2) {
			if err := p.outer.Delete(slot(id, bank)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				failed = append(failed, fmt.Errorf("delete policy %d: %w", id, err))
			}
		}
	}
	return errors.Join(append(failed, p.generation.Advance())...)
}

// IDs returns the policies that are in force, in order.
func (p *Policies) IDs() ([]uint32, error) {
	bank, err := p.generation.bank()
	if err != nil {
		return nil, err
	}
	var ids []uint32
	var key, value uint32
	iterator := p.outer.Iterate()
	for iterator.Next(&key, &value) {
		if key&1 == bank && value != 0 {
			ids = append(ids, key/2)
		}
	}
	if err := iterator.Err(); err != nil {
		return nil, fmt.Errorf("read the policies map: %w", err)
	}
	slices.Sort(ids)
	return ids, nil
}

// Get returns the entries of a policy that is in force. A policy that is not
// installed is an error that wraps ebpf.ErrKeyNotExist.
func (p *Policies) Get(id uint32) (compile.Entries, error) {
	bank, err := p.generation.bank()
	if err != nil {
		return nil, err
	}
	var inner *ebpf.Map
	if err := p.outer.Lookup(slot(id, bank), &inner); err != nil {
		return nil, fmt.Errorf("policy %d: %w", id, err)
	}
	defer inner.Close()
	entries := make(compile.Entries)
	var key abi.PolicyKey
	var value abi.PolicyValue
	iterator := inner.Iterate()
	for iterator.Next(&key, &value) {
		entries[entryKey(key)] = entryVerdict(value)
	}
	if err := iterator.Err(); err != nil {
		return nil, fmt.Errorf("read policy %d: %w", id, err)
	}
	return entries, nil
}

// Close frees the maps that this process still holds open.
func (p *Policies) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	closeAll(p.stale)
	p.stale = nil
}

func slot(id, bank uint32) uint32 { return 2*id + bank }

func closeAll(built map[uint32]*ebpf.Map) {
	for _, m := range built {
		m.Close()
	}
}

// Bits of the key before the protocol, before the port, and in all.
const (
	peerAndDirectionBits = 40
	protocolBits         = 48
)

func policyKey(k compile.Key) abi.PolicyKey {
	key := abi.PolicyKey{
		Prefixlen: peerAndDirectionBits,
		Peer:      uint32(k.Identity),
		Direction: uint8(k.Direction),
	}
	if k.Protocol != l4.Any {
		key.Protocol = uint8(k.Protocol)
		key.Prefixlen = protocolBits + uint32(k.PortBits)
		key.Port = abi.WirePort(k.Port)
	}
	return key
}

func entryKey(k abi.PolicyKey) compile.Key {
	key := compile.Key{Identity: identity.ID(k.Peer), Direction: policy.Direction(k.Direction)}
	if k.Prefixlen >= protocolBits {
		key.Protocol = l4.Protocol(k.Protocol)
		key.PortBits = uint8(k.Prefixlen - protocolBits)
		key.Port = abi.Port(k.Port)
	}
	return key
}
