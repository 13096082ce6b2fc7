// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/datapath/datapathtest"
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
const loopback = datapathtest.Loopback

func constants() prog.Constants {
	return prog.Constants{
		GatewayMAC: [6]byte{2, 0, 0, 0, 0, 1}, GatewayIPv4: gateway4, GatewayIPv6: gateway6,
		WorldIPv4: identity.WorldIPv4, WorldIPv6: identity.WorldIPv6,
	}
}

func smallSizes() prog.Sizes {
	return prog.Sizes{
		Endpoints: 64, Addresses: 1024, Nodes: 15, Policies: 16, PolicyEntries: 256,
		Flows: 4096, Fragments: 256, Rules: 64, EventBytes: 1 << 16,
	}
}

func bpffs(t testing.TB) string { return datapathtest.BPFFS(t) }

func newNode(t testing.TB, change ...func(*prog.Constants)) *node {
	t.Helper()
	c := constants()
	for _, f := range change {
		f(&c)
	}
	return newSizedNode(t, smallSizes(), c)
}

func newSizedNode(t testing.TB, sizes prog.Sizes, c prog.Constants) *node {
	t.Helper()
	dp, err := Open(Config{PinDir: bpffs(t), Constants: c, Sizes: sizes}, discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dp.Close)
	must(t, dp.Watch(true))
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
	if err := n.Addresses().Update(netip.MustParsePrefix(prefix), bpfmap.Address{Identity: who}); err != nil {
		n.t.Fatal(err)
	}
}

const (
	actPass     = datapathtest.ActionPass
	actDrop     = datapathtest.ActionDrop
	actRedirect = datapathtest.ActionRedirect
)

// run sends one frame through a program as if it came by loopback.
func (n *node) run(p *ebpf.Program, frame []byte, mark uint32) (action uint32, out []byte) {
	n.t.Helper()
	action, out, err := datapathtest.Run(p, frame, mark)
	if err != nil {
		n.t.Fatal(err)
	}
	return action, out
}

// send is run from the workload behind loopback.
func (n *node) send(frame []byte) (uint32, []byte) { return n.run(n.loaded.FromWorkload, frame, 0) }

// receive is run out of the host's stack to the workload behind loopback.
func (n *node) receive(frame []byte) (uint32, []byte) { return n.run(n.loaded.ToWorkload, frame, 0) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
