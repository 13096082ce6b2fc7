// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/identity"
)

// ipv4Bits is how much longer a prefix is in mapped form.
const ipv4Bits = 96

// Address is what the kernel knows about a prefix.
type Address struct {
	Identity identity.ID
	// Node is the slot of the node behind whose tunnel it is; 0: it is reached by
	// routing.
	Node uint16
	// Range says that the node may give out the addresses of the prefix; nobody is
	// known to have one.
	Range bool
}

// IPCache is the longest-prefix table from an address to its identity.
type IPCache struct {
	m      *ebpf.Map
	epochs *Epochs
}

// NewIPCache wraps the ipcache map.
func NewIPCache(m *ebpf.Map, e *Epochs) *IPCache { return &IPCache{m, e} }

// Update writes a row.
func (c *IPCache) Update(prefix netip.Prefix, row Address) error {
	value := abi.IPCacheValue{Identity: uint32(row.Identity), Node: row.Node}
	if row.Range {
		value.Range = 1
	}
	if err := c.m.Put(ipcacheKey(prefix), &value); err != nil {
		return fullError("ipcache", prefix, c.m.MaxEntries(), err)
	}
	return c.epochs.Prefix(prefix)
}

// Delete removes a row; a missing one is no error.
func (c *IPCache) Delete(prefix netip.Prefix) error {
	if err := c.m.Delete(ipcacheKey(prefix)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("ipcache: delete %s: %w", prefix, err)
	}
	return c.epochs.Prefix(prefix)
}

// Dump returns all rows.
func (c *IPCache) Dump() (map[netip.Prefix]Address, error) {
	rows := make(map[netip.Prefix]Address)
	var key abi.IPCacheKey
	var value abi.IPCacheValue
	iterator := c.m.Iterate()
	for iterator.Next(&key, &value) {
		rows[prefixOf(key)] = Address{identity.ID(value.Identity), value.Node, value.Range != 0}
	}
	if err := iterator.Err(); err != nil {
		return nil, fmt.Errorf("read the ipcache: %w", err)
	}
	return rows, nil
}

func ipcacheKey(prefix netip.Prefix) *abi.IPCacheKey {
	bytes := prefix.Masked().Addr().As16()
	key := abi.IPCacheKey{Prefixlen: uint32(prefix.Bits())}
	if prefix.Addr().Is4() {
		key.Prefixlen += ipv4Bits
	}
	for i := range key.Addr {
		key.Addr[i] = binary.NativeEndian.Uint32(bytes[4*i:])
	}
	return &key
}

func prefixOf(key abi.IPCacheKey) netip.Prefix {
	var bytes [16]byte
	for i, word := range key.Addr {
		binary.NativeEndian.PutUint32(bytes[4*i:], word)
	}
	ip := netip.AddrFrom16(bytes)
	if ip.Is4In6() && key.Prefixlen >= ipv4Bits {
		return netip.PrefixFrom(ip.Unmap(), int(key.Prefixlen)-ipv4Bits)
	}
	return netip.PrefixFrom(ip, int(key.Prefixlen))
}

func isFull(err error) bool { return errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) }
