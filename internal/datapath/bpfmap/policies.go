// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

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

// Policies is the table of policy maps. Each policy has a map in each of two
// banks; the generation says which bank is in force. A change of any number of
// policies is prepared in the idle bank and takes effect with one write.
//
// Maps are changed in place while their bank is idle: only a new policy needs a
// new map, which costs a grace period of the kernel, some ten milliseconds.
type Policies struct {
	outer      *ebpf.Map
	spec       *ebpf.MapSpec
	generation *Generation

	mu    sync.Mutex
	banks [2]map[uint32]*bankMap
	// settled is closed once no packet reads the idle bank any more: those that
	// began before the last flip are through.
	settled chan struct{}
	// behind are the policies of which the idle bank has an older version.
	behind map[uint32]bool
}

// bankMap is a policy's map in one bank with what is in it. A nil content is
// unknown: the map is written anew.
type bankMap struct {
	m       *ebpf.Map
	content compile.Entries
}

// NewPolicies wraps the policies map; spec describes one policy's map.
func NewPolicies(outer *ebpf.Map, spec *ebpf.MapSpec, g *Generation) *Policies {
	settled := make(chan struct{})
	close(settled)
	return &Policies{
		outer: outer, spec: spec, generation: g, settled: settled, behind: make(map[uint32]bool),
		banks: [2]map[uint32]*bankMap{make(map[uint32]*bankMap), make(map[uint32]*bankMap)},
	}
}

// Set replaces the given policies, all at once: every packet is decided either
// wholly by the old ones or wholly by the new. On an error the old stay in force.
// The entries belong to Policies from then on.
func (p *Policies) Set(changes map[uint32]compile.Entries) error {
	if len(changes) == 0 {
		return nil
	}
	if err := p.check(changes); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	force, err := p.generation.bank()
	if err != nil {
		return err
	}
	idle := 1 - force
	<-p.settled
	wanted := make(map[uint32]compile.Entries, len(changes)+len(p.behind))
	for id := range p.behind {
		wanted[id] = p.banks[force][id].content
	}
	maps.Copy(wanted, changes)
	if err := p.write(idle, wanted); err != nil {
		// Some of the idle bank may be written: the next change starts from what is
		// in force.
		for id := range wanted {
			if p.banks[force][id] != nil {
				p.behind[id] = true
			}
		}
		return err
	}
	if err := p.generation.flip(); err != nil {
		return err
	}
	clear(p.behind)
	for id := range changes {
		p.behind[id] = true
	}
	p.settle()
	return nil
}

// settle waits aside until every packet that may read the bank that just went out
// of force is through.
func (p *Policies) settle() {
	settled := make(chan struct{})
	p.settled = settled
	go func() {
		defer close(settled)
		waitForPackets()
	}()
}

// waitForPackets returns after a grace period: BPF programs run inside read-side
// sections of RCU, and the global membarrier command waits for all of them.
func waitForPackets() {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		// Without the call, by far longer than a packet takes.
		time.Sleep(100 * time.Millisecond)
	}
}

// check refuses what cannot fit before anything is touched.
func (p *Policies) check(changes map[uint32]compile.Entries) error {
	for id, entries := range changes {
		if maximum := p.outer.MaxEntries()/2 - 1; id == 0 || id > maximum {
			return fmt.Errorf("policy %d: ids go from 1 to %d; raise --policies-max", id, maximum)
		}
		if len(entries) > int(p.spec.MaxEntries) {
			return &TooLargeError{PolicyID: id, Entries: len(entries), Max: int(p.spec.MaxEntries)}
		}
	}
	return nil
}

// write brings the policies of a bank that is not in force to what is wanted.
func (p *Policies) write(bank uint32, wanted map[uint32]compile.Entries) error {
	fresh := make(map[uint32]*bankMap)
	for id, entries := range wanted {
		have := p.banks[bank][id]
		if have == nil {
			m, err := ebpf.NewMap(p.spec)
			if err != nil {
				closeAll(fresh)
				return fmt.Errorf("create the map of policy %d: %w", id, err)
			}
			have = &bankMap{m: m, content: compile.Entries{}}
			fresh[id] = have
		}
		if err := have.become(entries); err != nil {
			closeAll(fresh)
			return fmt.Errorf("policy %d: %w", id, err)
		}
	}
	if err := p.install(bank, fresh); err != nil {
		closeAll(fresh)
		return err
	}
	maps.Copy(p.banks[bank], fresh)
	return nil
}

