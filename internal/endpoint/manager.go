// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cilium.local/cilium/internal/label"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("endpoint not found")
	ErrConflict = errors.New("endpoint exists")
	ErrInvalid  = errors.New("invalid endpoint request")
)

// Config is what a Manager needs to know about the node.
type Config struct {
	// Dir holds one file per endpoint; it is created when missing.
	Dir string
	// HostName and PeerName name the ends of an endpoint's pair; the peer's name
	// holds until the container end is moved and renamed.
	HostName, PeerName func(id uint16) string
	// HostMAC is the address of every host end, which workloads use as gateway.
	HostMAC net.HardwareAddr
	// MTU of the devices, in bytes.
	MTU int
	// Relevant picks the labels that make up the identity.
	Relevant func(label.Set) label.Set
	// IdentityTimeout bounds how long a creation waits for the store before
	// the endpoint goes on with identity init, closed. Zero means 2 s.
	IdentityTimeout time.Duration
}

// Collaborators do the work of the steps.
type Collaborators struct {
	Addresses  Addresses
	Identities Identities
	Policies   Policies
	Devices    Devices
	Datapath   Datapath
}

// Manager owns all endpoints of the node. It is safe for concurrent use;
// operations on one endpoint happen one after the other, on different endpoints
// at the same time.
type Manager struct {
	cfg   Config
	with  Collaborators
	files files
	log   *slog.Logger
	wake  chan struct{}

	mu       sync.RWMutex
	entries  map[uint16]*entry
	lastID   uint16
	realized uint64
}

// entry guards one endpoint: op is held during an operation, Manager.mu while
// ep is read or written.
type entry struct {
	op sync.Mutex
	ep *Endpoint
}

// New returns a Manager without endpoints and makes its directory.
func New(cfg Config, with Collaborators, log *slog.Logger) (*Manager, error) {
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("make endpoint directory: %w", err)
	}
	cfg.IdentityTimeout = cmp.Or(cfg.IdentityTimeout, 2*time.Second)
	return &Manager{
		cfg: cfg, with: with, files: files{dir: cfg.Dir}, log: log,
		wake: make(chan struct{}, 1), entries: map[uint16]*entry{},
	}, nil
}

