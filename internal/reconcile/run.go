// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"cilium.local/cilium/internal/table"
)

// failure is a row whose last write failed.
type failure struct {
	from    uint64 // no change of this row below this revision is outstanding
	err     error
	since   time.Time // first failure in a row
	retryAt time.Time
	backoff time.Duration
}

// Run applies changes until ctx ends, and returns ctx's error. Rows that fail
// are tried again with growing waits; a failure never stops the loop.
func (r *Reconciler[K, V]) Run(ctx context.Context) error {
	cursor := r.table.Follow()
	defer cursor.Close()
	loop := &loop[K, V]{Reconciler: r, cursor: cursor}
	for {
		changed := r.table.Changed()
		next := loop.round(time.Now())
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// loop is what only the goroutine of Run knows.
type loop[K comparable, V any] struct {
	*Reconciler[K, V]
	cursor    *table.Cursor[K, V]
	compareAt time.Time // when the next comparison is due; zero is at once
	backoff   time.Duration
	compared  bool // one comparison succeeded
	complete  bool // the last round saw a complete table
}

// round does all that is due and returns how long nothing else will be.
func (l *loop[K, V]) round(now time.Time) time.Duration {
	changes, revision := l.cursor.Next()
	complete := l.table.Complete()
	due := !now.Before(l.compareAt) || complete && !l.complete
	l.complete = complete
	if due && !l.compared {
		// The first comparison also covers the present rows; what was deleted
		// since an earlier, failed one still has to be deleted by name.
		if l.compare(now, complete) {
			changes = slices.DeleteFunc(changes, func(c table.Change[K, V]) bool { return !c.Deleted })
		}
		due = false
	}
	for _, c := range changes {
		l.apply(c.Key, c.Value, c.Deleted, now)
	}
	l.retry(now)
	l.mu.Lock()
	l.applied = revision
	l.mu.Unlock()
	if due {
		l.compare(now, complete)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.progress)
	l.progress = make(chan struct{})
	next := l.compareAt
	for _, f := range l.failing {
		if f.retryAt.Before(next) {
			next = f.retryAt
		}
	}
	return max(0, next.Sub(now))
}

// apply writes one row or its absence, and books success or failure.
func (l *loop[K, V]) apply(key K, value V, deleted bool, now time.Time) bool {
	var op string
	var err error
	if deleted {
		op, err = "delete", l.target.Delete(key)
	} else {
		op, err = "update", l.target.Update(key, value)
	}
	l.opts.Observe(op, err)
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.failing[key]
	if err == nil {
		if f != nil {
			l.opts.Log.Info("table row applied after failures", "table", l.table.Name(), "key", key, "failing-for", now.Sub(f.since))
			delete(l.failing, key)
		}
		return true
	}
	if f == nil {
		f = &failure{from: l.applied + 1, since: now}
		l.failing[key] = f
	}
	f.err = fmt.Errorf("%s row %v of table %s: %w", op, key, l.table.Name(), err)
	f.backoff = min(max(2*f.backoff, l.opts.MinBackoff), l.opts.MaxBackoff)
	f.retryAt = now.Add(f.backoff)
	l.opts.Log.Warn("table row not applied, will be retried", "table", l.table.Name(), "key", key, "op", op, "error", err, "retry-in", f.backoff)
	return false
}

// retry tries the failing rows whose time has come, with what the table holds
// now, which may be newer than what failed.
func (l *loop[K, V]) retry(now time.Time) {
	var due []K
	l.mu.Lock()
	for key, f := range l.failing {
		if !now.Before(f.retryAt) {
			due = append(due, key)
		}
	}
	l.mu.Unlock()
	for _, key := range due {
		value, _, ok := l.table.Get(key)
		l.apply(key, value, !ok, now)
	}
}

// compare reads the whole target, repairs what differs and, when the table is
// complete, removes what is left over. It reports whether the target could be
// read.
func (l *loop[K, V]) compare(now time.Time, complete bool) bool {
	is, err := l.target.Dump()
	l.opts.Observe("compare", err)
	if err != nil {
		l.compareFailed(now, fmt.Errorf("read the target of table %s: %w", l.table.Name(), err))
		return false
	}
	ok := l.repair(is, complete, now)
	first := !l.compared
	l.compared = true
	if ok {
		l.backoff = 0
		l.compareAt = now.Add(l.opts.CompareEvery)
	} else {
		l.delayCompare(now)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.compareErr = nil
	l.Reconciler.compareAt = time.Time{}
	l.pruned = l.pruned || complete && ok
	if first {
		l.opts.Log.Debug("table compared with its target", "table", l.table.Name(), "rows", len(is))
	}
	return true
}

// delayCompare sets the next comparison's time after a failure.
func (l *loop[K, V]) delayCompare(now time.Time) {
	l.backoff = min(max(2*l.backoff, l.opts.MinBackoff), l.opts.MaxBackoff)
	l.compareAt = now.Add(l.backoff)
}

func (l *loop[K, V]) compareFailed(now time.Time, err error) {
	l.delayCompare(now)
	l.opts.Log.Warn("table not compared, will be retried", "table", l.table.Name(), "error", err, "retry-in", l.backoff)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.compareErr == nil {
		l.Reconciler.compareAt = now
	}
	l.compareErr = err
}

// repair writes the differences between the table and what the target is.
func (l *loop[K, V]) repair(is map[K]V, complete bool, now time.Time) bool {
	ok, repaired := true, uint64(0)
	wanted := l.table.Snapshot()
	for key, want := range wanted {
		if have, present := is[key]; present && l.opts.Equal(want, have) {
			l.settle(key)
			continue
		}
		repaired++
		ok = l.apply(key, want, false, now) && ok
	}
	for key := range is {
		if _, want := wanted[key]; want || !complete {
			continue
		}
		repaired++
		ok = l.apply(key, is[key], true, now) && ok
	}
	if l.compared && repaired > 0 {
		l.opts.Log.Warn("target differed from its table and was repaired", "table", l.table.Name(), "rows", repaired)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.compared {
		l.repaired += repaired
	}
	return ok
}

// settle forgets a failure of a row that turned out to be right in the target.
func (l *loop[K, V]) settle(key K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.failing, key)
}
