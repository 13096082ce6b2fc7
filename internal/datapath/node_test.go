// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"log/slog"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/datapath/prog"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy/compile"
)

// node is a data plane in the kernel that no device is attached to; packets go
// through its programs by test runs.
type node struct {
	*Datapath
	t testing.TB
}

var (
	gateway4 = netip.MustParseAddr("10.15.0.1")
	gateway6 = netip.MustParseAddr("f00d::a0f:0:0:1")
)

// loopback is the interface that a test run claims a packet came by.
const loopback = 1

func constants() prog.Constants {
	return prog.Constants{
		GatewayMAC: [6]byte{2, 0, 0, 0, 0, 1}, GatewayIPv4: gateway4, GatewayIPv6: gateway6,
		WorldIPv4: identity.WorldIPv4, WorldIPv6: identity.WorldIPv6,
	}
}

func smallSizes() prog.Sizes {
	return prog.Sizes{
		Endpoints: 64, Addresses: 1024, Policies: 16, PolicyEntries: 256,
		Flows: 4096, Fragments: 256, Rules: 64, EventBytes: 1 << 16,
	}
}

// bpffs mounts a bpffs of the test's own.
func bpffs(t testing.TB) string {
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

func newNode(t testing.TB, change ...func(*prog.Constants)) *node {
	t.Helper()
	c := constants()
	for _, f := range change {
		f(&c)
	}
	dp, err := Open(Config{PinDir: bpffs(t), Constants: c, Sizes: smallSizes()}, discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dp.Close)
	return &node{dp, t}
}

// endpoint makes a workload known whose packets come by ifindex.
func (n *node) endpoint(id uint16, ifindex int, who identity.ID, policyID uint32, addrs ...string) {
	n.t.Helper()
	for _, addr := range addrs {
		row := bpfmap.Endpoint{
			ID: id, Identity: who, PolicyID: policyID, IfIndex: ifindex, MTU: 1500,
			MAC: [6]byte{2, 0, 0, 0, 1, byte(id)},
		}
		if err := n.Endpoints().Update(netip.MustParseAddr(addr), row); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *node) policy(id uint32, entries compile.Entries) {
	n.t.Helper()
	if err := n.Policies().Apply(map[uint32]compile.Delta{id: compile.Whole(entries)}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) address(prefix string, who identity.ID) {
	n.t.Helper()
	if err := n.Addresses().Update(netip.MustParsePrefix(prefix), who); err != nil {
		n.t.Fatal(err)
	}
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

// Actions of the programs (linux/pkt_cls.h).
const (
	actPass     = 0
	actDrop     = 2
	actRedirect = 7
)

// run sends one frame through a program as if it came by loopback.
func (n *node) run(p *ebpf.Program, frame []byte, mark uint32) (action uint32, out []byte) {
	n.t.Helper()
	options := ebpf.RunOptions{
		Data: frame, DataOut: make([]byte, len(frame)+256),
		Context: skb{Ifindex: loopback, Mark: mark},
	}
	action, err := p.Run(&options)
	if err != nil {
		n.t.Fatalf("test run: %v", err)
	}
	return action, options.DataOut
}

// send is run from the workload behind loopback.
func (n *node) send(frame []byte) (uint32, []byte) { return n.run(n.loaded.FromWorkload, frame, 0) }

// receive is run out of the host's stack to the workload behind loopback.
func (n *node) receive(frame []byte) (uint32, []byte) { return n.run(n.loaded.ToWorkload, frame, 0) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
