// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
)

// undoTimeout bounds the clean-up after a failed or abandoned step.
const undoTimeout = 5 * time.Second

// step is one part of a creation. A do that fails leaves nothing to undo. undo may
// be nil.
type step struct {
	name string
	do   func(context.Context) error
	undo func(context.Context)
}

// perform runs the steps in order. When one fails, those before it are undone
// in reverse, also when the caller has gone away meanwhile.
func perform(ctx context.Context, steps []step) error {
	for i, s := range steps {
		err := s.do(ctx)
		if err == nil {
			continue
		}
		undo(ctx, steps[:i])
		return fmt.Errorf("%s: %w", s.name, err)
	}
	return nil
}

func undo(ctx context.Context, done []step) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for _, s := range slices.Backward(done) {
		if s.undo != nil {
			s.undo(ctx)
		}
	}
}

// together is two lists of steps as one step: both run at the same time, because
// most of what they do is wait for the kernel or the store. When one list fails,
// the other is undone too.
func together(a, b []step) step {
	return step{
		name: "policy and device",
		do: func(ctx context.Context) error {
			other := make(chan error, 1)
			go func() { other <- perform(ctx, b) }()
			errA := perform(ctx, a)
			errB := <-other
			if errA != nil && errB == nil {
				undo(ctx, b)
			}
			if errB != nil && errA == nil {
				undo(ctx, a)
			}
			return errors.Join(errA, errB)
		},
		undo: func(ctx context.Context) {
			undo(ctx, b)
			undo(ctx, a)
		},
	}
}

// Create makes an endpoint and returns when it is connected: ready, or
// waiting-for-identity and closed when the labels are unknown or the store
// cannot give an identity now. It fails with ErrConflict when the number, a
// name or an address is taken; then nothing of the endpoint remains.
func (m *Manager) Create(ctx context.Context, spec Spec) (Endpoint, error) {
	if err := checkLabels(spec.Labels); err != nil {
		return Endpoint{}, err
	}
	ent, err := m.admit(spec)
	if errors.Is(err, ErrConflict) && m.RemoveGone(ctx) == nil {
		ent, err = m.admit(spec) // what is in the way may be gone
	}
	if err != nil {
		return Endpoint{}, err
	}
	defer ent.op.Unlock()
	id := ent.ep.ID
	if err := perform(ctx, m.creation(ent, spec)); err != nil {
		m.forget(id)
		return Endpoint{}, fmt.Errorf("create endpoint %d: %w", id, err)
	}
	e := m.finish(ent)
	m.log.Info("endpoint connected", "endpoint", e.ID, "state", e.State, "identity", e.Identity,
		"labels", e.IdentityLabels.String(), "ipv4", e.IPv4, "ipv6", e.IPv6, "device", e.Device.HostName)
	return e, nil
}

// admit registers the endpoint, which reserves its number and names, and
// returns it locked.
func (m *Manager) admit(spec Spec) (*entry, error) {
	mac, err := newMAC(spec.MAC)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ent := range m.entries {
		if what := ent.ep.clash(spec); what != "" {
			return nil, fmt.Errorf("%w: %s belongs to endpoint %d", ErrConflict, what, ent.ep.ID)
		}
	}
	id := spec.ID
	if id == 0 {
		if id, err = m.freeID(); err != nil {
			return nil, err
		}
	}
	ent := &entry{ep: &Endpoint{
		ID: id, External: spec.External, Labels: spec.Labels, LabelsKnown: spec.LabelsKnown,
		IPv4: spec.IPv4, IPv6: spec.IPv6, Created: time.Now(),
		Device: Device{
			HostName: m.cfg.HostName(id), PeerName: m.cfg.PeerName(id), HostMAC: m.cfg.HostMAC, MAC: mac,
			MTU: m.cfg.MTU, NetNS: spec.NetNS, ContainerIfName: spec.ContainerIfName,
		},
	}}
	_, _ = ent.ep.enter(time.Now(), StateCreating, CodeOK, "endpoint requested")
	ent.op.Lock()
	m.entries[id] = ent
	return ent, nil
}

// clash returns what of the spec the endpoint already has, or "".
func (e *Endpoint) clash(spec Spec) string {
	same := func(a, b string) bool { return a != "" && a == b }
	switch {
	case e.ID == spec.ID:
		return "the number"
	case same(e.External.DockerEndpointID, spec.External.DockerEndpointID):
		return "Docker endpoint " + e.External.DockerEndpointID
	case same(e.External.ContainerID, spec.External.ContainerID) &&
		e.Device.ContainerIfName == spec.ContainerIfName && e.External.DockerNetworkID == spec.External.DockerNetworkID:
		return "container " + e.External.ContainerID
	}
	for _, addr := range e.Addresses() {
		if addr == spec.IPv4 || addr == spec.IPv6 {
			return "address " + addr.String()
		}
	}
	return ""
}

func newMAC(wanted net.HardwareAddr) (net.HardwareAddr, error) {
	if wanted != nil {
		return wanted, nil
	}
	mac := make(net.HardwareAddr, 6)
	if _, err := rand.Read(mac); err != nil {
		return nil, fmt.Errorf("choose a MAC address: %w", err)
	}
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	return mac, nil
}

