// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/test/lab"
)

// keepOut puts a filter on the node's uplink, as its operator may have one, that drops
// all IPv4 it receives.
func keepOut(t *testing.T, n *lab.Node) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "keep_out", Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // TC_ACT_SHOT
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	err = n.Do(func() error {
		uplink, err := netlink.LinkByName("uplink")
		if err != nil {
			return err
		}
		index := uplink.Attrs().Index
		err = netlink.QdiscAdd(&netlink.GenericQdisc{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
			QdiscType:  "clsact",
		})
		if err != nil {
			return err
		}
		return netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 7, Priority: 5, Protocol: unix.ETH_P_IP},
			Fd:          program.FD(), Name: "keep_out", DirectAction: true,
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheMachinesOwnFilterRunsBesideNativeRouting has it on the device that both use.
func TestTheMachinesOwnFilterRunsBesideNativeRouting(t *testing.T) {
	for _, hooks := range []string{"--legacy-hooks=false", "--legacy-hooks=true"} {
		t.Run(hooks, func(t *testing.T) {
			n := lab.NewNode(t, "node1", lab.Options{Outside: true})
			a := &apps{Node: n, t: t}
			if err := n.Ping(within(t, 5*time.Second), n.Outside.IPv4); err != nil {
				t.Fatal(err)
			}
			keepOut(t, n)
			a.startAgent("--routing=native", "--native-routing-cidr=10.15.0.0/16,f00d::a0f:0:0:0/96", hooks)
			if err := n.Ping(within(t, time.Second), n.Outside.IPv4); err == nil {
				t.Error("the machine's own filter keeps nothing out while the agent runs")
			}
			if err := n.Ping(within(t, 5*time.Second), n.Outside.IPv6); err != nil {
				t.Errorf("what the filter lets pass: %v", err)
			}
		})
	}
}