// List returns all endpoints by number.
func (m *Manager) List() []Endpoint {
	m.mu.RLock()
	defer m.mu.RUnlock()
	all := make([]Endpoint, 0, len(m.entries))
	for _, ent := range m.entries {
		all = append(all, ent.ep.clone())
	}
	slices.SortFunc(all, func(a, b Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Get returns the endpoint with the number, or ErrNotFound.
func (m *Manager) Get(id uint16) (Endpoint, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if ent, ok := m.entries[id]; ok {
		return ent.ep.clone(), nil
	}
	return Endpoint{}, fmt.Errorf("%w: no endpoint %d", ErrNotFound, id)
}

// Lookup finds an endpoint by a bare number or by container-id:, container-name:,
// docker-endpoint:, pod-name:namespace:name, ipv4: or ipv6:. Container ids may be
// shortened to 8 characters or more. It fails with ErrInvalid or ErrNotFound.
func (m *Manager) Lookup(ref string) (Endpoint, error) {
	match, err := matcher(ref)
	if err != nil {
		return Endpoint{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, ent := range m.entries {
		if match(ent.ep) {
			return ent.ep.clone(), nil
		}
	}
	return Endpoint{}, fmt.Errorf("%w: no endpoint %q", ErrNotFound, ref)
}

func matcher(ref string) (func(*Endpoint) bool, error) {
	kind, value, prefixed := strings.Cut(ref, ":")
	if !prefixed {
		kind, value = "cilium-local", ref
	}
	if value == "" {
		return nil, fmt.Errorf("%w: %q names nothing", ErrInvalid, ref)
	}
	switch kind {
	case "cilium-local":
		id, err := strconv.ParseUint(value, 10, 16)
		if err != nil || id == 0 {
			return nil, fmt.Errorf("%w: %q is no endpoint number from 1 to 65535", ErrInvalid, value)
		}
		return func(e *Endpoint) bool { return uint64(e.ID) == id }, nil
	case "container-id":
		return func(e *Endpoint) bool { return sameContainer(e.External.ContainerID, value) }, nil
	case "container-name":
		return func(e *Endpoint) bool { return e.External.ContainerName == value }, nil
	case "docker-endpoint":
		return func(e *Endpoint) bool { return e.External.DockerEndpointID == value }, nil
	case "pod-name":
		namespace, name, _ := strings.Cut(value, ":")
		return func(e *Endpoint) bool {
			return e.External.PodName == name && e.External.PodNamespace == namespace
		}, nil
	case "ipv4", "ipv6":
		return addressMatcher(kind, value)
	}
	return nil, fmt.Errorf("%w: %q: use a number or container-id:, container-name:, docker-endpoint:, "+
		"pod-name:, ipv4: or ipv6: and a value", ErrInvalid, ref)
}

func addressMatcher(kind, value string) (func(*Endpoint) bool, error) {
	addr, err := netip.ParseAddr(value)
	if err != nil || addr.Is4() != (kind == "ipv4") {
		return nil, fmt.Errorf("%w: %q is no %s address", ErrInvalid, value, kind)
	}
	return func(e *Endpoint) bool { return e.IPv4 == addr || e.IPv6 == addr }, nil
}

// minShortID is the shortest container id prefix that Lookup accepts.
const minShortID = 8

func sameContainer(full, wanted string) bool {
	return full == wanted || len(wanted) >= minShortID && strings.HasPrefix(full, wanted)
}

// Realized tells that the policies of all identities in use are in the kernel
// for the given rule revision.
func (m *Manager) Realized(revision uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.realized = max(m.realized, revision)
	for _, ent := range m.entries {
		if ent.ep.PolicyID == 0 {
			continue
		}
		ent.ep.PolicyRevision = max(ent.ep.PolicyRevision, revision)
		m.recover(ent.ep)
	}
}

// recover leads an endpoint whose build failed back to ready.
func (m *Manager) recover(e *Endpoint) {
	if e.State != StateNotReady || m.pending(e) {
		return
	}
	now := time.Now()
	for _, s := range []State{StateWaitingToRegenerate, StateRegenerating, StateReady} {
		_, _ = e.enter(now, s, CodeOK, "policy realized")
	}
}

// Failed tells that the kernel refused a new policy; endpoints keep the one
// they have, and say so.
func (m *Manager) Failed(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ent := range m.entries {
		if ent.ep.State == StateReady {
			_, _ = ent.ep.enter(time.Now(), StateNotReady, CodeFailed, err.Error())
		}
	}
}

// update changes an endpoint and returns a copy of the result.
func (m *Manager) update(ent *entry, change func(*Endpoint)) Endpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(ent.ep)
	if ent.ep.PolicyID != 0 {
		ent.ep.PolicyRevision = max(ent.ep.PolicyRevision, m.realized)
	}
	return ent.ep.clone()
}

// enter moves an endpoint to a state; a transition the table forbids is logged.
func (m *Manager) enter(ent *entry, to State, code Code, message string) Endpoint {
	var news bool
	var err error
	e := m.update(ent, func(e *Endpoint) { news, err = e.enter(time.Now(), to, code, message) })
	if err != nil {
		m.log.Error("endpoint state", "error", err)
	}
	level := slog.LevelDebug
	if code == CodeFailed && news {
		level = slog.LevelWarn
	}
	m.log.Log(context.Background(), level, "endpoint state", "endpoint", e.ID, "state", to, "message", message)
	return e
}

// save writes the endpoint's file; a failure is logged, since the endpoint works.
func (m *Manager) save(e Endpoint) {
	if err := m.files.save(&e); err != nil {
		m.log.Error("endpoint would be lost at a restart of the agent", "error", err)
	}
}

// freeID returns an unused number after the last one given, so that a number is
// not used again at once. The caller holds mu.
func (m *Manager) freeID() (uint16, error) {
	id := m.lastID
	for range 65535 {
		id++
		if id == 0 {
			id = 1
		}
		if _, used := m.entries[id]; !used {
			m.lastID = id
			if err := WriteFile(m.lastIDFile(), []byte(strconv.Itoa(int(id))), false); err != nil {
				m.log.Warn("endpoint numbers may repeat after a restart", "error", err)
			}
			return id, nil
		}
	}
	return 0, errors.New("all 65535 endpoint numbers are in use")
}

func (m *Manager) lastIDFile() string { return filepath.Join(m.cfg.Dir, "last-id") }
