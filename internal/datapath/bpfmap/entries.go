// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// batchEntries is how many entries one system call reads.
const batchEntries = 1024

// readEntries returns what a map holds.
func readEntries(m entryMap) (compile.Entries, error) {
	entries := make(compile.Entries)
	size := min(batchEntries, m.MaxEntries())
	keys := make([]abi.PolicyKey, size)
	values := make([]abi.PolicyValue, size)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			entries[entryKey(keys[i])] = entryValue(values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read policy entries: %w", err)
		}
	}
}

// entriesOf returns what a map holds; no map holds nothing.
func entriesOf(m entryMap) (compile.Entries, error) {
	if m == nil {
		return make(compile.Entries), nil
	}
	return readEntries(m)
}

func same(a, b compile.Entries) bool { return maps.Equal(a, b) }

// replaceEntries makes the map hold exactly the entries, whatever it holds now.
func replaceEntries(m entryMap, entries compile.Entries) error {
	have, err := readEntries(m)
	if err != nil {
		return err
	}
	delta := compile.Delta{Put: make(compile.Entries)}
	for key := range have {
		if _, stays := entries[key]; !stays {
			delta.Delete = append(delta.Delete, key)
		}
	}
	for key, value := range entries {
		if old, there := have[key]; !there || old != value {
			delta.Put[key] = value
		}
	}
	return changeEntries(m, delta)
}

// changeEntries writes a delta that is no Reset: what goes first, so that a map
// never holds more than before or after.
func changeEntries(m entryMap, d compile.Delta) error {
	if err := deleteEntries(m, d.Delete); err != nil || len(d.Put) == 0 {
		return err
	}
	keys := make([]abi.PolicyKey, 0, len(d.Put))
	values := make([]abi.PolicyValue, 0, len(d.Put))
	for key, value := range d.Put {
		keys = append(keys, policyKey(key))
		values = append(values, policyValue(value))
	}
	if _, err := m.BatchUpdate(keys, values, nil); err != nil {
		return fmt.Errorf("write %d entries: %w", len(keys), err)
	}
	return nil
}

// deleteEntries removes entries; missing ones are no error, but end a batch.
func deleteEntries(m entryMap, gone []compile.Key) error {
	keys := make([]abi.PolicyKey, 0, len(gone))
	for _, key := range gone {
		keys = append(keys, policyKey(key))
	}
	if len(keys) == 0 {
		return nil
	}
	_, err := m.BatchDelete(keys, nil)
	if err == nil {
		return nil
	}
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove %d entries: %w", len(keys), err)
	}
	for i := range keys {
		if err := m.Delete(&keys[i]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove an entry: %w", err)
		}
	}
	return nil
}

// Bits of the key before the protocol, and before the port.
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

// The compiled form has the numbers of the C header already; a test holds them
// against each other.

func policyValue(v compile.Value) (value abi.PolicyValue) {
	for tier, c := range v {
		value.Best[tier] = uint64(c)
	}
	return value
}

func entryValue(v abi.PolicyValue) (value compile.Value) {
	for tier, c := range v.Best {
		value[tier] = compile.Candidate(c)
	}
	return value
}
