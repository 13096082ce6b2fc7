// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// State is the condition of the store in one word.
type State string

// The states of a store.
const (
	StateOK      State = "Ok"
	StateFailure State = "Failure"
)

// Status is the condition of the store and an explanation for people.
type Status struct {
	State State
	Msg   string
}

// retryEvery is the time between health checks of an unreachable store.
const retryEvery = 500 * time.Millisecond

// health is what the last check of the store found.
type health struct {
	now chan struct{} // asks for a check at once

	mu       sync.Mutex
	err      error
	since    time.Time
	cluster  uint64
	revision int64
	replaced chan struct{} // closed when the store lost its past, then made anew
}

func (h *health) init() {
	h.now = make(chan struct{}, 1)
	h.replaced = make(chan struct{})
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

func (h *health) past() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.replaced
}

// Status returns what the last health check found.
func (s *Store) Status() Status {
	h := &s.health
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return Status{StateFailure, fmt.Sprintf("%s since %s: %v", s.name, h.since.Format(time.RFC3339), h.err)}
	}
	return Status{StateOK, fmt.Sprintf("%s, revision %d", s.name, h.revision)}
}

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

// probe asks the store for one key and books the answer. The key need not exist.
func (s *Store) probe(ctx context.Context) {
	seen := s.health.seen()
	limited, cancel := context.WithTimeout(ctx, min(s.cfg.RequestTimeout, 2*time.Second))
	resp, err := s.client.Get(limited, "cilium/health", clientv3.WithCountOnly())
	cancel()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		s.health.failed(s, fmt.Errorf("%w: %w", ErrUnreachable, err))
		return
	}
	s.health.answered(s, resp.Header.ClusterId, resp.Header.Revision, seen)
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

// answered books a good answer. A store with another cluster number, or with an
// older revision than was seen before the question, lost its past: it was
// restored or replaced, so watches start over and the lease, which it may not
// know, is checked.
func (h *health) answered(s *Store, cluster uint64, revision, seen int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		s.log.Info("key-value store answers again", "store", s.name, "after", time.Since(h.since))
		h.since = time.Now()
		s.leases.kick()
	}
	lostPast := h.cluster != 0 && (h.cluster != cluster || revision < seen)
	if lostPast {
		s.log.Warn("key-value store was replaced or restored from a backup, everything is read again", "store", s.name)
		close(h.replaced)
		h.replaced = make(chan struct{})
		s.leases.kick()
	}
	h.err, h.cluster = nil, cluster
	if lostPast || revision > h.revision {
		h.revision = revision
	}
}

// saw books a revision that an answer of the store bore.
func (h *health) saw(revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revision = max(h.revision, revision)
}

func (h *health) seen() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.revision
}

// unreachable reports whether the error means that no answer came.
func unreachable(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return errors.Is(err, context.DeadlineExceeded)
}
