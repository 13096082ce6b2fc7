// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
)

// slots is the outer map, which holds the map of a policy and bank at slot(policy,
// bank). Tests put one in between that fails.
type slots interface {
	// create makes an empty map, of no slot yet.
	create() (entryMap, error)
	// open returns the map in a slot, nil for none.
	open(number uint32) (entryMap, error)
	// install puts maps into slots.
	install(built map[uint32]entryMap) error
}

// entryMap is the part of an ebpf.Map that the entries of a policy need.
type entryMap interface {
	FD() int
	MaxEntries() uint32
	BatchLookup(cursor *ebpf.MapBatchCursor, keysOut, valuesOut any, opts *ebpf.BatchOptions) (int, error)
	BatchUpdate(keys, values any, opts *ebpf.BatchOptions) (int, error)
	BatchDelete(keys any, opts *ebpf.BatchOptions) (int, error)
	Delete(key any) error
	Close() error
}

func slot(id, bank uint32) uint32 { return 2*id + bank }

type kernelSlots struct {
	outer *ebpf.Map
	spec  *ebpf.MapSpec
}

func (s kernelSlots) create() (entryMap, error) {
	m, err := ebpf.NewMap(s.spec)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (s kernelSlots) open(number uint32) (entryMap, error) {
	var m *ebpf.Map
	err := s.outer.Lookup(number, &m)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// install works in one batch: the kernel waits for a grace period once a call.
func (s kernelSlots) install(built map[uint32]entryMap) error {
	if len(built) == 0 {
		return nil
	}
	numbers := slices.Sorted(maps.Keys(built))
	fds := make([]uint32, 0, len(built))
	for _, number := range numbers {
		fds = append(fds, uint32(built[number].FD()))
	}
	_, err := s.outer.BatchUpdate(numbers, fds, nil)
	if errors.Is(err, ebpf.ErrNotSupported) {
		for i := range numbers {
			if err := s.outer.Put(numbers[i], fds[i]); err != nil {
				return fmt.Errorf("install a policy map in slot %d: %w", numbers[i], err)
			}
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("install %d policy maps: %w", len(built), err)
	}
	return nil
}

func closeAll(built map[uint32]entryMap) {
	for _, m := range built {
		_ = m.Close()
	}
}
