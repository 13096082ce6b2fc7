// SPDX-License-Identifier: Apache-2.0

// Package noderange gives each node a range of its own out of a pool that the cluster
// shares: a key of the store, taken once by compare-and-swap and kept, without a lease,
// until the node is deleted. After that no node asks another for an address.
package noderange

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/nodes"
)

// prefix is that of the keys CLUSTER/ADDRESS-BITS.
const prefix = "cilium/state/ranges/v1/"

// Errors a caller can branch on.
var (
	// ErrExhausted says that the pool has no free range.
	ErrExhausted = errors.New("every range is claimed")
	// ErrRegistered says that a node is alive, or its lease has not ended yet.
	ErrRegistered = errors.New("the node is registered")
)

// Pool is what ranges are taken from, and how large they are.
type Pool struct {
	Prefix netip.Prefix
	Bits   int // of a range
}

// Validate says what is wrong with a pool.
func (p Pool) Validate() error {
	longest := p.Prefix.Addr().BitLen() - 2
	if p.Bits < p.Prefix.Bits() || p.Bits > longest {
		return fmt.Errorf("ranges of /%d do not fit into %s: use /%d to /%d", p.Bits, p.Prefix, p.Prefix.Bits(), longest)
	}
	return nil
}

// Holds says whether a range is one of the pool's.
func (p Pool) Holds(r netip.Prefix) bool { return r.Bits() == p.Bits && p.Prefix.Contains(r.Addr()) }

// Owner is who claims. Instance tells two nodes of one name apart.
type Owner struct{ Cluster, Node, Instance string }

type claim struct{ Node, Instance string }

func (o Owner) value() (string, error) {
	text, err := json.Marshal(claim{o.Node, o.Instance})
	return string(text), err
}

func key(cluster string, r netip.Prefix) string {
	return fmt.Sprintf("%s%s/%s-%d", prefix, cluster, r.Addr(), r.Bits())
}

// parseKey reads a key's range.
func parseKey(cluster, text string) (netip.Prefix, bool) {
	addr, bits, ok := strings.Cut(strings.TrimPrefix(text, prefix+cluster+"/"), "-")
	ip, err := netip.ParseAddr(addr)
	n, bitsErr := strconv.Atoi(bits)
	return netip.PrefixFrom(ip, n), ok && err == nil && bitsErr == nil
}

// Claim returns the owner's range of the pool: the one that it has by the store, also
// under an earlier instance, or else a free one. The caller has made sure that no other
// node has the owner's name.
func Claim(ctx context.Context, store *kvstore.Store, o Owner, p Pool) (netip.Prefix, error) {
	if err := p.Validate(); err != nil {
		return netip.Prefix{}, err
	}
	const tries = 50
	for range tries {
		r, done, err := tryClaim(ctx, store, o, p)
		if err != nil || done {
			return r, err
		}
	}
	return netip.Prefix{}, fmt.Errorf("claim a range of %s: other nodes were faster %d times", p.Prefix, tries)
}

func tryClaim(ctx context.Context, store *kvstore.Store, o Owner, p Pool) (r netip.Prefix, done bool, err error) {
	present, err := store.List(ctx, prefix+o.Cluster+"/")
	if err != nil {
		return r, false, err
	}
	taken := make(map[netip.Prefix]bool, len(present))
	value, err := o.value()
	if err != nil {
		return r, false, err
	}
	for _, kv := range present {
		mine, ok := parseKey(o.Cluster, kv.Key)
		if !ok {
			return r, false, fmt.Errorf("%s in the key-value store is no claim of a range: remove it", kv.Key)
		}
		taken[mine] = true
		if p.Holds(mine) && isOf(kv.Value, o.Node) {
			done, err := store.Commit(ctx, []kvstore.Cond{kvstore.Unchanged(kv.Key, kv.Revision)}, kvstore.Put(kv.Key, value))
			return mine, done, err
		}
	}
	registered, err := nodes.Registered(ctx, store, o.Cluster)
	if err != nil {
		return r, false, err
	}
	for _, n := range registered {
		for _, given := range n.Ranges() { // by option, without a claim
			taken[given] = true
		}
	}
	r, ok := p.free(taken)
	if !ok {
		return r, false, fmt.Errorf("%w: all /%d of %s (delete nodes that are gone, with cilium node delete, or give a larger pool)", ErrExhausted, p.Bits, p.Prefix)
	}
	done, err = store.Create(ctx, key(o.Cluster, r), value)
	return r, done, err
}

