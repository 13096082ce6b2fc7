// SPDX-License-Identifier: Apache-2.0

// Package addressbook hands out the addresses of the node: to endpoints, and to
// callers of the IPAM API, such as Docker's IPAM driver, which reserve an address
// first and ask for the endpoint later.
//
// Reservations are kept in a file, since their owners remember them across a
// restart of the agent. Claims of endpoints are not: the endpoints' own files
// hold them. A Book is safe for concurrent use.
package addressbook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/ipam"
)

// reservedBy marks owners that are callers of the IPAM API.
const reservedBy = "reserved: "

// Book is the address book of a node.
type Book struct {
	path   string
	v4, v6 *ipam.Pool

	mu    sync.Mutex
	users map[netip.Addr]string // endpoints that use a reserved address
}

// document is the file form of the reservations.
type document struct {
	Version  int                   `json:"version"`
	Reserved map[netip.Addr]string `json:"reserved"`
}

const documentVersion = 1

// Open returns the book of the pools, of which one may be nil, with the
// reservations of the file, which may be missing. A damaged file is an error.
func Open(path string, v4, v6 *ipam.Pool) (*Book, error) {
	b := &Book{path: path, v4: v4, v6: v6, users: map[netip.Addr]string{}}
	data, err := os.ReadFile(path) //nolint:gosec // the path is built from the state directory
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	var doc document
	if err == nil {
		err = json.Unmarshal(data, &doc)
	}
	if err == nil && doc.Version != documentVersion {
		err = fmt.Errorf("version %d, this agent reads %d", doc.Version, documentVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("read address reservations %s: %w; remove the file if no Docker network uses this node", path, err)
	}
	for addr, owner := range doc.Reserved {
		if pool := b.pool(addr); pool != nil && pool.Prefix().Contains(addr) {
			if err := pool.AllocateAddr(addr, reservedBy+owner); err != nil {
				return nil, fmt.Errorf("restore address reservations from %s: %w", path, err)
			}
		}
	}
	return b, nil
}

// machine is the owner of addresses that the node itself has.
const machine = "this machine"

// SetMachine takes the addresses that the node itself has out of use, and gives back
// those that it has no more. It returns those that were given to others before.
func (b *Book) SetMachine(addrs []netip.Addr) (given []netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, pool := range []*ipam.Pool{b.v4, b.v6} {
		if pool == nil {
			continue
		}
		for addr, owner := range pool.Dump() {
			if owner == machine && !slices.Contains(addrs, addr) {
				_ = pool.Release(addr)
			}
		}
		for _, addr := range addrs {
			owner, taken := pool.Owner(addr)
			if taken && owner != machine {
				given = append(given, addr)
			} else if !taken && pool.Prefix().Contains(addr) {
				_ = pool.AllocateAddr(addr, machine) // the gateway's is never given out anyway
			}
		}
	}
	return given
}

func (b *Book) pool(addr netip.Addr) *ipam.Pool {
	if addr.Unmap().Is4() {
		return b.v4
	}
	return b.v6
}

// Claim implements endpoint.Addresses: it gives the owner the wanted addresses,
// or one of each family when none is wanted. All or nothing.
func (b *Book) Claim(owner string, want4, want6 netip.Addr) (v4, v6 netip.Addr, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if want4.IsValid() || want6.IsValid() {
		if err := b.claimAddr(owner, want4); err != nil {
			return v4, v6, err
		}
		if err := b.claimAddr(owner, want6); err != nil {
			b.release(owner, want4)
			return v4, v6, err
		}
		return want4, want6, nil
	}
	if b.v4 != nil {
		if v4, err = b.v4.Allocate(owner); err != nil {
			return netip.Addr{}, netip.Addr{}, classify(err)
		}
	}
	if b.v6 != nil {
		if v6, err = b.v6.Allocate(owner); err != nil {
			b.release(owner, v4)
			return netip.Addr{}, netip.Addr{}, classify(err)
		}
	}
	return v4, v6, nil
}

func (b *Book) claimAddr(owner string, addr netip.Addr) error {
	if !addr.IsValid() {
		return nil
	}
	pool := b.pool(addr)
	if pool == nil {
		return fmt.Errorf("%w on this node: %s", apiserver.ErrNoFamily, addr)
	}
	holder, taken := pool.Owner(addr)
	if !taken || !strings.HasPrefix(holder, reservedBy) {
		return classify(pool.AllocateAddr(addr, owner))
	}
	if user := b.users[addr]; user != "" && user != owner {
		return fmt.Errorf("%w: %s belongs to %s", endpoint.ErrConflict, addr, user)
	}
	b.users[addr] = owner
	return nil
}

// classify adds the sentinel that the API maps to a status code.
func classify(err error) error {
	switch {
	case errors.Is(err, ipam.ErrTaken):
		return fmt.Errorf("%w: %w", endpoint.ErrConflict, err)
	case errors.Is(err, ipam.ErrForeign), errors.Is(err, ipam.ErrReserved):
		return fmt.Errorf("%w: %w", apiserver.ErrInvalid, err)
	case errors.Is(err, ipam.ErrExhausted):
		return fmt.Errorf("%w: %w", apiserver.ErrExhausted, err)
	}
	return err
}

// Release implements endpoint.Addresses; addresses that are not the owner's are
// left alone.
func (b *Book) Release(owner string, addrs ...netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, addr := range addrs {
		b.release(owner, addr)
	}
}

func (b *Book) release(owner string, addr netip.Addr) {
	if !addr.IsValid() {
		return
	}
	if b.users[addr] == owner {
		delete(b.users, addr)
		return
	}
	if pool := b.pool(addr); pool != nil {
		if holder, ok := pool.Owner(addr); ok && holder == owner {
			_ = pool.Release(addr)
		}
	}
}

// Reserve takes a free address of a family, "ipv4" or "ipv6", for a caller of
// the IPAM API.
func (b *Book) Reserve(family, owner string) (netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	pool := b.v4
	if family == "ipv6" {
		pool = b.v6
	}
	if pool == nil {
		return netip.Addr{}, fmt.Errorf("%w on this node: %s", apiserver.ErrNoFamily, family)
	}
	addr, err := pool.Allocate(reservedBy + owner)
	if err != nil {
		return netip.Addr{}, classify(err)
	}
	if err := b.save(); err != nil {
		_ = pool.Release(addr)
		return netip.Addr{}, err
	}
	return addr, nil
}

// ReserveAddr takes one address for a caller of the IPAM API. It fails with
// endpoint.ErrConflict and the owner's name when it is taken, and with
// apiserver.ErrInvalid and the range when it is foreign.
func (b *Book) ReserveAddr(addr netip.Addr, owner string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	pool := b.pool(addr)
	if pool == nil {
		return fmt.Errorf("%w on this node: %s", apiserver.ErrNoFamily, addr)
	}
	if err := pool.AllocateAddr(addr, reservedBy+owner); err != nil {
		return classify(err)
	}
	if err := b.save(); err != nil {
		_ = pool.Release(addr)
		return err
	}
	return nil
}

// ReleaseReserved gives a reserved address back. It fails with
// apiserver.ErrConflict while an endpoint uses it, and with ErrNotFound when
// nobody reserved it.
func (b *Book) ReleaseReserved(addr netip.Addr) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	pool := b.pool(addr)
	if pool == nil {
		return fmt.Errorf("%w: address %s is not allocated", apiserver.ErrNotFound, addr)
	}
	holder, taken := pool.Owner(addr)
	if user := b.users[addr]; user != "" {
		return fmt.Errorf("%w: %s belongs to %s", apiserver.ErrConflict, addr, user)
	}
	if !taken {
		return fmt.Errorf("%w: address %s is not allocated", apiserver.ErrNotFound, addr)
	}
	if !strings.HasPrefix(holder, reservedBy) {
		return fmt.Errorf("%w: %s belongs to %s", apiserver.ErrConflict, addr, holder)
	}
	if err := pool.Release(addr); err != nil {
		return err
	}
	return b.save()
}

// Dump returns every address in use with the name of who has it.
func (b *Book) Dump() map[netip.Addr]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[netip.Addr]string{}
	for _, pool := range []*ipam.Pool{b.v4, b.v6} {
		if pool != nil {
			maps.Copy(all, pool.Dump())
		}
	}
	for addr, user := range b.users {
		all[addr] = user
	}
	return all
}

func (b *Book) save() error {
	doc := document{Version: documentVersion, Reserved: map[netip.Addr]string{}}
	for _, pool := range []*ipam.Pool{b.v4, b.v6} {
		if pool == nil {
			continue
		}
		for addr, owner := range pool.Dump() {
			if name, ok := strings.CutPrefix(owner, reservedBy); ok {
				doc.Reserved[addr] = name
			}
		}
	}
	data, err := json.MarshalIndent(doc, "", " ")
	if err == nil {
		err = endpoint.WriteFile(b.path, data, false)
	}
	if err != nil {
		return fmt.Errorf("save address reservations: %w", err)
	}
	return nil
}
