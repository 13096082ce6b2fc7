// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Delete removes an endpoint and everything that was made for it, in reverse
// order of its creation. It goes on after a failed step, so that an endpoint
// never half remains, and returns all failures. An unknown endpoint is ErrNotFound.
func (m *Manager) Delete(ctx context.Context, id uint16) error {
	ent, err := m.lock(id)
	if err != nil {
		return err
	}
	defer ent.op.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	e := m.enter(ent, StateDisconnecting, CodeOK, "deletion requested")
	m.save(e)
	withdrawn, err := m.tearDown(ctx, e)
	if withdrawn != nil {
		m.keptPolicy(e, withdrawn)
		e.PolicyID = 0
	}
	m.letGo(ctx, e)
	m.with.Addresses.Release(e.Owner(), e.Addresses()...)
	err = errors.Join(err, m.files.remove(id))
	m.enter(ent, StateDisconnected, CodeOK, "removed")
	m.forget(id)
	m.log.Info("endpoint removed", "endpoint", id, "identity", e.Identity)
	if err != nil {
		return fmt.Errorf("endpoint %d is removed, but: %w", id, err)
	}
	return nil
}

// tearDown removes the device and what the kernel knows of the endpoint. The
// device goes first, and keeps its programs if it stays: without them it would be open.
// It returns all failures, and of them by itself why the kernel's rows may remain.
func (m *Manager) tearDown(ctx context.Context, e Endpoint) (withdrawn, all error) {
	var errs []error
	note := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	gone := m.with.Devices.Delete(e)
	note("delete device "+e.Device.HostName, gone)
	if gone == nil {
		note("detach programs", m.with.Datapath.Detach(e))
	}
	withdrawn = m.with.Datapath.Withdraw(ctx, e)
	note("withdraw from the kernel", withdrawn)
	for _, addr := range e.Addresses() {
		note("forget flows of "+addr.String(), m.with.Datapath.Flush(addr))
	}
	return withdrawn, errors.Join(errs...)
}

// keptPolicy says that a policy stays in use until the agent restarts, because rows
// that could not be withdrawn may name it: its number must not become another's.
func (m *Manager) keptPolicy(e Endpoint, cause error) {
	m.log.Error("a policy stays until the agent restarts: the kernel may still have rows that name it",
		"endpoint", e.ID, "policy", e.PolicyID, "identity", e.Identity, "error", cause)
}

// DeleteAll removes every endpoint that match selects and returns how many.
func (m *Manager) DeleteAll(ctx context.Context, match func(Endpoint) bool) (int, error) {
	var errs []error
	n := 0
	for _, e := range m.List() {
		if !match(e) {
			continue
		}
		if err := m.Delete(ctx, e.ID); err != nil && !errors.Is(err, ErrNotFound) {
			errs = append(errs, err)
		}
		n++
	}
	return n, errors.Join(errs...)
}

// WaitRevision returns once every endpoint has realized the revision, or with
// the context's error.
func (m *Manager) WaitRevision(ctx context.Context, revision uint64) error {
	tick := time.NewTicker(waitTick)
	defer tick.Stop()
	for {
		behind := m.behind(revision)
		if len(behind) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("endpoints %v have not realized policy revision %d: %w", behind, revision, ctx.Err())
		case <-tick.C:
		}
	}
}

// waitTick is how often WaitRevision looks, a fraction of what an import takes.
const waitTick = 2 * time.Millisecond

func (m *Manager) behind(revision uint64) (ids []uint16) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for id, ent := range m.entries {
		if ent.ep.PolicyRevision < revision && ent.ep.State != StateDisconnecting && ent.ep.State != StateCreating {
			ids = append(ids, id)
		}
	}
	return ids
}
