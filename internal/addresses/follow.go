// SPDX-License-Identifier: Apache-2.0

package addresses

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
)

const (
	// maxValue bounds what is read of an address, in bytes.
	maxValue = 4 << 10
	// maxProblems is how many broken rows are told one by one.
	maxProblems = 10
)

// Follower reads what nodes say of their workloads' addresses. Its methods may be called
// concurrently; Run once.
type Follower struct {
	store *kvstore.Store
	log   *slog.Logger

	mu     sync.Mutex
	broken map[string]error // by key
}

// NewFollower returns a follower that does nothing until Run.
func NewFollower(store *kvstore.Store, log *slog.Logger) *Follower {
	return &Follower{store: store, log: log, broken: map[string]error{}}
}

// Run reports every change of the store's rows, until ctx ends; the first call brings
// those that are there, maybe none. It returns ctx's error. A row that is broken is a
// problem, and changes nothing: if it stands in the place of a good one, that one stays
// in force until the key is written well or deleted.
func (f *Follower) Run(ctx context.Context, handle func(present []Row, gone []netip.Addr)) error {
	return f.store.Watch(ctx, Prefix, func(events []kvstore.Event) {
		handle(f.read(events))
	})
}

// Problems names the keys that are not believed, why, and what to do; of many, a few.
func (f *Follower) Problems() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []string
	for _, key := range slices.Sorted(maps.Keys(f.broken)) {
		if len(list) == maxProblems {
			return append(list, fmt.Sprintf("%d more addresses in the key-value store are ignored", len(f.broken)-maxProblems))
		}
		list = append(list, fmt.Sprintf("%s in the key-value store is ignored: %v: remove the key, or restart the agent that wrote it", key, f.broken[key]))
	}
	return list
}

func (f *Follower) read(events []kvstore.Event) (present []Row, gone []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var broken []error
	for _, e := range events {
		delete(f.broken, e.Key)
		addr, err := parseKey(e.Key)
		if e.Deleted {
			if err == nil {
				gone = append(gone, addr)
			}
			continue
		}
		var row Row
		if err == nil {
			row, err = decode(addr, e.Value)
		}
		if err != nil {
			f.broken[e.Key] = err
			broken = append(broken, fmt.Errorf("%s: %w", e.Key, err))
			continue
		}
		present = append(present, row)
	}
	if len(broken) > 0 {
		f.log.Warn("ignoring addresses in the key-value store", "count", len(broken), "first", broken[0])
	}
	return present, gone
}

// parseKey reads the address that a key is about. One that is written otherwise than
// addresses are would be a second key of the same address.
func parseKey(key string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(strings.TrimPrefix(key, Prefix))
	if err != nil {
		return addr, errors.New("its end is no IP address")
	}
	if plain := addr.Unmap().WithZone(""); Prefix+plain.String() != key {
		return addr, fmt.Errorf("its end is not as %s is written", plain)
	}
	return addr, nil
}

func decode(addr netip.Addr, value string) (Row, error) {
	var r record
	if len(value) > maxValue {
		return Row{}, fmt.Errorf("%d bytes are too many", len(value))
	}
	if err := json.Unmarshal([]byte(value), &r); err != nil {
		return Row{}, err
	}
	switch {
	case r.IP != addr:
		return Row{}, fmt.Errorf("field IP: %s is not the key's address", r.IP)
	case !isUnicast(addr):
		return Row{}, fmt.Errorf("field IP: %s is no address of a workload", addr)
	case len(r.Mask) > 0 && !bytes.Equal(r.Mask, bytes.Repeat([]byte{0xff}, addr.BitLen()/8)):
		return Row{}, fmt.Errorf("field Mask: %x means more than one address", r.Mask)
	case !isUnicast(r.HostIP):
		return Row{}, fmt.Errorf("field HostIP: %s is no address of a node", r.HostIP)
	case r.ID == identity.Unknown || !r.ID.HasPolicy():
		return Row{}, fmt.Errorf("field ID: %d is no identity of a workload", r.ID)
	}
	return Row{Addr: addr, Identity: r.ID, Host: r.HostIP}, nil
}

func isUnicast(addr netip.Addr) bool {
	return addr.IsGlobalUnicast() && addr == addr.Unmap().WithZone("")
}
