// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"errors"
	"maps"
	"os"
	"slices"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

const (
	testPolicies = 4
	testCapacity = 12
)

// kernelTable is the maps that Policies works on, as the programs have them.
type kernelTable struct {
	outer, control, epochs, endpoints *ebpf.Map
	spec                              *ebpf.MapSpec
}

func newTable(t testing.TB, capacity uint32) *kernelTable {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make BPF maps")
	}
	k := &kernelTable{spec: &ebpf.MapSpec{
		Type: ebpf.LPMTrie, KeySize: 12, ValueSize: 32, MaxEntries: capacity, Flags: unix.BPF_F_NO_PREALLOC,
	}}
	for m, spec := range map[**ebpf.Map]*ebpf.MapSpec{
		&k.outer:     {Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 2 * (testPolicies + 1), InnerMap: k.spec},
		&k.control:   {Type: ebpf.Array, KeySize: 4, ValueSize: uint32(unsafe.Sizeof(abi.Control{})), MaxEntries: 1},
		&k.epochs:    {Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: abi.EpochSlots, Flags: unix.BPF_F_MMAPABLE},
		&k.endpoints: {Type: ebpf.Hash, KeySize: 16, ValueSize: uint32(unsafe.Sizeof(abi.Endpoint{})), MaxEntries: 16},
	} {
		made, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { made.Close() })
		*m = made
	}
	return k
}

func (k *kernelTable) generation(t fataler) uint32 {
	var control abi.Control
	if err := k.control.Lookup(uint32(0), &control); err != nil {
		t.Fatal(err)
	}
	return control.Generation
}

// fataler is what tests and property tests have in common.
type fataler interface{ Fatal(args ...any) }

