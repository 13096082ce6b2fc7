// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"cilium.local/cilium/internal/identity"
)

// Load reads the endpoints of the previous run, claims their addresses and
// adopts their identities and policy numbers; it does not touch the kernel. Those
// whose device is gone, and those that were being made or removed, are cleaned up.
// It returns the endpoints that live on. Call it once, before Run; then write
// their policies, and call Resume.
func (m *Manager) Load(ctx context.Context) ([]Endpoint, error) {
	saved, bad, err := m.files.load()
	if err != nil {
		return nil, err
	}
	for _, b := range bad {
		m.log.Error("endpoint is not restored and stays closed", "error", b)
	}
	m.loadLastID(saved)
	for _, e := range saved {
		index, err := m.with.Devices.Index(e.Device.HostName)
		if err == nil && restorable(e.State) {
			e.Device.IfIndex = index
			m.adopt(e)
			continue
		}
		m.log.Info("endpoint of the previous run is gone", "endpoint", e.ID, "state", e.State, "device", e.Device.HostName)
		_, err = m.tearDown(ctx, *e)
		if err = errors.Join(err, m.files.remove(e.ID)); err != nil {
			m.log.Warn("clean up endpoint of the previous run", "endpoint", e.ID, "error", err)
		}
	}
	return m.List(), nil
}

func restorable(s State) bool {
	return s != StateCreating && s != StateDisconnecting && s != StateDisconnected
}

func (m *Manager) loadLastID(saved []*Endpoint) {
	if data, err := os.ReadFile(m.lastIDFile()); err == nil {
		if id, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 16); err == nil {
			m.lastID = uint16(id)
			return
		}
	}
	for _, e := range saved {
		m.lastID = max(m.lastID, e.ID)
	}
}

// adopt registers a saved endpoint with its collaborators.
func (m *Manager) adopt(e *Endpoint) {
	e.State = ""
	_, _ = e.enter(e.Created, StateRestoring, CodeOK, "agent started")
	if _, _, err := m.with.Addresses.Claim(e.Owner(), e.IPv4, e.IPv6); err != nil {
		m.log.Warn("endpoint keeps an address that the node no longer gives out", "endpoint", e.ID, "error", err)
	}
	id := identity.Identity{ID: e.Identity, Labels: e.IdentityLabels}
	if err := m.with.Identities.Adopt(id); err != nil {
		m.log.Warn("endpoint is closed until it has an identity again", "endpoint", e.ID, "error", err)
		e.Identity, e.IdentityLabels, e.PolicyID = identity.Init, initLabels(), 0
	}
	if e.PolicyID != 0 {
		number, err := m.with.Policies.Adopt(id, e.PolicyID)
		if err != nil {
			m.log.Error("endpoint is closed", "endpoint", e.ID, "error", err)
		}
		e.PolicyID = number
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries[e.ID] = &entry{ep: e}
}

// Resume connects the loaded endpoints again, without detaching anything, and
// returns the failures; an endpoint that fails is not-ready and stays closed or
// as the kernel has it.
func (m *Manager) Resume(ctx context.Context) error {
	var errs []error
	for _, e := range m.List() {
		if e.State != StateRestoring {
			continue
		}
		if err := m.resume(ctx, e.ID); err != nil {
			errs = append(errs, fmt.Errorf("restore endpoint %d: %w", e.ID, err))
		}
	}
	m.Kick()
	return errors.Join(errs...)
}

func (m *Manager) resume(ctx context.Context, id uint16) error {
	ent, err := m.lock(id)
	if err != nil {
		return err
	}
	defer ent.op.Unlock()
	e := m.update(ent, func(*Endpoint) {})
	err = m.with.Datapath.Publish(ctx, e)
	if err == nil {
		err = m.with.Datapath.Attach(e)
	}
	if err != nil {
		m.enter(ent, StateWaitingToRegenerate, CodeOK, "restored")
		m.enter(ent, StateRegenerating, CodeOK, "kernel state written")
		m.save(m.enter(ent, StateNotReady, CodeFailed, err.Error()))
		return err
	}
	m.finish(ent)
	return nil
}
