// SPDX-License-Identifier: Apache-2.0

// Package reconcile brings a target, such as a BPF map or a set of devices, in
// line with a table of wanted rows, and keeps it there.
//
// One loop serves a change, a retry, the periodic comparison and a restart: the
// first thing Run does is to compare, so rows that are already right are not
// written again. Rows that only the target has are removed once the table is
// complete (table.MarkComplete), never before, so that a restarted owner does
// not lose what it has not restored yet.
//
// A Reconciler is the only writer of its target. Its methods are safe for
// concurrent use; Run is called once.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"cilium.local/cilium/internal/table"
)

// Target is what a table is written to. All three operations are idempotent:
// updating an equal row and deleting a missing one succeed. They are called
// from one goroutine.
type Target[K comparable, V any] interface {
	Update(key K, value V) error
	Delete(key K) error
	Dump() (map[K]V, error)
}

// Options tune a Reconciler; the zero value is fine.
type Options[V any] struct {
	Log          *slog.Logger               // nothing is logged when nil
	Equal        func(want, is V) bool      // reflect.DeepEqual when nil
	MinBackoff   time.Duration              // wait after a row's first failure; 50 ms when 0
	MaxBackoff   time.Duration              // longest wait between tries of a row; 30 s when 0
	CompareEvery time.Duration              // time between full comparisons; 5 min when 0
	Observe      func(op string, err error) // called after each "update", "delete" and "compare"
}

func (o *Options[V]) setDefaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Equal == nil {
		o.Equal = func(want, is V) bool { return reflect.DeepEqual(want, is) }
	}
	if o.MinBackoff == 0 {
		o.MinBackoff = 50 * time.Millisecond
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = 30 * time.Second
	}
	if o.CompareEvery == 0 {
		o.CompareEvery = 5 * time.Minute
	}
	if o.Observe == nil {
		o.Observe = func(string, error) {}
	}
}

// Status says how a target stands against its table.
type Status struct {
	Table     string    // the table's name
	Wanted    uint64    // the table's revision
	Applied   uint64    // every change up to this revision was tried
	Failing   int       // rows among them that wait for another try
	LastError error     // of a failing row or comparison, nil when all is well
	Since     time.Time // when the first of the failing rows failed first, or the comparison
	Repaired  uint64    // rows that a comparison found changed, missing or left over
	Pruned    bool      // a comparison has run since the table is complete
}

// Reconciler is one table's way to one target. Make it with New.
type Reconciler[K comparable, V any] struct {
	table  *table.Table[K, V]
	target Target[K, V]
	opts   Options[V]

	mu         sync.Mutex
	applied    uint64
	failing    map[K]*failure
	compareErr error
	compareAt  time.Time // when the failing comparison failed first
	repaired   uint64
	pruned     bool
	progress   chan struct{} // closed and replaced after each round
}

// New returns a reconciler that does nothing until Run.
func New[K comparable, V any](t *table.Table[K, V], target Target[K, V], opts Options[V]) *Reconciler[K, V] {
	opts.setDefaults()
	return &Reconciler[K, V]{
		table:    t,
		target:   target,
		opts:     opts,
		failing:  make(map[K]*failure),
		progress: make(chan struct{}),
	}
}

// Status returns the present state.
func (r *Reconciler[K, V]) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Status{
		Table: r.table.Name(), Wanted: r.table.Revision(), Applied: r.applied,
		Failing: len(r.failing), LastError: r.compareErr, Since: r.compareAt,
		Repaired: r.repaired, Pruned: r.pruned,
	}
	for _, f := range r.failing {
		if s.Since.IsZero() || f.since.Before(s.Since) {
			s.Since = f.since
			s.LastError = f.err
		}
	}
	return s
}

// Wait blocks until every change up to the revision is in the target, or was
// replaced by a later one that is. When ctx ends first, the error says which
// row holds it up and why. One failing row holds up all later revisions:
// WaitKey is for callers that care for one row.
func (r *Reconciler[K, V]) Wait(ctx context.Context, revision uint64) error {
	return r.wait(ctx, func() error {
		if r.applied < revision {
			return fmt.Errorf("revision %d of %d reached", r.applied, revision)
		}
		for _, f := range r.failing {
			if f.from <= revision {
				return f.err
			}
		}
		return nil
	})
}

// WaitKey blocks until the target holds what the table holds now for the key,
// be it a row or none. Other rows' failures do not matter.
func (r *Reconciler[K, V]) WaitKey(ctx context.Context, key K) error {
	revision := r.table.Revision()
	return r.wait(ctx, func() error {
		if r.applied < revision {
			return fmt.Errorf("revision %d of %d reached", r.applied, revision)
		}
		if f := r.failing[key]; f != nil {
			return f.err
		}
		return nil
	})
}

// Tried blocks until what the table holds now for the key was written once, be it a row
// or none, and returns the failure, if it failed. It will be tried again.
func (r *Reconciler[K, V]) Tried(ctx context.Context, key K) (err error) {
	revision := r.table.Revision()
	waitErr := r.wait(ctx, func() error {
		if r.applied < revision {
			return fmt.Errorf("revision %d of %d reached", r.applied, revision)
		}
		if f := r.failing[key]; f != nil {
			err = f.err
		}
		return nil
	})
	return errors.Join(waitErr, err)
}

// WaitPruned blocks until the table is complete and a comparison has removed
// what only the target had.
func (r *Reconciler[K, V]) WaitPruned(ctx context.Context) error {
	return r.wait(ctx, func() error {
		if r.pruned {
			return nil
		}
		if r.compareErr != nil {
			return r.compareErr
		}
		return errors.New("the table is not complete or not yet compared")
	})
}

// wait blocks until done, called with mu held, returns nil.
func (r *Reconciler[K, V]) wait(ctx context.Context, done func() error) error {
	for {
		r.mu.Lock()
		why, progress := done(), r.progress
		r.mu.Unlock()
		if why == nil {
			return nil
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return fmt.Errorf("wait for table %s to be applied: %w (%w)", r.table.Name(), context.Cause(ctx), why)
		}
	}
}
