// SPDX-License-Identifier: Apache-2.0

// Package datapathtest asks the loaded BPF programs for decisions, without
// devices: the kernel runs them on crafted packets (BPF_PROG_TEST_RUN), and the
// answer is what they report. A question takes some microseconds, so that random
// policies and flows can be compared with other engines by the ten thousand.
//
//	k := datapathtest.New(t)
//	err := k.Apply(map[uint32]compile.Delta{2: compile.Whole(entries)})
//	err = k.Workload(app1, datapathtest.Workload{Identity: 300, Policy: 2})
//	err = k.Address(netip.MustParsePrefix("192.0.2.0/24"), 0x01000001)
//	answer, err := k.Ask(datapathtest.Question{Direction: policy.Ingress, Subject: app1, Peer: outside, Port: port})
//
// To go through many policies quickly, Apply them together under numbers of their
// own (even ones; odd ones for what is only audited), and then name one after the
// other with Workload: each Apply waits for a grace period of the kernel.
//
// A Kernel has maps of its own and needs root. It is not safe for concurrent use.
package datapathtest

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/datapath/carry"
	"cilium.local/cilium/internal/datapath/event"
	"cilium.local/cilium/internal/datapath/prog"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy/compile"
)

// Loopback is the interface that every packet comes by and every workload is at.
const Loopback = 1

// Kernel is the programs with maps of their own. Make it with New.
type Kernel struct {
	loaded   *prog.Loaded
	policies *bpfmap.Policies
	epochs   *bpfmap.Epochs
	flows    *bpfmap.Flows
	events   *event.Reader
	port     uint16 // that the next question comes from
}

// New loads the programs. The test is skipped without root.
func New(t testing.TB) *Kernel {
	t.Helper()
	loaded, err := prog.Load(BPFFS(t), prog.Constants{WorldIPv4: identity.WorldIPv4, WorldIPv6: identity.WorldIPv6},
		prog.Sizes{
			Endpoints: 64, Addresses: 16384, Policies: 1024, PolicyEntries: 16384,
			Flows: 4096, Fragments: 64, Rules: 1024, EventBytes: 1 << 16,
		}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loaded.Close)
	k, m := &Kernel{loaded: loaded}, &loaded.Maps
	if k.epochs, err = bpfmap.NewEpochs(m.Control, m.Epochs, m.Endpoints); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.epochs.Close() })
	if k.flows, err = bpfmap.NewFlows(m.FlowWays, m.Flows); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.flows.Close() })
	k.policies = bpfmap.NewPolicies(m.Policies, m.PolicySpec, k.epochs)
	t.Cleanup(k.policies.Close)
	if k.events, err = event.Open(m.Events); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.events.Close() })
	return k
}

// BPFFS mounts a bpffs of the test's own, and skips the test without root.
func BPFFS(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to load BPF programs")
	}
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpffs on %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// Apply changes policies, as bpfmap.Policies does.
func (k *Kernel) Apply(changes map[uint32]compile.Delta) error { return k.policies.Apply(changes) }

// Hits is the table of rule counters.
func (k *Kernel) Hits() *bpfmap.Hits {
	return bpfmap.NewHits(k.loaded.Maps.RuleHits, k.loaded.Maps.RuleHitsBefore)
}

// Carry takes the flows over that maps of an earlier layout hold, and returns how many
// rows it wrote.
func (k *Kernel) Carry(earlier func(name string) *ebpf.Map) (written int, err error) {
	row := k.loaded.Spec.Maps["flows"].Value
	from, closeFrom, err := bpfmap.OpenFlowSource(earlier, row)
	if err != nil {
		return 0, err
	}
	defer closeFrom()
	to, err := bpfmap.OpenFlowWriter(k.loaded.Maps.FlowWays, k.loaded.Maps.Flows, k.epochs, row)
	if err != nil {
		return 0, err
	}
	defer to.Close()
	written, _, err = carry.Flows(to, from, 0)
	return written, err
}

// Workload is what the kernel is to know of a local workload.
type Workload struct {
	ID       uint16
	Identity identity.ID
	Policy   uint32 // 0: closed
}

// Workload makes an address that of a workload, or changes what it is.
func (k *Kernel) Workload(ip netip.Addr, w Workload) error {
	row := bpfmap.Endpoint{ID: w.ID, Identity: w.Identity, PolicyID: w.Policy, IfIndex: Loopback, MTU: 1500}
	return bpfmap.NewEndpoints(k.loaded.Maps.Endpoints, k.epochs).Update(ip, row)
}

// Address gives the addresses of a prefix an identity.
func (k *Kernel) Address(prefix netip.Prefix, id identity.ID) error {
	return bpfmap.NewIPCache(k.loaded.Maps.IPCache, k.epochs).Update(prefix, bpfmap.Address{Identity: id})
}

// ForgetAddress takes the identity of a prefix away.
func (k *Kernel) ForgetAddress(prefix netip.Prefix) error {
	return bpfmap.NewIPCache(k.loaded.Maps.IPCache, k.epochs).Delete(prefix)
}

// Actions of the programs (linux/pkt_cls.h).
const (
	ActionPass     = 0
	ActionDrop     = 2
	ActionRedirect = 7
)

// Result is what became of one packet.
type Result struct {
	Action uint32
	Frame  []byte // as the program left it
	Events []flow.Event
}

// Send runs a frame as one that a workload sends.
func (k *Kernel) Send(frame []byte) (Result, error) { return k.run(k.loaded.FromWorkload, frame) }

// Receive runs a frame as one out of the host's stack to a workload.
func (k *Kernel) Receive(frame []byte) (Result, error) { return k.run(k.loaded.ToWorkload, frame) }

func (k *Kernel) run(p *ebpf.Program, frame []byte) (r Result, err error) {
	if r.Action, r.Frame, err = Run(p, frame, 0); err != nil {
		return r, err
	}
	err = k.events.Pending(func(e flow.Event) { r.Events = append(r.Events, e) })
	if err != nil {
		return r, err
	}
	lost, err := bpfmap.ReadLostEvents(k.loaded.Maps.EventsLost)
	if err == nil && lost > 0 {
		err = errors.New("events were lost: something else filled the ring buffer")
	}
	return r, err
}

// skb is the part of struct __sk_buff that a test run may set.
type skb struct {
	Len, PktType, Mark, QueueMapping uint32
	Protocol, VlanPresent, VlanTCI   uint32
	VlanProto, Priority              uint32
	IngressIfindex, Ifindex          uint32
	TCIndex                          uint32
	CB                               [5]uint32
}

// Run sends one frame with a mark through a program as if it came by Loopback, and
// returns the action with the frame as the program left it.
func Run(p *ebpf.Program, frame []byte, mark uint32) (action uint32, out []byte, err error) {
	options := ebpf.RunOptions{
		Data: frame, DataOut: make([]byte, len(frame)+256),
		Context: skb{Ifindex: Loopback, Mark: mark},
	}
	action, err = p.Run(&options)
	if err != nil {
		return 0, nil, fmt.Errorf("test run: %w", err)
	}
	return action, options.DataOut, nil
}
