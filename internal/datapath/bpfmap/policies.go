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
// Maps are changed in place while their bank is idle, so that a change costs what
// changes: only a new policy needs new maps, which cost a grace period of the
// kernel, some ten milliseconds. The kernel holds the only copy of the entries.
type Policies struct {
	slots     slots
	capacity  int // of one policy
	last      uint32
	epochs    *Epochs
	inherited bool // an earlier agent may have left policies
	wait      func()

	mu   sync.Mutex
	held map[uint32]*heldPolicy
	// settled is closed once no packet reads the idle bank any more: those that
	// began before the last flip are through.
	settled chan struct{}
	// behind says, of the policies of which the idle bank has another version than
	// the bank in force, what it lacks.
	behind map[uint32]lag
}

// heldPolicy is what is known of a policy: its map in each bank, nil for none.
type heldPolicy struct {
	maps [2]entryMap
	size int // entries in force
}

// lag is what a map of the idle bank lacks: a delta, or with unknown set that has
// to be found out by comparing it with the one in force.
type lag struct {
	unknown bool
	delta   compile.Delta
}

// NewPolicies wraps the policies map; spec describes one policy's map.
func NewPolicies(outer *ebpf.Map, spec *ebpf.MapSpec, e *Epochs) *Policies {
	p := newPolicies(kernelSlots{outer, spec}, int(spec.MaxEntries), outer.MaxEntries()/2-1, e)
	p.wait = WaitForPackets
	return p
}

func newPolicies(s slots, capacity int, last uint32, e *Epochs) *Policies {
	settled := make(chan struct{})
	close(settled)
	generation, err := e.generation()
	return &Policies{
		slots: s, capacity: capacity, last: last, epochs: e, inherited: err != nil || generation != 0,
		wait: func() {}, held: make(map[uint32]*heldPolicy), settled: settled, behind: make(map[uint32]lag),
	}
}

// Apply changes the given policies, all at once: every packet is decided either
// wholly by the old ones or wholly by the new. On an error the old stay in force,
// and the same changes can be tried again. A Reset to what is in force already
// writes nothing. The deltas belong to Policies from then on.
//
// After a restart of the agent, the first call names every policy that endpoints
// use, with Reset: of others the version in force would change unseen.
func (p *Policies) Apply(changes map[uint32]compile.Delta) error {
	if err := p.check(changes); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	force, err := p.epochs.bank()
	if err != nil {
		return err
	}
	if err := p.adopt(changes); err != nil {
		return err
	}
	changes, err = p.news(force, changes)
	if err != nil || len(changes) == 0 {
		return err
	}
	if err := p.epochs.begin(); err != nil {
		return err
	}
	<-p.settled
	err = p.prepare(1-force, changes)
	if err == nil {
		err = p.epochs.flip()
	}
	if err != nil {
		p.distrust(changes)
		return err
	}
	p.follow(changes)
	p.settle()
	return p.epochs.policies(slices.Collect(maps.Keys(changes)))
}

// check refuses what cannot fit before anything is touched.
func (p *Policies) check(changes map[uint32]compile.Delta) error {
	for id, delta := range changes {
		if id == 0 || id > p.last {
			return fmt.Errorf("policy %d: numbers go from 1 to %d; raise --policies-max", id, p.last)
		}
		if delta.Size > p.capacity {
			return &TooLargeError{PolicyID: id, Entries: delta.Size, Max: p.capacity}
		}
	}
	return nil
}

// news leaves out the changes that change nothing.
func (p *Policies) news(force uint32, changes map[uint32]compile.Delta) (map[uint32]compile.Delta, error) {
	news := make(map[uint32]compile.Delta, len(changes))
	for id, delta := range changes {
		h := p.held[id]
		switch {
		case h == nil || h.maps[force] == nil:
			if delta.Reset && len(delta.Put) == 0 {
				continue // a policy without entries is like none to a packet
			}
		case !delta.Reset && len(delta.Put) == 0 && len(delta.Delete) == 0:
			continue
		case delta.Reset:
			entries, err := readEntries(h.maps[force])
			if err != nil {
				return nil, fmt.Errorf("policy %d: %w", id, err)
			}
			if h.size = len(entries); same(entries, delta.Put) {
				continue
			}
		}
		news[id] = delta
	}
	return news, nil
}

// prepare makes the idle bank what is wanted: what is in force, and the changes.
func (p *Policies) prepare(idle uint32, changes map[uint32]compile.Delta) error {
	fresh := make(map[uint32]entryMap) // by slot
	for _, id := range p.touched(changes) {
		if err := p.prepareOne(idle, id, changes, fresh); err != nil {
			closeAll(fresh)
			return fmt.Errorf("policy %d: %w", id, err)
		}
	}
	if err := p.slots.install(fresh); err != nil {
		closeAll(fresh)
		for number := range fresh { // some may be in their slots
			p.behind[number/2] = lag{unknown: true}
		}
		return err
	}
	for number, m := range fresh {
		h := p.held[number/2]
		if h == nil {
			h = &heldPolicy{}
			p.held[number/2] = h
		}
		if old := h.maps[number%2]; old != nil {
			_ = old.Close() // replaced in its slot
		}
		h.maps[number%2] = m
	}
	return nil
}

