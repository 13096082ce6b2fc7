// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
)

// Retry delays of endpoints whose identity or policy is still missing.
const (
	firstRetry = 100 * time.Millisecond
	maxRetry   = 5 * time.Second
)

func initLabels() label.Set { return label.Reserved("init") }

// unlabelled is the identity label of a workload that is known to have no
// relevant label: selectors need a set, and the store a key, that is not empty.
func unlabelled() label.Set {
	return label.NewSet(label.Label{Source: label.SourceUnspec, Key: "unlabelled"})
}

func checkLabels(labels label.Set) error {
	for _, l := range labels {
		if l.Source == label.SourceReserved {
			return fmt.Errorf("%w: label %s: source %q belongs to the agent", ErrInvalid, l, l.Source)
		}
	}
	return nil
}

// wanted returns the labels that the endpoint's identity should stand for.
func (m *Manager) wanted(e *Endpoint) label.Set {
	if !e.LabelsKnown {
		return initLabels()
	}
	all := label.NewSet(slices.Concat(e.Labels, e.UserLabels)...)
	if relevant := m.cfg.Relevant(all); len(relevant) > 0 {
		return relevant
	}
	return unlabelled()
}

func (m *Manager) pending(e *Endpoint) bool {
	return !m.wanted(e).Equal(e.IdentityLabels) || e.PolicyID == 0
}

// SetUserLabels replaces the labels that a person added to those of the
// workload. Otherwise it is as SetLabels.
func (m *Manager) SetUserLabels(ctx context.Context, id uint16, labels label.Set) error {
	return m.change(ctx, id, labels, func(e *Endpoint) { e.UserLabels = labels })
}

// SetLabels replaces the workload's labels, and with them its identity and
// policy. While the store cannot give the identity, the endpoint keeps the old
// one and waits; the error then is nil. It fails when the kernel refuses the
// policy: the endpoint is closed and retried.
func (m *Manager) SetLabels(ctx context.Context, id uint16, labels label.Set) error {
	return m.change(ctx, id, labels, func(e *Endpoint) { e.Labels, e.LabelsKnown = labels, true })
}

// SetContainer tells which container an endpoint belongs to, with its labels.
// Empty names leave the known ones.
func (m *Manager) SetContainer(ctx context.Context, id uint16, containerID, name string, labels label.Set) error {
	return m.change(ctx, id, labels, func(e *Endpoint) {
		if containerID != "" {
			e.External.ContainerID = containerID
		}
		if name != "" {
			e.External.ContainerName = name
		}
		e.Labels, e.LabelsKnown = labels, true
	})
}

// Note warns of something about an endpoint, in its status log and the agent's.
// An empty message says nothing.
func (m *Manager) Note(id uint16, message string) error {
	if message == "" {
		return nil
	}
	ent, err := m.lock(id)
	if err != nil {
		return err
	}
	defer ent.op.Unlock()
	var news bool
	e := m.update(ent, func(e *Endpoint) { news = e.note(time.Now(), CodeOK, message) })
	if news {
		m.log.Warn("endpoint", "endpoint", id, "container", e.External.ContainerName, "message", message)
		m.save(e)
	}
	return nil
}

// SetTraced has each packet of an endpoint reported, or no longer. It returns once
// the kernel does so.
func (m *Manager) SetTraced(ctx context.Context, id uint16, traced bool) error {
	ent, err := m.lock(id)
	if err != nil {
		return err
	}
	defer ent.op.Unlock()
	old := m.update(ent, func(*Endpoint) {})
	if old.Traced == traced {
		return nil
	}
	next := old
	next.Traced = traced
	if err := m.with.Datapath.Publish(ctx, next); err != nil {
		undo(ctx, []step{{undo: func(ctx context.Context) { _ = m.with.Datapath.Publish(ctx, old) }}})
		return fmt.Errorf("endpoint %d: %w", id, err)
	}
	m.save(m.update(ent, func(e *Endpoint) { e.Traced = traced }))
	return nil
}

func (m *Manager) change(ctx context.Context, id uint16, labels label.Set, apply func(*Endpoint)) error {
	if err := checkLabels(labels); err != nil {
		return err
	}
	ent, err := m.lock(id)
	if err != nil {
		return err
	}
	defer ent.op.Unlock()
	e := m.update(ent, apply)
	if !m.pending(&e) {
		if e.State == StateWaitingForIdentity && e.LabelsKnown {
			e = m.ready(ent, "labels known")
		}
		m.save(e)
		return nil
	}
	defer m.Kick() // for what is left to do
	return m.settle(ctx, ent)
}

// lock finds an endpoint and holds its operation lock.
func (m *Manager) lock(id uint16) (*entry, error) {
	m.mu.RLock()
	ent, ok := m.entries[id]
	m.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("%w: no endpoint %d", ErrNotFound, id)
	}
	ent.op.Lock()
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.entries[id] != ent {
		ent.op.Unlock()
		return nil, fmt.Errorf("%w: no endpoint %d", ErrNotFound, id)
	}
	return ent, nil
}