// creation lists the steps of a new endpoint, in the order that keeps it closed
// until its policy is in the kernel.
func (m *Manager) creation(ent *entry, spec Spec) []step {
	now := func() Endpoint { return m.update(ent, func(*Endpoint) {}) }
	named := false // the kernel's rows may name the policy
	withdraw := func(ctx context.Context) {
		err := m.with.Datapath.Withdraw(ctx, now())
		if named = err != nil; named {
			m.keptPolicy(now(), err)
		}
	}
	return []step{
		{
			name: "claim addresses",
			do:   func(context.Context) error { return m.claim(ent, spec) },
			undo: func(context.Context) { e := now(); m.with.Addresses.Release(e.Owner(), e.Addresses()...) },
		},
		{
			name: "save",
			do:   func(context.Context) error { e := now(); return m.files.save(&e) },
			undo: func(context.Context) { _ = m.files.remove(ent.ep.ID) },
		},
		// The programs drop everything from a device that no published endpoint has,
		// so the device may be made while the policy is on its way.
		together(
			[]step{
				{
					name: "choose identity",
					do:   func(ctx context.Context) error { return m.identify(ctx, ent) },
					undo: func(ctx context.Context) { _ = m.with.Identities.Release(ctx, now().IdentityLabels) },
				},
				{
					name: "put policy into the kernel",
					do:   func(ctx context.Context) error { return m.acquire(ctx, ent) },
					undo: func(context.Context) {
						if !named {
							m.with.Policies.Release(now().Identity)
						}
					},
				},
			},
			[]step{
				{
					name: "make device",
					do:   func(context.Context) error { return m.makeDevice(ent) },
					undo: func(context.Context) { m.undoDevice(now()) },
				},
				{name: "attach programs", do: func(context.Context) error { return m.with.Datapath.Attach(now()) }},
			},
		),
		{
			name: "publish",
			do: func(ctx context.Context) error {
				err := m.with.Datapath.Publish(ctx, now())
				if err != nil {
					undo(ctx, []step{{undo: withdraw}})
				}
				return err
			},
			undo: withdraw,
		},
		{name: "configure network", do: func(context.Context) error { return m.with.Devices.Configure(now()) }},
	}
}

func (m *Manager) claim(ent *entry, spec Spec) error {
	v4, v6, err := m.with.Addresses.Claim(ownerName(ent.ep.ID), spec.IPv4, spec.IPv6)
	if err == nil {
		m.update(ent, func(e *Endpoint) { e.IPv4, e.IPv6 = v4, v6 })
	}
	return err
}

// identify gives the endpoint the identity of its labels, or init when the
// labels are unknown or the store cannot answer in time.
func (m *Manager) identify(ctx context.Context, ent *entry) error {
	want := m.wanted(ent.ep)
	id, err := m.allocate(ctx, want)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		m.enter(ent, StateWaitingForIdentity, CodeFailed, "identity: "+err.Error())
		want = initLabels()
		if id, err = m.with.Identities.Allocate(ctx, want); err != nil {
			return err
		}
	}
	m.update(ent, func(e *Endpoint) { e.Identity, e.IdentityLabels = id, want })
	return nil
}

func (m *Manager) allocate(ctx context.Context, labels label.Set) (identity.ID, error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.IdentityTimeout)
	defer cancel()
	return m.with.Identities.Allocate(ctx, labels)
}

func (m *Manager) acquire(ctx context.Context, ent *entry) error {
	e := m.update(ent, func(*Endpoint) {})
	policyID, revision, err := m.with.Policies.Acquire(ctx, identity.Identity{ID: e.Identity, Labels: e.IdentityLabels})
	if err != nil {
		return err
	}
	m.update(ent, func(e *Endpoint) { e.PolicyID, e.PolicyRevision = policyID, revision })
	return nil
}

func (m *Manager) makeDevice(ent *entry) error {
	index, err := m.with.Devices.Create(m.update(ent, func(*Endpoint) {}))
	if err != nil {
		return err
	}
	m.update(ent, func(e *Endpoint) { e.Device.IfIndex = index })
	return nil
}

// undoDevice removes the device before its programs, so that there is no moment
// at which packets pass a device without them.
func (m *Manager) undoDevice(e Endpoint) {
	err := m.with.Devices.Delete(e)
	if err == nil {
		err = m.with.Datapath.Detach(e)
	}
	if err != nil {
		m.log.Warn("clean up after a failed endpoint", "endpoint", e.ID, "error", err)
	}
}

// finish leads a connected endpoint to its resting state and saves it.
func (m *Manager) finish(ent *entry) Endpoint {
	var pending bool
	e := m.update(ent, func(e *Endpoint) { pending = !e.LabelsKnown || m.pending(e) })
	if pending {
		e = m.enter(ent, StateWaitingForIdentity, waitingCode(&e), waiting(&e))
		m.Kick()
	} else {
		e = m.ready(ent, "connected with identity "+strconv.Itoa(int(ent.ep.Identity)))
	}
	m.save(e)
	return e
}

// waiting says why a connected endpoint waits: its labels are not known yet, or
// what kept it from their identity, which was logged last.
func waiting(e *Endpoint) string {
	const closed = "connected, closed with identity init"
	if waitingCode(e) == CodeFailed {
		return closed + " until it has one of its own: " + e.Log[len(e.Log)-1].Message
	}
	return closed
}

func waitingCode(e *Endpoint) Code {
	if e.State == StateWaitingForIdentity && e.Log[len(e.Log)-1].Code == CodeFailed {
		return CodeFailed
	}
	return CodeOK
}

// ready leads an endpoint whose policy is in the kernel through the states to ready.
func (m *Manager) ready(ent *entry, message string) Endpoint {
	if m.update(ent, func(*Endpoint) {}).State == StateReady {
		return m.enter(ent, StateReady, CodeOK, message)
	}
	m.enter(ent, StateWaitingToRegenerate, CodeOK, "identity and policy known")
	m.enter(ent, StateRegenerating, CodeOK, "kernel state written")
	return m.enter(ent, StateReady, CodeOK, message)
}

func (m *Manager) forget(id uint16) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, id)
}
