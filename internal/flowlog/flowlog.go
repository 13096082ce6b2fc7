// SPDX-License-Identifier: Apache-2.0

// Package flowlog remembers what policy decided about which flows, on disk and
// within a fixed size, so that a new policy can be tried on them.
//
// A record is a decision with both ends as they were then: addresses, identities,
// labels, and which of them were workloads of this node. Equal decisions of the
// same moment are one record with a count. Records go through memory to the newest
// of several files ("segments"); when all of them together would be too large, the
// oldest goes as a whole. Each segment holds the label sets that its records need,
// once. Nothing is forced to disk: what this guards against is the death of the
// agent, and a record that its death cut short is dropped at the next start.
//
// A Log is safe for concurrent use.
package flowlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
)

// End is one end of a flow as it was known at the time. Ends are shared between
// records and do not change.
type End struct {
	Addr     netip.Addr
	Identity identity.ID
	Endpoint uint16 // the workload of this node, 0 for none
	Labels   []string
}

// Rule is the rule that decided.
type Rule struct {
	Cookie uint32
	Labels []string
}

// Record is a decision about a flow, from the end that opened it.
type Record struct {
	First, Last time.Time // to the millisecond
	Count       uint64    // of equal decisions
	Source      *End
	Dest        *End
	Port        l4.Port        // at the destination; the message type for ICMP
	Direction   flow.Direction // of the end that had the last word
	Verdict     flow.Verdict
	Reason      flow.DropReason // 0 if allowed
	Rule        *Rule           // nil when no rule decided
}

// Sizes of what waits in memory.
const (
	maxPending = 8192            // records
	flushAt    = maxPending / 2  // records, of which the writer is told at once
	flushEvery = 1 * time.Second // else
)

// Log is the recorder. Make it with Open.
type Log struct {
	log    *slog.Logger
	wake   chan struct{} // the first record of a batch is there
	urgent chan struct{} // many are

	mu      sync.Mutex
	filling *batch
	lost    uint64 // decisions that found no room or could not be written
	total   uint64 // decisions since Open

	io      sync.Mutex // held while reading and writing files, before mu
	idle    *batch
	store   *store
	failure error // of the last write, nil if it went well
}

// Open continues the log in a folder, which it makes. Segments beyond max, in
// bytes, are removed.
func Open(dir string, maxBytes int64, log *slog.Logger) (*Log, error) {
	s, err := openStore(dir, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("flow log in %s: %w", dir, err)
	}
	return &Log{
		log: log, store: s, filling: newBatch(), idle: newBatch(),
		wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1),
	}, nil
}

// Remove deletes the log in a folder that Open made.
func Remove(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the flow log: %w", err)
	}
	return nil
}

// Record takes up an event if it tells of a decision by policy. It never waits for
// the disk: when too much is waiting already, the event is counted as lost.
func (l *Log) Record(e *flow.Event) {
	d, ok := decisionOf(e)
	if !ok {
		return
	}
	l.mu.Lock()
	l.total++
	if !l.filling.add(&d) {
		l.lost++
	}
	n := len(l.filling.list)
	l.mu.Unlock()
	switch n {
	case 1:
		signal(l.wake)
	case flushAt:
		signal(l.urgent)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run writes down what Record took up until the context ends: after a second, or
// as soon as much is there. What cannot be written is counted, and said once.
func (l *Log) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil // Close writes what is left
		case <-l.wake:
		case <-l.urgent:
		}
		select {
		case <-ctx.Done():
		case <-l.urgent:
		case <-time.After(flushEvery):
		}
		l.Flush()
	}
}

// Flush writes down what Record took up so far.
func (l *Log) Flush() {
	l.io.Lock()
	defer l.io.Unlock()
	l.flush()
}

func (l *Log) flush() {
	l.mu.Lock()
	b := l.filling
	if len(b.list) == 0 {
		l.mu.Unlock()
		return
	}
	l.filling, l.idle = l.idle, b
	l.mu.Unlock()
	written, err := l.store.write(b.list)
	if err != nil {
		l.mu.Lock()
		for i := range b.list[written:] {
			l.lost += b.list[written+i].count
		}
		l.mu.Unlock()
	}
	b.reset()
	switch {
	case err != nil && l.failure == nil:
		l.log.Warn("flows are not recorded", "error", err)
	case err == nil && l.failure != nil:
		l.log.Info("flows are recorded again")
	}
	l.failure = err
}

// Close writes down what is left.
func (l *Log) Close() error {
	l.io.Lock()
	defer l.io.Unlock()
	l.flush()
	return errors.Join(l.failure, l.store.close())
}

// Scan visits the records whose last decision was not before a time, oldest first,
// those that were just taken up included. A record is valid during its visit, its
// ends and its rule for longer. Scan returns how many bytes of the log are damaged,
// or of another version, and were left out.
func (l *Log) Scan(since time.Time, visit func(*Record)) (damaged int64, err error) {
	l.io.Lock()
	l.flush()
	present := l.store.present()
	l.io.Unlock()
	return scan(present, since.UnixMilli(), visit)
}

// Stats tell how the log does.
type Stats struct {
	Bytes, MaxBytes int64
	Decisions       uint64 // taken up since Open
	Lost            uint64 // of these, not written
	Failure         error  // of the last write
}

// Stats returns the present figures.
func (l *Log) Stats() Stats {
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{Bytes: l.store.size(), MaxBytes: l.store.maxBytes, Decisions: l.total, Lost: l.lost, Failure: l.failure}
}