// settle moves an endpoint to the identity that its labels want: policy into
// the kernel first, then the endpoint's rows, then the old identity is let go.
func (m *Manager) settle(ctx context.Context, ent *entry) error {
	old := m.update(ent, func(*Endpoint) {})
	want := m.wanted(&old)
	id, err := m.allocate(ctx, want)
	if err != nil {
		m.save(m.enter(ent, StateWaitingForIdentity, CodeFailed, "identity: "+err.Error()))
		return nil //nolint:nilerr // the endpoint waits, and says so
	}
	policyID, revision, err := m.with.Policies.Acquire(ctx, identity.Identity{ID: id, Labels: want})
	if err != nil {
		_, err = m.lockDown(ctx, ent, want, err)
		return err
	}
	next := old
	next.Identity, next.IdentityLabels, next.PolicyID = id, want, policyID
	if err := m.with.Datapath.Publish(ctx, next); err != nil {
		closed, err := m.lockDown(ctx, ent, want, err)
		if closed {
			m.with.Policies.Release(id)
		} else {
			m.keptPolicy(next, err)
		}
		return err
	}
	m.update(ent, func(e *Endpoint) {
		e.Identity, e.IdentityLabels, e.PolicyID, e.PolicyRevision = id, want, policyID, revision
	})
	m.letGo(ctx, old)
	m.save(m.ready(ent, "identity "+strconv.Itoa(int(id))))
	m.log.Info("endpoint identified", "endpoint", old.ID, "identity", id, "was", old.Identity, "labels", want.String())
	return nil
}

// letGo ends the use of the identity and policy in e.
func (m *Manager) letGo(ctx context.Context, e Endpoint) {
	if e.PolicyID != 0 {
		m.with.Policies.Release(e.Identity)
	}
	if err := m.with.Identities.Release(ctx, e.IdentityLabels); err != nil {
		m.log.Warn("release identity", "endpoint", e.ID, "identity", e.Identity, "error", err)
	}
}

// lockDown closes an endpoint whose new policy the kernel refused: the old one
// may allow what the new labels must not. It tells whether the kernel has it closed,
// and returns the cause with all that failed.
func (m *Manager) lockDown(ctx context.Context, ent *entry, want label.Set, cause error) (done bool, err error) {
	relErr := m.with.Identities.Release(ctx, want)
	old := m.update(ent, func(*Endpoint) {})
	closed := old
	closed.PolicyID = 0
	pubErr := m.with.Datapath.Publish(ctx, closed)
	if pubErr == nil && old.PolicyID != 0 {
		m.with.Policies.Release(old.Identity)
		m.update(ent, func(e *Endpoint) { e.PolicyID = 0 })
	}
	err = fmt.Errorf("endpoint %d is closed, its policy did not reach the kernel: %w", old.ID, cause)
	m.save(m.enter(ent, StateNotReady, CodeFailed, err.Error()))
	return pubErr == nil, errors.Join(err, pubErr, relErr)
}

// Revoke takes an identity from the endpoints that have it, since its number
// stands for other labels now: they are closed, and identified anew by Run. An
// endpoint that is getting the identity in this moment is waited for.
func (m *Manager) Revoke(ctx context.Context, lost identity.Identity) error {
	var errs []error
	for _, e := range m.List() {
		if !m.has(&e, lost) && !m.wanted(&e).Equal(lost.Labels) {
			continue
		}
		if ent, err := m.lock(e.ID); err == nil {
			if now := m.update(ent, func(*Endpoint) {}); m.has(&now, lost) {
				errs = append(errs, m.revoke(ctx, ent))
			}
			ent.op.Unlock()
		}
	}
	m.Kick()
	return errors.Join(errs...)
}

func (m *Manager) has(e *Endpoint, id identity.Identity) bool {
	return e.Identity == id.ID && e.IdentityLabels.Equal(id.Labels)
}

func (m *Manager) revoke(ctx context.Context, ent *entry) error {
	old := m.update(ent, func(*Endpoint) {})
	closed := old
	closed.Identity, closed.IdentityLabels, closed.PolicyID = identity.Init, initLabels(), 0
	if err := m.with.Datapath.Publish(ctx, closed); err != nil {
		return fmt.Errorf("close endpoint %d: %w", old.ID, err)
	}
	if old.PolicyID != 0 {
		m.with.Policies.Release(old.Identity)
	}
	m.update(ent, func(e *Endpoint) {
		e.Identity, e.IdentityLabels, e.PolicyID = closed.Identity, closed.IdentityLabels, 0
	})
	m.save(m.enter(ent, StateWaitingForIdentity, CodeFailed, "identity "+strconv.Itoa(int(old.Identity))+" was given to other labels"))
	return nil
}

// Kick makes Run look for waiting endpoints soon, as when the store is back.
func (m *Manager) Kick() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run retries endpoints that wait for an identity or a policy until the context ends.
func (m *Manager) Run(ctx context.Context) error {
	delay := maxRetry
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
			delay = firstRetry
		case <-timer.C:
			if m.retry(ctx) == 0 {
				continue
			}
			delay = min(2*delay, maxRetry)
		}
		timer.Reset(delay)
	}
}

// retry settles every waiting endpoint once and returns how many still wait.
func (m *Manager) retry(ctx context.Context) (left int) {
	for _, e := range m.List() {
		if !m.pending(&e) || ctx.Err() != nil {
			continue
		}
		ent, err := m.lock(e.ID)
		if err != nil {
			continue
		}
		if now := m.update(ent, func(*Endpoint) {}); m.pending(&now) {
			if err := m.settle(ctx, ent); err != nil {
				m.log.Warn("endpoint retried", "endpoint", e.ID, "error", err)
			}
			if now = m.update(ent, func(*Endpoint) {}); m.pending(&now) {
				left++
			}
		}
		ent.op.Unlock()
	}
	return left
}
