// SPDX-License-Identifier: Apache-2.0

// Package abi holds the Go form of what the BPF programs and user space share:
// map keys and values, events and their constants, generated from the C headers,
// with the conversions to and from the types that the rest of the agent uses.
package abi

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

//go:generate go -C ../../../tools run ./genabi -object ../internal/datapath/prog/objects/endpoint.o -headers ../bpf/lib -abi ../internal/datapath/abi -flow ../internal/flow

// AddrFrom returns the 16-byte form of an address; IPv4 is mapped.
func AddrFrom(ip netip.Addr) Addr { return Addr{Bytes: ip.As16()} }

// IP returns the address, IPv4 in its own form.
func (a Addr) IP() netip.Addr { return netip.AddrFrom16(a.Bytes).Unmap() }

// Port returns the number of a port that the programs keep in network order.
func Port(wire uint16) uint16 { return wireOrder(wire) }

// WirePort returns a port number as the programs keep it, in network order.
func WirePort(number uint16) uint16 { return wireOrder(number) }

// wireOrder swaps bytes where the machine is little endian; it is its own inverse.
func wireOrder(v uint16) uint16 {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return bits.ReverseBytes16(v)
	}
	return v
}
