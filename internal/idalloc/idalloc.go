// SPDX-License-Identifier: Apache-2.0

// Package idalloc turns label sets into numeric identities that all nodes agree
// on, through keys in the key-value store:
//
//	cilium/state/identities/v1/id/<id>               = labels
//	cilium/state/identities/v1/value/<labels>/<node> = id, leased: the node uses it
//
// The store decides each allocation by compare-and-swap, so two nodes that ask
// for one label set at once get one number, and one number never stands for two
// sets. What this node holds, or has seen, it can use again while the store is
// unreachable. docs/design/identity.md has the details.
//
// An Allocator is safe for concurrent use. Allocate and Release are counted per
// label set: an identity is held until it was released as often as it was
// allocated or adopted.
package idalloc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/label"
)

// ClaimPrefix begins the keys by which nodes tell which identities they use.
const ClaimPrefix = base + "value/"

// Keys in the store.
const (
	base        = "cilium/state/identities/v1/"
	idPrefix    = base + "id/"
	valuePrefix = ClaimPrefix
	gcLock      = base + "locks/gc"
)

// ErrExhausted says that every number of the cluster stands for some label set.
var ErrExhausted = errors.New("no free identity is left")

// Option changes a default of New.
type Option func(*Allocator)

// WithGCInterval sets the time between two passes of the garbage collection,
// 15 minutes if not given. An identity goes in the second pass without a holder.
func WithGCInterval(d time.Duration) Option { return func(a *Allocator) { a.gcEvery = d } }

// WithConflict sets a function that is called when an identity which this node
// holds was given to other labels while the node was cut off for longer than
// its lease. The identity is no longer held then: whoever uses it must stop, and
// allocate its labels again.
func WithConflict(f func(identity.Identity)) Option { return func(a *Allocator) { a.conflict = f } }

// WithCluster makes the identities those of a cluster among joined ones: its
// number stands in bits 16 to 23 of each. Others in the store are refused.
func WithCluster(id uint8) Option {
	return func(a *Allocator) {
		block := identity.ID(id) << 16
		a.cluster, a.first, a.last = id, block|identity.MinAllocated, block|identity.MaxAllocated
	}
}

// WithCache keeps the store's identities in a file, too, so that an agent which
// starts while the store is away knows those of other nodes.
func WithCache(file string) Option { return func(a *Allocator) { a.cache = newCache(file, a.log) } }

// Allocator hands out identities on one node. Make one with New, and run Run.
type Allocator struct {
	store       *kvstore.Store
	node        string
	log         *slog.Logger
	gcEvery     time.Duration
	conflict    func(identity.Identity)
	cluster     uint8
	first, last identity.ID // that are allocated here
	cache       *cache

	reserved     map[string]identity.ID
	reservedByID map[identity.ID]label.Set
	labelLocks   keyedMutex
	changed      chan struct{}
	tend         chan struct{} // wakes the upkeep

	mu       sync.Mutex
	synced   bool // the store's identities are known
	known    map[identity.ID]known
	byKey    map[string][]identity.ID // ids of known, sorted, by label key
	held     map[string]*holding
	heldIDs  map[identity.ID]string // label keys of held
	unwanted map[string]struct{}    // label keys whose value key is still to be deleted
	problems map[string]string      // by key of the store
}

// known is what a number stands for in the store, or did when it answered last.
type known struct {
	key    string
	labels label.Set
}

// holding is an identity that this node uses.
type holding struct {
	identity.Identity
	uses   int
	unsure bool // the store has not confirmed it since it was lost, adopted or taken from the cache
}

// New returns the allocator of the node of that name. It does not touch the
// store; until Run has read the identities there, it asks the store more often.
func New(store *kvstore.Store, nodeName string, log *slog.Logger, opts ...Option) *Allocator {
	a := &Allocator{
		store: store, node: url.PathEscape(nodeName), log: log,
		gcEvery:      15 * time.Minute,
		conflict:     func(identity.Identity) {},
		first:        identity.MinAllocated,
		last:         identity.MaxAllocated,
		reserved:     make(map[string]identity.ID),
		reservedByID: make(map[identity.ID]label.Set),
		cache:        newCache("", log),
		changed:      make(chan struct{}, 1),
		tend:         make(chan struct{}, 1),
		known:        make(map[identity.ID]known),
		byKey:        make(map[string][]identity.ID),
		held:         make(map[string]*holding),
		heldIDs:      make(map[identity.ID]string),
		unwanted:     make(map[string]struct{}),
		problems:     make(map[string]string),
	}
	for _, id := range identity.Reserved() {
		a.reserved[id.Labels.Key()] = id.ID
		a.reservedByID[id.ID] = id.Labels
	}
	// A workload without labels has nothing to be selected by.
	a.reserved[""] = identity.Init
	for _, opt := range opts {
		opt(a)
	}
	a.recall()
	return a
}