// touched are the policies that a change has to write: its own, and those of
// which the idle bank is behind, because with the change all of it comes in force.
func (p *Policies) touched(changes map[uint32]compile.Delta) []uint32 {
	ids := make([]uint32, 0, len(changes)+len(p.behind))
	for id := range changes {
		ids = append(ids, id)
	}
	for id := range p.behind {
		if _, ok := changes[id]; !ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// prepareOne writes one policy of the idle bank. Maps that it has to make go to
// fresh.
func (p *Policies) prepareOne(idle, id uint32, changes map[uint32]compile.Delta, fresh map[uint32]entryMap) error {
	change, changed := changes[id]
	var target, inForce entryMap
	if h := p.held[id]; h != nil {
		target, inForce = h.maps[idle], h.maps[1-idle]
	}
	if inForce == nil {
		// New: empty in the bank in force, so that the next change need not wait
		// for another new map. No endpoint names it yet.
		if err := p.create(slot(id, 1-idle), fresh); err != nil {
			return err
		}
	}
	behind := p.behind[id]
	if target == nil || target.MaxEntries() != uint32(p.capacity) {
		if err := p.create(slot(id, idle), fresh); err != nil {
			return err
		}
		target, behind.unknown = fresh[slot(id, idle)], true
	}
	switch {
	case changed && change.Reset:
		return replaceEntries(target, change.Put)
	case behind.unknown:
		entries, err := entriesOf(inForce)
		if err != nil {
			return err
		}
		return replaceEntries(target, entries.Apply(change))
	}
	if err := changeEntries(target, behind.delta); err != nil {
		return err
	}
	return changeEntries(target, change)
}

func (p *Policies) create(number uint32, fresh map[uint32]entryMap) error {
	m, err := p.slots.create()
	if err != nil {
		return fmt.Errorf("create a map: %w", err)
	}
	fresh[number] = m
	return nil
}

// distrust notes that the idle bank is partly written: the next change starts
// from what is in force.
func (p *Policies) distrust(changes map[uint32]compile.Delta) {
	for _, id := range p.touched(changes) {
		if p.held[id] != nil {
			p.behind[id] = lag{unknown: true}
		}
	}
}

// follow notes, after a flip, what the bank lacks that went out of force. Of a
// whole policy no copy is kept.
func (p *Policies) follow(changes map[uint32]compile.Delta) {
	clear(p.behind)
	for id, delta := range changes {
		p.held[id].size = delta.Size
		p.behind[id] = lag{delta: delta}
		if delta.Reset {
			p.behind[id] = lag{unknown: true}
		}
	}
}

// settle waits aside until every packet that may read the bank that just went out
// of force is through.
func (p *Policies) settle() {
	settled := make(chan struct{})
	p.settled = settled
	go func() {
		defer close(settled)
		p.wait()
	}()
}

// WaitForPackets returns after a grace period: BPF programs run inside read-side
// sections of RCU, and the global membarrier command waits for all of them.
func WaitForPackets() {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		// Without the call, by far longer than a packet takes.
		time.Sleep(100 * time.Millisecond)
	}
}

// adopters bounds the system calls that wait for a grace period side by side.
const adopters = 32

// adopt takes over the maps that an earlier agent left for the policies. Before
// kernel 6.8 each look into a slot costs a grace period, so they wait together.
func (p *Policies) adopt(changes map[uint32]compile.Delta) error {
	if !p.inherited {
		return nil
	}
	var (
		group   sync.WaitGroup
		mu      sync.Mutex
		errs    []error
		tickets = make(chan struct{}, adopters)
		found   = make(map[uint32]*heldPolicy)
	)
	for id := range changes {
		if p.held[id] != nil {
			continue
		}
		h := &heldPolicy{}
		found[id] = h
		for bank := range uint32(2) {
			tickets <- struct{}{}
			group.Go(func() {
				m, err := p.slots.open(slot(id, bank))
				<-tickets
				h.maps[bank] = m
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, fmt.Errorf("look for policy %d of an earlier agent: %w", id, err))
				}
			})
		}
	}
	group.Wait()
	if len(errs) > 0 {
		for _, h := range found {
			h.close()
		}
		return errors.Join(errs...)
	}
	for id, h := range found {
		if h.maps[0] != nil || h.maps[1] != nil {
			p.held[id] = h
			p.behind[id] = lag{unknown: true}
		}
	}
	return nil
}

// Delete empties policies, which no endpoint may name any more. Their maps stay, a
// few hundred bytes each, for the next policy of the same number: taking a map out
// of its slot costs a grace period. Missing policies are no error.
func (p *Policies) Delete(ids ...uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var failed []error
	for _, id := range ids {
		h := p.held[id]
		if h == nil {
			continue
		}
		h.size = 0
		delete(p.behind, id)
		for _, m := range h.maps {
			if m == nil {
				continue
			}
			if err := replaceEntries(m, nil); err != nil {
				failed = append(failed, fmt.Errorf("empty policy %d: %w", id, err))
				p.behind[id] = lag{unknown: true}
			}
		}
	}
	return errors.Join(append(failed, p.epochs.policies(ids))...)
}

// IDs returns the policies that are in force, in order. Those that an earlier
// agent left and nobody has set since are not among them: no endpoint names them,
// and finding them would take a look into every slot, each of which costs a grace
// period on kernels before 6.8.
func (p *Policies) IDs() ([]uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []uint32
	for id, h := range p.held {
		// An emptied map is only kept for the next policy of its number.
		if h.size > 0 {
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
	force, err := p.epochs.bank()
	if err != nil {
		return nil, err
	}
	h := p.held[id]
	if h == nil || h.maps[force] == nil {
		return nil, fmt.Errorf("policy %d: %w", id, ebpf.ErrKeyNotExist)
	}
	return readEntries(h.maps[force])
}

// Close frees this process's handles; the maps stay in their slots.
func (p *Policies) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.held {
		h.close()
	}
	clear(p.held)
	clear(p.behind)
}

func (h *heldPolicy) close() {
	for bank, m := range h.maps {
		if m != nil {
			_ = m.Close()
			h.maps[bank] = nil
		}
	}
}