// become makes the map hold exactly the entries.
func (b *bankMap) become(entries compile.Entries) error {
	have := b.content
	b.content = nil
	if have == nil {
		var err error
		if have, err = readEntries(b.m); err != nil {
			return err
		}
	}
	for key := range have {
		if _, stays := entries[key]; stays {
			continue
		}
		old := policyKey(key)
		if err := b.m.Delete(&old); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove an entry: %w", err)
		}
	}
	var keys []abi.PolicyKey
	var values []abi.PolicyValue
	for key, entry := range entries {
		if old, same := have[key]; same && old == entry {
			continue
		}
		keys = append(keys, policyKey(key))
		values = append(values, policyValue(entry))
	}
	if len(keys) > 0 {
		if _, err := b.m.BatchUpdate(keys, values, nil); err != nil {
			return fmt.Errorf("write %d entries: %w", len(keys), err)
		}
	}
	b.content = entries
	return nil
}

// install puts new maps into a bank, in one batch: the kernel waits for a grace
// period once a call.
func (p *Policies) install(bank uint32, built map[uint32]*bankMap) error {
	slots := make([]uint32, 0, len(built))
	fds := make([]uint32, 0, len(built))
	for _, id := range slices.Sorted(maps.Keys(built)) {
		slots = append(slots, slot(id, bank))
		fds = append(fds, uint32(built[id].m.FD()))
	}
	if len(slots) == 0 {
		return nil
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

// Delete removes policies; endpoints that still name them are closed. Their maps
// are emptied and stay, a few hundred bytes each, for the next policy of the same
// number: taking a map out of its slot costs a grace period.
func (p *Policies) Delete(ids ...uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var failed []error
	for _, id := range ids {
		delete(p.behind, id)
		for bank := range uint32(2) {
			b := p.banks[bank][id]
			if b == nil {
				// Of an earlier agent, or never there.
				if err := p.outer.Delete(slot(id, bank)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
					failed = append(failed, fmt.Errorf("delete policy %d: %w", id, err))
				}
			} else if err := b.become(compile.Entries{}); err != nil {
				failed = append(failed, fmt.Errorf("empty policy %d: %w", id, err))
			}
		}
	}
	return errors.Join(append(failed, p.generation.Advance())...)
}

// IDs returns the policies that are in force, in order. Those that an earlier
// agent left and nobody has set since are not among them: no endpoint names them,
// and finding them would take a look into every slot, each of which costs a grace
// period on kernels before 6.8.
func (p *Policies) IDs() ([]uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	force, err := p.generation.bank()
	if err != nil {
		return nil, err
	}
	var ids []uint32
	for id, b := range p.banks[force] {
		// An emptied map is only kept for the next policy of its number.
		if b.content == nil || len(b.content) > 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Get reads the entries of a policy that is in force from the kernel. A policy
// that is not is an error that wraps ebpf.ErrKeyNotExist.
func (p *Policies) Get(id uint32) (compile.Entries, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	force, err := p.generation.bank()
	if err != nil {
		return nil, err
	}
	b := p.banks[force][id]
	if b == nil {
		return nil, fmt.Errorf("policy %d: %w", id, ebpf.ErrKeyNotExist)
	}
	return readEntries(b.m)
}

func readEntries(m *ebpf.Map) (compile.Entries, error) {
	entries := make(compile.Entries)
	var key abi.PolicyKey
	var value abi.PolicyValue
	iterator := m.Iterate()
	for iterator.Next(&key, &value) {
		entries[entryKey(key)] = entryValue(value)
	}
	if err := iterator.Err(); err != nil {
		return nil, fmt.Errorf("read policy entries: %w", err)
	}
	return entries, nil
}

// Close frees this process's handles; the maps stay in their slots.
func (p *Policies) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, bank := range p.banks {
		closeAll(bank)
		clear(bank)
	}
	clear(p.behind)
}

func slot(id, bank uint32) uint32 { return 2*id + bank }

func closeAll(built map[uint32]*bankMap) {
	for _, b := range built {
		b.m.Close()
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