// inForce reads, past Policies, what a packet would be decided by.
func (k *kernelTable) inForce(t fataler, id uint32) compile.Entries {
	var inner *ebpf.Map
	err := k.outer.Lookup(slot(id, k.generation(t)&1), &inner)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return compile.Entries{}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	entries, err := readEntries(inner)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// faulty lets the given number of calls to the kernel through, of the one after
// that the first half, and counts what is written and read.
type faulty struct {
	kernelSlots
	left          int
	written, read int
}

var errInjected = errors.New("injected")

func (f *faulty) fails() bool {
	f.left--
	return f.left < 0
}

func (f *faulty) create() (entryMap, error) {
	if f.fails() {
		return nil, errInjected
	}
	m, err := f.kernelSlots.create()
	return &faultyMap{m, f}, err
}

func (f *faulty) open(number uint32) (entryMap, error) {
	m, err := f.kernelSlots.open(number)
	if m == nil || err != nil {
		return nil, err
	}
	return &faultyMap{m, f}, nil
}

func (f *faulty) install(built map[uint32]entryMap) error {
	if !f.fails() {
		return f.kernelSlots.install(built)
	}
	half := map[uint32]entryMap{}
	for _, number := range slices.Sorted(maps.Keys(built))[:(len(built)+1)/2] {
		half[number] = built[number]
	}
	return errors.Join(f.kernelSlots.install(half), errInjected)
}

type faultyMap struct {
	entryMap
	faults *faulty
}

func (m *faultyMap) BatchLookup(cursor *ebpf.MapBatchCursor, keys, values any, o *ebpf.BatchOptions) (int, error) {
	if m.faults.fails() {
		return 0, errInjected
	}
	n, err := m.entryMap.BatchLookup(cursor, keys, values, o)
	m.faults.read += n
	return n, err
}

func (m *faultyMap) BatchUpdate(keys, values any, o *ebpf.BatchOptions) (int, error) {
	k, v := keys.([]abi.PolicyKey), values.([]abi.PolicyValue)
	if m.faults.fails() {
		if half := len(k) / 2; half > 0 {
			if _, err := m.entryMap.BatchUpdate(k[:half], v[:half], o); err != nil {
				return 0, err
			}
		}
		return len(k) / 2, errInjected
	}
	m.faults.written += len(k)
	return m.entryMap.BatchUpdate(keys, values, o)
}

func (m *faultyMap) BatchDelete(keys any, o *ebpf.BatchOptions) (int, error) {
	k := keys.([]abi.PolicyKey)
	if m.faults.fails() {
		if half := len(k) / 2; half > 0 {
			_, _ = m.entryMap.BatchDelete(k[:half], o)
		}
		return len(k) / 2, errInjected
	}
	m.faults.written += len(k)
	return m.entryMap.BatchDelete(keys, o)
}

const noFaults = 1 << 30

// open makes Policies on the table, as an agent does when it starts.
func (k *kernelTable) open() (*Policies, *faulty) {
	f := &faulty{kernelSlots: kernelSlots{k.outer, k.spec}, left: noFaults}
	epochs, err := NewEpochs(k.control, k.epochs, k.endpoints)
	if err != nil {
		panic(err)
	}
	return newPolicies(f, int(k.spec.MaxEntries), testPolicies, epochs), f
}

func drawEntry(t *rapid.T) (compile.Key, compile.Value) {
	key := compile.Key{Identity: identity.ID(rapid.Uint32Range(0, 2).Draw(t, "peer"))}
	if rapid.Bool().Draw(t, "with port") {
		key.Protocol, key.Port, key.PortBits = l4.TCP, uint16(rapid.IntRange(0, 3).Draw(t, "port")<<8), 8
	}
	var v compile.Value
	v[rapid.IntRange(0, 3).Draw(t, "tier")] = compile.NewCandidate(policy.Allow, 0, rapid.Uint32Range(1, 5).Draw(t, "cookie"), 0)
	return key, v
}

// drawDelta changes a policy from what it is.
func drawDelta(t *rapid.T, from compile.Entries) compile.Delta {
	d := compile.Delta{Reset: rapid.IntRange(0, 3).Draw(t, "reset") == 0, Put: compile.Entries{}}
	if d.Reset && rapid.Bool().Draw(t, "as it is") {
		return compile.Whole(maps.Clone(from))
	}
	if !d.Reset {
		for range rapid.IntRange(0, 3).Draw(t, "deletes") {
			key, _ := drawEntry(t)
			d.Delete = append(d.Delete, key)
		}
	}
	for range rapid.IntRange(0, 6).Draw(t, "puts") {
		key, v := drawEntry(t)
		d.Put[key] = v
	}
	d.Size = len(maps.Clone(from).Apply(d))
	return d
}

// TestPoliciesInForceAreAModels goes through random changes, with failures in the
// middle and restarts of the agent: what packets are decided by is always what the
// last successful change made of it.
func TestPoliciesInForceAreAModels(t *testing.T) {
	newTable(t, testCapacity) // skips
	rapid.Check(t, func(rt *rapid.T) {
		k := newTable(t, testCapacity)
		p, faults := k.open()
		defer func() { p.Close() }()
		model := map[uint32]compile.Entries{}
		for id := range uint32(testPolicies) {
			model[id+1] = compile.Entries{}
		}
		// Policies that nobody has named since a restart: no endpoint uses them, and
		// what a change of the earlier agent left may be in them.
		unused := map[uint32]bool{}
		apply := func(changes map[uint32]compile.Delta) {
			faults.left = noFaults
			if rapid.Bool().Draw(rt, "fails") {
				faults.left = rapid.IntRange(0, 12).Draw(rt, "after")
			}
			err := p.Apply(changes)
			var large *TooLargeError
			switch {
			case err == nil:
				for id, d := range changes {
					model[id] = model[id].Apply(d)
					delete(unused, id)
				}
			case !errors.Is(err, errInjected) && !errors.As(err, &large):
				rt.Fatal(err)
			}
			faults.left = noFaults
		}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0: // an agent starts
				p.Close()
				p, faults = k.open()
				before := k.generation(rt)
				whole := map[uint32]compile.Delta{}
				for id, entries := range model {
					unused[id] = len(entries) == 0
					if len(entries) > 0 {
						whole[id] = compile.Whole(maps.Clone(entries))
					}
				}
				if err := p.Apply(whole); err != nil || k.generation(rt) != before {
					rt.Fatal("the start of an agent: ", err, ", or the generation moved")
				}
			case 1:
				id := rapid.Uint32Range(1, testPolicies).Draw(rt, "deleted")
				if err := p.Delete(id); err != nil {
					rt.Fatal(err)
				}
				model[id] = compile.Entries{}
				// Not known to this agent, it stays what it is.
				unused[id] = p.held[id] == nil
			default:
				changes := map[uint32]compile.Delta{}
				for range rapid.IntRange(1, 3).Draw(rt, "changes") {
					id := rapid.Uint32Range(1, testPolicies).Draw(rt, "policy")
					if changes[id] = drawDelta(rt, model[id]); unused[id] {
						changes[id] = compile.Whole(changes[id].Put)
					}
				}
				apply(changes)
			}
			for id, want := range model {
				if unused[id] {
					continue
				}
				if got := k.inForce(rt, id); !maps.Equal(got, want) {
					rt.Fatalf("policy %d holds %v, want %v", id, got, want)
				}
			}
		}
	})
}

