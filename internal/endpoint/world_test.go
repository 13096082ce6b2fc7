// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
)

// world plays all collaborators. It writes down every call, and fails those
// that a test names in broken.
type world struct {
	mu      sync.Mutex
	calls   []string
	broken  map[string]error
	once    bool           // a broken call fails only once
	held    map[string]int // what is in use: addresses, identities, policies, devices, rows
	devices map[string]int
	numbers map[string]identity.ID
	wanted  map[uint16]endpoint.Endpoint // staged rows, which also a failed Publish leaves
	nextIP  int
	lookups error // of every look for a device
}

func newWorld() *world {
	return &world{
		broken: map[string]error{}, held: map[string]int{}, devices: map[string]int{},
		numbers: map[string]identity.ID{initLabels: identity.Init}, wanted: map[uint16]endpoint.Endpoint{},
	}
}

// call notes a call and returns the error that the test wants for it.
func (w *world) call(name, format string, args ...any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, strings.TrimSpace(name+" "+fmt.Sprintf(format, args...)))
	err := w.broken[name]
	if w.once {
		delete(w.broken, name)
	}
	return err
}

func (w *world) hold(what string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[what] += n; w.held[what] == 0 {
		delete(w.held, what)
	}
}

func (w *world) breakCall(name string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken[name] = err
}

func (w *world) takeCalls() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.Join(w.calls, "\n")
	w.calls = nil
	return text
}

func (w *world) leftovers() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held
}

func (w *world) Claim(owner string, v4, v6 netip.Addr) (netip.Addr, netip.Addr, error) {
	if err := w.call("claim", "%s", owner); err != nil {
		return v4, v6, err
	}
	if !v4.IsValid() && !v6.IsValid() {
		w.mu.Lock()
		w.nextIP++
		v4 = netip.AddrFrom4([4]byte{10, 15, 0, byte(w.nextIP)})
		w.mu.Unlock()
	}
	w.hold("address "+v4.String(), 1)
	return v4, v6, nil
}

func (w *world) addressRelease(owner string, addrs ...netip.Addr) {
	_ = w.call("unclaim", "%s %v", owner, addrs)
	for _, a := range addrs {
		w.hold("address "+a.String(), -1)
	}
}

const initLabels = "reserved:init=;"

func (w *world) Allocate(_ context.Context, labels label.Set) (identity.ID, error) {
	name := "allocate"
	if labels[0].Source == label.SourceReserved {
		name = "allocate-reserved"
	}
	if err := w.call(name, "%s", labels); err != nil {
		return 0, err
	}
	w.hold("identity "+labels.String(), 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	key := labels.Key()
	if w.numbers[key] == 0 {
		w.numbers[key] = identity.ID(1000 + len(w.numbers))
	}
	return w.numbers[key], nil
}

func (w *world) Release(_ context.Context, labels label.Set) error {
	w.hold("identity "+labels.String(), -1)
	return w.call("release", "%s", labels)
}

func (w *world) Adopt(id identity.Identity) error {
	w.hold("identity "+id.Labels.String(), 1)
	return w.call("adopt", "%s", id.Labels)
}

func (w *world) Create(e endpoint.Endpoint) (int, error) {
	d := e.Device
	if err := w.call("device", "%s", d.HostName); err != nil {
		return 0, err
	}
	w.hold("device "+d.HostName, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.devices[d.HostName] = 40 + len(w.devices)
	return w.devices[d.HostName], nil
}

func (w *world) Configure(e endpoint.Endpoint) error {
	return w.call("configure", "%s", e.Device.NetNS)
}

func (w *world) Delete(e endpoint.Endpoint) error {
	w.mu.Lock()
	_, exists := w.devices[e.Device.HostName]
	delete(w.devices, e.Device.HostName)
	w.mu.Unlock()
	if exists {
		w.hold("device "+e.Device.HostName, -1)
	}
	return w.call("delete-device", "%s", e.Device.HostName)
}

func (w *world) Index(hostName string) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if index, ok := w.devices[hostName]; ok {
		return index, nil
	}
	return 0, errors.New("no such device")
}

func (w *world) Exists(ifindex int) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(slices.Collect(maps.Values(w.devices)), ifindex), w.lookups
}

func (w *world) Publish(_ context.Context, e endpoint.Endpoint) error {
	w.mu.Lock()
	w.wanted[e.ID] = e
	w.mu.Unlock()
	return w.call("publish", "identity %d policy %d", e.Identity, e.PolicyID)
}
func (w *world) Withdraw(_ context.Context, e endpoint.Endpoint) error {
	w.mu.Lock()
	delete(w.wanted, e.ID)
	w.mu.Unlock()
	return w.call("withdraw", "%d", e.ID)
}
func (w *world) Attach(e endpoint.Endpoint) error { return w.call("attach", "%s", e.Device.HostName) }
func (w *world) Detach(e endpoint.Endpoint) error { return w.call("detach", "%s", e.Device.HostName) }
func (w *world) Flush(a netip.Addr) error         { return w.call("flush", "%s", a) }

// book and engine give two collaborators their own method sets, where names meet.
type book struct{ *world }

func (b book) Release(owner string, addrs ...netip.Addr) { b.addressRelease(owner, addrs...) }

type engine struct{ w *world }

func (p engine) Acquire(_ context.Context, id identity.Identity) (uint32, uint64, error) {
	if err := p.w.call("policy", "%s", id.Labels); err != nil {
		return 0, 0, err
	}
	p.w.hold(fmt.Sprint("policy ", id.ID), 1)
	return uint32(id.ID) + 5000, 1, nil
}

func (p engine) Adopt(id identity.Identity, policyID uint32) (uint32, error) {
	p.w.hold(fmt.Sprint("policy ", id.ID), 1)
	return policyID, p.w.call("adopt-policy", "%d", policyID)
}

func (p engine) Release(id identity.ID) {
	p.w.hold(fmt.Sprint("policy ", id), -1)
	_ = p.w.call("drop-policy", "%d", id)
}

func (w *world) manager(t *testing.T, dir string) *endpoint.Manager {
	t.Helper()
	m, err := endpoint.New(endpoint.Config{
		Dir:      dir,
		HostName: func(id uint16) string { return fmt.Sprint("lxc", id) },
		PeerName: func(id uint16) string { return fmt.Sprint("tmp", id) },
		HostMAC:  net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 1500,
		Relevant: func(s label.Set) label.Set {
			return slices.DeleteFunc(slices.Clone(s), func(l label.Label) bool { return l.Key == "noise" })
		},
	}, endpoint.Collaborators{
		Addresses: book{w}, Identities: w, Policies: engine{w}, Devices: w, Datapath: w,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func labels(t *testing.T, texts ...string) label.Set {
	t.Helper()
	set, err := label.ParseSet(texts)
	if err != nil {
		t.Fatal(err)
	}
	return set
}