// Confirm makes sure that a range which a node has used before is still its own. It
// fails when the store says that it is another's.
func Confirm(ctx context.Context, store *kvstore.Store, o Owner, r netip.Prefix) error {
	value, err := o.value()
	if err != nil {
		return err
	}
	done, err := store.Create(ctx, key(o.Cluster, r), value)
	if err != nil || done {
		return err
	}
	present, err := store.Get(ctx, key(o.Cluster, r))
	if err != nil {
		return err
	}
	if !isOf(present, o.Node) {
		return fmt.Errorf("the range %s, which this node uses, is claimed by another by now: %s", r, present)
	}
	return nil
}

// Release gives back all ranges of a node, and returns them. It fails with ErrRegistered
// while the node is there: its workloads have addresses of these ranges.
func Release(ctx context.Context, store *kvstore.Store, cluster, node string) ([]netip.Prefix, error) {
	registration := nodes.Key{Cluster: cluster, Name: node}.InStore()
	if _, err := store.Get(ctx, registration); !errors.Is(err, kvstore.ErrNotFound) {
		if err == nil {
			err = fmt.Errorf("%w: stop the agent of %s, and wait until its lease has ended", ErrRegistered, node)
		}
		return nil, err
	}
	present, err := store.List(ctx, prefix+cluster+"/")
	var released []netip.Prefix
	for _, kv := range present {
		r, ok := parseKey(cluster, kv.Key)
		if !ok || !isOf(kv.Value, node) {
			continue
		}
		conds := []kvstore.Cond{kvstore.Missing(registration), kvstore.Unchanged(kv.Key, kv.Revision)}
		done, deleteErr := store.Commit(ctx, conds, kvstore.Remove(kv.Key))
		if err = errors.Join(err, deleteErr); done {
			released = append(released, r)
		}
	}
	return released, err
}

func isOf(value, node string) bool {
	var c claim
	return json.Unmarshal([]byte(value), &c) == nil && c.Node == node
}

// maxTried bounds how many ranges of a pool are thought of: more than there are nodes.
const maxTried = 1 << 20

// free finds a range that nobody has, beginning at a random place, so that nodes which
// start together seldom want the same.
func (p Pool) free(taken map[netip.Prefix]bool) (netip.Prefix, bool) {
	count := uint64(maxTried)
	if bits := p.Bits - p.Prefix.Bits(); bits < 20 {
		count = 1 << bits
	}
	start := rand.Uint64N(count)
	for i := range count {
		if r := p.at((start + i) % count); !taken[r] && !overlapsAny(r, taken) {
			return r, true
		}
	}
	return netip.Prefix{}, false
}

// overlapsAny looks for claims of other sizes, of a pool that was configured otherwise.
func overlapsAny(r netip.Prefix, taken map[netip.Prefix]bool) bool {
	for other := range taken {
		if other.Bits() != r.Bits() && other.Overlaps(r) {
			return true
		}
	}
	return false
}

// at is the pool's range with a number.
func (p Pool) at(number uint64) netip.Prefix {
	bytes := p.Prefix.Masked().Addr().As16()
	shift := uint(p.Prefix.Addr().BitLen() - p.Bits)
	high, low := binary.BigEndian.Uint64(bytes[:8]), binary.BigEndian.Uint64(bytes[8:])
	if shift < 64 {
		low |= number << shift
		if shift > 0 {
			high |= number >> (64 - shift)
		}
	} else {
		high |= number << (shift - 64)
	}
	binary.BigEndian.PutUint64(bytes[:8], high)
	binary.BigEndian.PutUint64(bytes[8:], low)
	addr := netip.AddrFrom16(bytes)
	if p.Prefix.Addr().Is4() {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, p.Bits)
}