// Allocate returns the identity of the labels and holds it once more. Reserved
// sets have fixed numbers; the empty set is that of init. A set that this node
// holds, or that is known while the store is unreachable, costs no access to the
// store. It fails with ErrExhausted, or with what kept it from the store.
func (a *Allocator) Allocate(ctx context.Context, labels label.Set) (identity.ID, error) {
	key := labels.Key()
	if id, ok := a.reserved[key]; ok {
		return id, nil
	}
	if err := storable(key, labels); err != nil {
		return 0, fmt.Errorf("allocate an identity for %s: %w", labels, err)
	}
	unlock, err := a.labelLocks.lock(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("allocate an identity for %s: %w", labels, err)
	}
	defer unlock()
	if id, ok := a.holdAgain(key); ok {
		return id, nil
	}
	id, unsure, err := a.acquireOrCached(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("allocate an identity for %s: %w", labels, err)
	}
	a.hold(&holding{Identity: identity.Identity{ID: id, Labels: labels}, uses: 1, unsure: unsure})
	return id, nil
}

// patience is how long an allocation waits for the store when the labels have an
// identity that is known anyway.
const patience = time.Second

// acquireOrCached takes the identity that is known of the labels when the store
// does not answer; it is unsure then.
func (a *Allocator) acquireOrCached(ctx context.Context, key string) (id identity.ID, unsure bool, err error) {
	limited := ctx
	if _, ok := a.cached(key); ok {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	if id, err = a.acquire(limited, key); err == nil {
		return id, false, nil
	}
	away := errors.Is(err, kvstore.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded)
	if cached, ok := a.cached(key); ok && away {
		a.store.Keep(a.valueKey(key), formatID(cached))
		return cached, true, nil
	}
	// The claim may have been stored, without an answer.
	a.mu.Lock()
	a.unwanted[key] = struct{}{}
	a.mu.Unlock()
	a.signal(a.tend)
	return 0, false, err
}

// Adopt counts one use of an identity that was allocated before a restart,
// without asking the store; the store learns of it when it answers. It fails
// when the number or the labels are known to stand for something else.
func (a *Allocator) Adopt(id identity.Identity) error {
	key := id.Labels.Key()
	if fixed, ok := a.reserved[key]; ok {
		if fixed != id.ID {
			return fmt.Errorf("adopt identity %d: its labels %s are those of reserved identity %d", id.ID, id.Labels, fixed)
		}
		return nil
	}
	if id.ID < a.first || id.ID > a.last {
		return fmt.Errorf("adopt identity %d: allocated identities are %d to %d in cluster %d", id.ID, a.first, a.last, a.cluster)
	}
	if err := storable(key, id.Labels); err != nil {
		return fmt.Errorf("adopt identity %d: %w", id.ID, err)
	}
	unlock, err := a.labelLocks.lock(context.Background(), key)
	if err != nil {
		return err
	}
	defer unlock()
	a.mu.Lock()
	if is, ok := a.known[id.ID]; ok && is.key != key {
		a.mu.Unlock()
		return fmt.Errorf("adopt identity %d for %s: it stands for %s now (allocate the labels again)", id.ID, id.Labels, is.labels)
	}
	if other, ok := a.heldIDs[id.ID]; ok && other != key {
		a.mu.Unlock()
		return fmt.Errorf("adopt identity %d for %s: this node uses it for %s (allocate the labels again)", id.ID, id.Labels, other)
	}
	if h := a.held[key]; h != nil {
		defer a.mu.Unlock()
		if h.ID != id.ID {
			return fmt.Errorf("adopt identity %d for %s: this node uses %d for them already", id.ID, id.Labels, h.ID)
		}
		h.uses++
		return nil
	}
	a.mu.Unlock()
	a.store.Keep(a.valueKey(key), formatID(id.ID))
	a.hold(&holding{Identity: id, uses: 1, unsure: true})
	return nil
}

// Release ends one use of the labels' identity. After the last one the store is
// told that this node does not use it any more; while the store is unreachable
// that is done later, and is no error. It fails when the labels are not held.
func (a *Allocator) Release(ctx context.Context, labels label.Set) error {
	key := labels.Key()
	if _, ok := a.reserved[key]; ok {
		return nil
	}
	unlock, err := a.labelLocks.lock(ctx, key)
	if err != nil {
		return fmt.Errorf("release the identity of %s: %w", labels, err)
	}
	defer unlock()
	a.mu.Lock()
	h := a.held[key]
	if h == nil {
		a.mu.Unlock()
		return fmt.Errorf("release the identity of %s: this node does not hold it", labels)
	}
	if h.uses--; h.uses > 0 {
		a.mu.Unlock()
		return nil
	}
	a.unhold(key)
	a.mu.Unlock()
	a.signal(a.changed)
	if err := a.store.Delete(ctx, a.valueKey(key)); err != nil {
		a.log.Warn("the key-value store is told later that an identity is not used any more", "identity", h.ID, "error", err)
		a.mu.Lock()
		a.unwanted[key] = struct{}{}
		a.mu.Unlock()
		a.signal(a.tend)
	}
	return nil
}

// storable reports labels that other nodes would not read back from the key as
// they are, or whose key would look like one of other labels.
func storable(key string, labels label.Set) error {
	if strings.HasPrefix(key, "/") || strings.Contains(key, ";/") {
		return errors.New("a label's source must not begin with '/'")
	}
	back, err := label.ParseKey(key)
	if err != nil {
		return err
	}
	if !back.Equal(labels) {
		return fmt.Errorf("a label's key must not contain '=' (it would be read back as %s)", back)
	}
	return nil
}

// hold books a new holding.
func (a *Allocator) hold(h *holding) {
	a.mu.Lock()
	key := h.Labels.Key()
	a.held[key], a.heldIDs[h.ID] = h, key
	delete(a.unwanted, key)
	a.mu.Unlock()
	a.signal(a.changed)
	if h.unsure {
		a.signal(a.tend)
	}
}

// unhold drops a holding. The caller holds mu.
func (a *Allocator) unhold(key string) {
	if h := a.held[key]; h != nil && a.heldIDs[h.ID] == key {
		delete(a.heldIDs, h.ID)
	}
	delete(a.held, key)
}

func (a *Allocator) holdAgain(key string) (identity.ID, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.held[key]
	if h == nil {
		return 0, false
	}
	h.uses++
	return h.ID, true
}

func (a *Allocator) cached(key string) (identity.ID, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ids := a.byKey[key]; len(ids) > 0 {
		return ids[0], true
	}
	return 0, false
}

// Watch returns a channel that receives when Identities would return something
// new. Signals are merged; the channel is for one reader.
func (a *Allocator) Watch() <-chan struct{} { return a.changed }

func (a *Allocator) signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Identities returns the reserved identities and all others that are known or
// held, sorted by number.
func (a *Allocator) Identities() []identity.Identity {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := identity.Reserved()
	all = slices.Grow(all, len(a.known))
	for id, is := range a.known {
		all = append(all, identity.Identity{ID: id, Labels: is.labels})
	}
	for key, h := range a.held {
		if is, ok := a.known[h.ID]; !ok || is.key != key {
			all = append(all, h.Identity)
		}
	}
	slices.SortFunc(all, func(x, y identity.Identity) int { return cmp.Compare(x.ID, y.ID) })
	return all
}

// Held returns the identities that this node uses, sorted by number: what an
// agent keeps on disk to Adopt after a restart.
func (a *Allocator) Held() []identity.Identity {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []identity.Identity
	for h := range maps.Values(a.held) {
		all = append(all, h.Identity)
	}
	slices.SortFunc(all, func(x, y identity.Identity) int { return cmp.Compare(x.ID, y.ID) })
	return all
}

// Lookup returns the identity of that number.
func (a *Allocator) Lookup(id identity.ID) (identity.Identity, bool) {
	if labels, ok := a.reservedByID[id]; ok {
		return identity.Identity{ID: id, Labels: labels}, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if is, ok := a.known[id]; ok {
		return identity.Identity{ID: id, Labels: is.labels}, true
	}
	if key, ok := a.heldIDs[id]; ok {
		return a.held[key].Identity, true
	}
	return identity.Identity{}, false
}

// LookupLabels returns the identity of the labels, without allocating one.
func (a *Allocator) LookupLabels(labels label.Set) (identity.Identity, bool) {
	key := labels.Key()
	id, ok := a.reserved[key]
	if !ok {
		a.mu.Lock()
		if h := a.held[key]; h != nil {
			id, ok = h.ID, true
		}
		a.mu.Unlock()
	}
	if !ok {
		id, ok = a.cached(key)
	}
	return identity.Identity{ID: id, Labels: labels}, ok
}

func (a *Allocator) valueKey(key string) string { return valuePrefix + key + "/" + a.node }

func idKey(id identity.ID) string { return idPrefix + formatID(id) }

func formatID(id identity.ID) string { return strconv.FormatUint(uint64(id), 10) }

// parseID reads an identity of this cluster as the store has it.
func (a *Allocator) parseID(text string) (identity.ID, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	id := identity.ID(n)
	if err != nil || formatID(id) != text || id < a.first || id > a.last {
		return 0, fmt.Errorf("%q is not an identity of cluster %d, which are %d to %d", text, a.cluster, a.first, a.last)
	}
	return id, nil
}

// Synced reports whether the store has told its identities since the start.
// Before that, those of a cache file are known, and those of this node.
func (a *Allocator) Synced() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.synced
}

// Problems returns what is wrong with identities in the store, by key.
func (a *Allocator) Problems() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Values(a.problems))
}
