// SPDX-License-Identifier: Apache-2.0

// Package ipam hands out addresses of one range to named owners.
//
// A Pool keeps one map record for each address in use or recently released
// (some 150 bytes), and nothing for the rest of its range, so an IPv6 /96 costs
// no more than an IPv4 /16. Addresses are handed out in rising order from a
// starting point and wrap around: a released address comes back last. A Pool is
// safe for concurrent use; it reads no clock and writes nothing: whoever needs
// allocations to outlive the process stores them and calls AllocateAddr again.
package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"net/netip"
	"sync"
)

// Errors a caller can branch on; what is returned wraps one of them and names
// the address, the range and the owner.
var (
	ErrTaken        = errors.New("address is taken")
	ErrForeign      = errors.New("address is not in the range")
	ErrReserved     = errors.New("address is reserved")
	ErrExhausted    = errors.New("no free address in the range")
	ErrNotAllocated = errors.New("address is not allocated")
)

// restingMax is how many released addresses stay out of use while others are free.
const restingMax = 1024

// Pool is the addresses of one range. Make one with New.
type Pool struct {
	prefix netip.Prefix
	first  uint64 // host part of the lowest address that may be handed out
	last   uint64 // host part of the highest one

	mu       sync.Mutex
	reserved map[netip.Addr]struct{} // within first..last
	owners   map[netip.Addr]string
	resting  map[netip.Addr]struct{}
	unusable map[uint64]uint64 // a bit for each owned, reserved or resting host part; 64 a record
	queue    []netip.Addr      // resting, oldest first; may name addresses that rest no more
	next     uint64
}

// New returns the pool of a range, IPv4 or IPv6. The range's first and last
// address (network and broadcast, or subnet-router anycast) and those in
// reserved, such as the gateway, are never handed out. Of an IPv6 range larger
// than a /64 only the first /64 is used. It fails when nothing is left to hand
// out or a reserved address lies outside.
func New(prefix netip.Prefix, reserved ...netip.Addr) (*Pool, error) {
	if !prefix.IsValid() || prefix.Addr().Is4In6() {
		return nil, fmt.Errorf("address range %s: not a valid IPv4 or IPv6 prefix", prefix)
	}
	prefix = prefix.Masked()
	hostBits := prefix.Addr().BitLen() - prefix.Bits()
	last := uint64(math.MaxUint64)
	if hostBits < 64 {
		last = 1<<hostBits - 1
	}
	p := &Pool{
		prefix: prefix, first: 1, last: last - 1, next: 1,
		reserved: make(map[netip.Addr]struct{}),
		owners:   make(map[netip.Addr]string),
		resting:  make(map[netip.Addr]struct{}),
		unusable: make(map[uint64]uint64),
	}
	for _, addr := range reserved {
		host, err := p.host(addr)
		if err != nil {
			return nil, fmt.Errorf("reserve %s: %w", addr, err)
		}
		if last >= 2 && host >= p.first && host <= p.last {
			p.reserved[addr.Unmap()] = struct{}{}
			p.mark(host)
		}
	}
	if last < 2 || p.Capacity() == 0 {
		return nil, fmt.Errorf("address range %s: too small, nothing is left beside its reserved addresses (use a shorter prefix)", prefix)
	}
	return p, nil
}

// Prefix returns the range.
func (p *Pool) Prefix() netip.Prefix { return p.prefix }

// Capacity returns how many addresses can be in use at once.
func (p *Pool) Capacity() uint64 { return p.last - p.first + 1 - uint64(len(p.reserved)) }

// Len returns how many addresses are in use.
func (p *Pool) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.owners)
}

// Rotate moves the starting point of the search to the n-th address, modulo the
// size of the range. An agent calls it with a random or stored number after a
// restart, so that it does not start again with addresses just released.
func (p *Pool) Rotate(n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = p.first + n%(p.last-p.first+1)
}

// Allocate takes a free address for the owner, which is any text that tells
// people who holds it. It fails with ErrExhausted. The search looks at 64
// addresses at a time, so it costs at worst one lookup for each 64 in use.
func (p *Pool) Allocate(owner string) (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if host, ok := p.search(p.next, p.last); ok {
		return p.take(host, owner), nil
	}
	if host, ok := p.search(p.first, p.next); ok {
		return p.take(host, owner), nil
	}
	if addr, ok := p.rested(); ok {
		p.own(addr, owner)
		return addr, nil
	}
	return netip.Addr{}, fmt.Errorf("allocate an address for %s from %s: %w: all %d are in use (release some or use a larger range)",
		owner, p.prefix, ErrExhausted, p.Capacity())
}

