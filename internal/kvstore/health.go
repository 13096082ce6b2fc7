// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// retryEvery is the time between health checks of an unreachable store.
const retryEvery = 500 * time.Millisecond

// health is what the last check of the store found. Durations are taken from
// readings of one process's steady clock, so setting the machine's time changes
// nothing.
type health struct {
	now   chan struct{} // asks for a check at once
	first chan struct{} // closed by the first answer

	mu       sync.Mutex
	err      error
	since    time.Time // of the state
	answer   time.Time // the last one
	cluster  uint64
	term     uint64 // of the store's leader
	revision int64
	witness  witness
	stream   int           // of the series that watches share
	replaced chan struct{} // closed when watches have to start over, then made anew
	lost     int           // how often the store lost its past
	past     chan struct{} // closed when it does, then made anew
}

// witness is a value that the store had from that revision on: a store that does
// not remember it is another one, or was restored from a backup.
type witness struct {
	key, value string
	revision   int64
}

func (h *health) init() {
	h.now = make(chan struct{}, 1)
	h.first = make(chan struct{})
	h.replaced, h.past = make(chan struct{}), make(chan struct{})
	h.since = time.Now()
}

func (h *health) wake() {
	select {
	case h.now <- struct{}{}:
	default:
	}
}

// failing returns why calls should not be tried, or nil.
func (h *health) failing() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// watching returns the number of the stream that watches use, and what is closed
// when they have to start over.
func (h *health) watching() (stream int, over <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stream, h.replaced
}

// leave has all watches start over on a new stream: the store does not accept the
// token by which the old one was opened.
func (h *health) leave(stream int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stream == stream {
		h.stream++
		close(h.replaced)
		h.replaced = make(chan struct{})
	}
}

func (h *health) losses() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost
}

// PastLost returns a channel that is closed when the store loses its past after
// the call: what this process wrote without a lease may be gone, while watches
// still wait for others to store theirs again.
func (s *Store) PastLost() <-chan struct{} {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	return s.health.past
}

// Answered returns a channel that is closed once the store has answered. Until
// then nothing is known of what it holds.
func (s *Store) Answered() <-chan struct{} { return s.health.first }

// watchHealth checks the store until ctx ends.
func (s *Store) watchHealth(ctx context.Context) {
	for {
		wait := s.cfg.ProbeEvery
		if s.health.failing() != nil {
			wait = retryEvery
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-s.health.now:
			timer.Stop()
		}
		s.probe(ctx)
	}
}

// watchConnection has the store checked as soon as a connection to it breaks.
func (s *Store) watchConnection(ctx context.Context) {
	conn := s.client.ActiveConnection()
	for state := conn.GetState(); conn.WaitForStateChange(ctx, state); {
		if state = conn.GetState(); state != connectivity.Ready && s.health.failing() == nil {
			s.health.wake()
		}
	}
}

// probe asks the store for one key and books the answer. The key need not exist.
// Where the answer could be that of a store which lost its past, it asks for the
// witness, too.
func (s *Store) probe(ctx context.Context) {
	before := s.health.seen()
	limited, cancel := context.WithTimeout(ctx, min(s.cfg.RequestTimeout, 2*time.Second))
	defer cancel()
	limited = clientv3.WithRequireLeader(limited)
	resp, err := s.client.Get(limited, "cilium/health", clientv3.WithCountOnly())
	same := unknownPast
	if err == nil {
		if same = before.compare(resp.Header.ClusterId, resp.Header.RaftTerm, resp.Header.Revision); same == unknownPast {
			same, err = s.hear(limited, before.witness)
		}
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		s.health.failed(s, fmt.Errorf("%w: %w", ErrUnreachable, s.explain(err)))
	default:
		s.health.answered(s, resp.Header.ClusterId, resp.Header.RaftTerm, resp.Header.Revision, same)
		stream, _ := s.health.watching()
		s.watchers.progress(ctx, s.client, stream, resp.Header.Revision)
	}
}

// past is what is known about the past of a store that answers.
type past int

const (
	unknownPast past = iota // it cannot be told
	samePast
	otherPast
)

// seen is the part of health that an answer is compared with.
type seen struct {
	failed        bool
	cluster, term uint64
	revision      int64
	witness       witness
}

func (h *health) seen() seen {
	h.mu.Lock()
	defer h.mu.Unlock()
	return seen{failed: h.err != nil, cluster: h.cluster, term: h.term, revision: h.revision, witness: h.witness}
}

// compare tells by the numbers in an answer whether the store has the past that
// was seen. A leader of the same term without an outage in between is proof.
func (b seen) compare(cluster, term uint64, revision int64) past {
	switch {
	case b.cluster == 0:
		return samePast
	case b.cluster != cluster, revision < b.revision, term < b.term:
		return otherPast
	case b.failed, term != b.term:
		return unknownPast
	}
	return samePast
}

// hear asks whether the store remembers the witness.
func (s *Store) hear(ctx context.Context, w witness) (past, error) {
	if w.revision == 0 {
		return unknownPast, nil
	}
	resp, err := s.client.Get(ctx, w.key, clientv3.WithRev(w.revision))
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return unknownPast, nil
	case errors.Is(err, rpctypes.ErrFutureRev):
		return otherPast, nil
	case err != nil:
		return unknownPast, err
	case len(resp.Kvs) == 1 && resp.Kvs[0].ModRevision == w.revision && string(resp.Kvs[0].Value) == w.value:
		return samePast, nil
	}
	return otherPast, nil
}

func (h *health) failed(s *Store, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.since = time.Now()
		s.log.Warn("key-value store does not answer, will be retried", "store", s.name, "error", err)
	}
	h.err = err
}

// answered books a good answer. A store that lost its past was restored or
// replaced, so watches start over, and the lease and its keys are made anew. If
// that cannot be told, watches start over, too, and the keys are looked at.
func (h *health) answered(s *Store, cluster, term uint64, revision int64, same past) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cluster == 0 {
		close(h.first)
	}
	if h.err != nil {
		s.log.Info("key-value store answers again", "store", s.name, "after", time.Since(h.since))
		h.since = time.Now()
		s.leases.doubt()
		s.leases.kick()
	}
	switch same {
	case otherPast:
		s.log.Warn("key-value store was replaced or restored from a backup, everything is read again", "store", s.name)
		s.leases.retire()
		h.revision, h.witness = 0, witness{}
		h.lost++
		close(h.past)
		h.past = make(chan struct{})
	case unknownPast:
		s.leases.doubt()
		s.leases.kick()
	}
	if same != samePast {
		close(h.replaced)
		h.replaced = make(chan struct{})
	}
	h.err, h.cluster, h.term, h.answer = nil, cluster, term, time.Now()
	h.revision = max(h.revision, revision)
}

// saw books a revision that an answer of the store bore.
func (h *health) saw(revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revision = max(h.revision, revision)
	h.answer = time.Now()
}

// wrote books a value that the store has, ours or another's.
func (h *health) wrote(w witness) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.revision > h.witness.revision {
		h.witness = w
	}
}

// unreachable reports whether the error means that no answer came, or that the
// store cannot decide at present.
func unreachable(err error) bool {
	var refused rpctypes.EtcdError
	if errors.As(err, &refused) {
		return refused.Code() == codes.Unavailable
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return errors.Is(err, context.DeadlineExceeded)
}