func TestAChangeCostsWhatItChanges(t *testing.T) {
	k := newTable(t, 5000)
	p, faults := k.open()
	defer p.Close()
	entries := compile.Entries{}
	for i := range 4000 {
		entries[compile.Key{Identity: identity.ID(256 + i)}] = compile.Value{1: 7}
	}
	one := func(n int) map[uint32]compile.Delta {
		return map[uint32]compile.Delta{2: {
			Put: compile.Entries{{Identity: identity.ID(9000 + n)}: {1: 5}}, Delete: []compile.Key{{Identity: identity.ID(8999 + n)}}, Size: 4001,
		}}
	}
	for _, changes := range []map[uint32]compile.Delta{{2: compile.Whole(entries)}, one(0), one(1)} {
		if err := p.Apply(changes); err != nil {
			t.Fatal(err)
		}
	}
	for n := 2; n < 20; n++ {
		faults.written, faults.read = 0, 0
		if err := p.Apply(one(n)); err != nil {
			t.Fatal(err)
		}
		if faults.written > 4 || faults.read > 0 {
			t.Fatalf("one entry more and one less: %d written and %d read", faults.written, faults.read)
		}
	}
	if got := k.inForce(t, 2); len(got) != 4001 {
		t.Errorf("%d entries", len(got))
	}
}

func TestPolicyThatDoesNotFitIsRefusedWithTheFigures(t *testing.T) {
	k := newTable(t, testCapacity)
	p, _ := k.open()
	defer p.Close()
	err := p.Apply(map[uint32]compile.Delta{2: {Size: testCapacity + 1}})
	const want = "policy 2 needs 13 map entries, but a policy map holds 12; select fewer peers or raise --policy-map-max"
	if err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	err = p.Apply(map[uint32]compile.Delta{testPolicies + 1: {}})
	if err == nil || err.Error() != "policy 5: numbers go from 1 to 4; raise --policies-max" {
		t.Errorf("%v", err)
	}
}

// TestMapsOfAnotherSizeAreReplacedWithoutAGap starts an agent with another
// --policy-map-max on what the one before left.
func TestMapsOfAnotherSizeAreReplacedWithoutAGap(t *testing.T) {
	k := newTable(t, testCapacity)
	p, _ := k.open()
	first := compile.Entries{{}: {3: 1}}
	if err := p.Apply(map[uint32]compile.Delta{2: compile.Whole(first)}); err != nil {
		t.Fatal(err)
	}
	p.Close()
	k.spec.MaxEntries = 2 * testCapacity
	p, _ = k.open()
	defer p.Close()
	large := compile.Entries{}
	for i := range 2 * testCapacity {
		large[compile.Key{Identity: identity.ID(i)}] = compile.Value{1: 7}
	}
	for _, entries := range []compile.Entries{first, large, first} {
		if err := p.Apply(map[uint32]compile.Delta{2: compile.Whole(entries)}); err != nil {
			t.Fatal(err)
		}
		if got := k.inForce(t, 2); !maps.Equal(got, entries) {
			t.Errorf("%d entries are in force, want %d", len(got), len(entries))
		}
	}
}

// TestWhatAFailedFirstChangeLeavesIsNoPolicy: the next agent may give the number to
// others, who have no entry at all.
func TestWhatAFailedFirstChangeLeavesIsNoPolicy(t *testing.T) {
	entries := compile.Entries{{Identity: 300}: {1: 7}, {Identity: 301}: {1: 7}}
	for after := range 12 {
		k := newTable(t, testCapacity)
		p, faults := k.open()
		faults.left = after
		err := p.Apply(map[uint32]compile.Delta{1: compile.Whole(maps.Clone(entries)), 3: compile.Whole(maps.Clone(entries))})
		p.Close()
		if err == nil {
			continue // nothing failed any more
		}
		p, _ = k.open()
		for _, changes := range []map[uint32]compile.Delta{{2: compile.Whole(maps.Clone(entries))}, {1: compile.Whole(compile.Entries{}), 3: compile.Whole(compile.Entries{})}} {
			if err := p.Apply(changes); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range []uint32{1, 3} {
			if got := k.inForce(t, id); len(got) > 0 {
				t.Errorf("failed after %d calls: policy %d holds %v", after, id, got)
			}
		}
		p.Close()
	}
}