// search returns the first usable host part from..to, both included.
func (p *Pool) search(from, to uint64) (host uint64, ok bool) {
	for word := from / 64; word <= to/64; word++ {
		used := p.unusable[word]
		if word == from/64 {
			used |= 1<<(from%64) - 1
		}
		if used != math.MaxUint64 {
			host = word*64 + uint64(bits.TrailingZeros64(^used))
			return host, host <= to
		}
	}
	return 0, false
}

// take gives a usable host part to the owner and moves on from there.
func (p *Pool) take(host uint64, owner string) netip.Addr {
	addr := p.addr(host)
	p.own(addr, owner)
	if p.next = host + 1; p.next > p.last {
		p.next = p.first
	}
	return addr
}

// own books the address for the owner. The caller holds mu.
func (p *Pool) own(addr netip.Addr, owner string) {
	delete(p.resting, addr)
	p.owners[addr] = owner
	host, _ := p.host(addr)
	p.mark(host)
}

func (p *Pool) mark(host uint64) { p.unusable[host/64] |= 1 << (host % 64) }

func (p *Pool) unmark(host uint64) {
	if p.unusable[host/64] &^= 1 << (host % 64); p.unusable[host/64] == 0 {
		delete(p.unusable, host/64)
	}
}

// AllocateAddr takes this address for the owner, also when it was released a
// moment ago. It fails with ErrTaken, naming the present owner (even if it is
// the same one), with ErrForeign, naming the range, or with ErrReserved.
func (p *Pool) AllocateAddr(addr netip.Addr, owner string) error {
	addr = addr.Unmap()
	p.mu.Lock()
	defer p.mu.Unlock()
	host, err := p.host(addr)
	if err != nil {
		return fmt.Errorf("allocate %s for %s: %w", addr, owner, err)
	}
	if _, reserved := p.reserved[addr]; reserved || host < p.first || host > p.last {
		return fmt.Errorf("allocate %s for %s: %w: it is the network, broadcast or gateway address of %s (ask for another)", addr, owner, ErrReserved, p.prefix)
	}
	if holder, taken := p.owners[addr]; taken {
		return fmt.Errorf("allocate %s for %s: %w by %s (release it first or ask for another)", addr, owner, ErrTaken, holder)
	}
	p.own(addr, owner)
	return nil
}

// Release gives an address back. It fails with ErrForeign or ErrNotAllocated.
func (p *Pool) Release(addr netip.Addr) error {
	addr = addr.Unmap()
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.host(addr); err != nil {
		return fmt.Errorf("release %s: %w", addr, err)
	}
	if _, taken := p.owners[addr]; !taken {
		return fmt.Errorf("release %s: %w in %s", addr, ErrNotAllocated, p.prefix)
	}
	delete(p.owners, addr)
	p.resting[addr] = struct{}{}
	p.queue = append(p.queue, addr)
	for len(p.resting) > restingMax || len(p.queue) > 2*restingMax {
		p.rested()
	}
	return nil
}

// Owner returns who holds the address.
func (p *Pool) Owner(addr netip.Addr) (owner string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	owner, ok = p.owners[addr.Unmap()]
	return owner, ok
}

// Dump returns every address in use with its owner.
func (p *Pool) Dump() map[netip.Addr]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.owners)
}

// rested ends the rest of the address that was released longest ago. The caller
// holds mu.
func (p *Pool) rested() (netip.Addr, bool) {
	for len(p.queue) > 0 {
		addr := p.queue[0]
		p.queue = p.queue[1:]
		if _, ok := p.resting[addr]; ok {
			delete(p.resting, addr)
			host, _ := p.host(addr)
			p.unmark(host)
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// host returns the host part of an address of the range, or ErrForeign.
func (p *Pool) host(addr netip.Addr) (uint64, error) {
	addr = addr.Unmap()
	if !p.prefix.Contains(addr) || addr.Zone() != "" {
		return 0, fmt.Errorf("%w %s", ErrForeign, p.prefix)
	}
	if addr.Is4() {
		a, base := addr.As4(), p.prefix.Addr().As4()
		return uint64(binary.BigEndian.Uint32(a[:]) - binary.BigEndian.Uint32(base[:])), nil
	}
	a, base := addr.As16(), p.prefix.Addr().As16()
	if [8]byte(a[:8]) != [8]byte(base[:8]) {
		return 0, fmt.Errorf("%w: only the first /64 of %s is used", ErrForeign, p.prefix)
	}
	return binary.BigEndian.Uint64(a[8:]) - binary.BigEndian.Uint64(base[8:]), nil
}

// addr is the inverse of host.
func (p *Pool) addr(host uint64) netip.Addr {
	if p.prefix.Addr().Is4() {
		a := p.prefix.Addr().As4()
		binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+uint32(host))
		return netip.AddrFrom4(a)
	}
	a := p.prefix.Addr().As16()
	binary.BigEndian.PutUint64(a[8:], binary.BigEndian.Uint64(a[8:])+host)
	return netip.AddrFrom16(a)
}
