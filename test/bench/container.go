// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/test/lab"
)

// containers measures CNI ADD as a runtime sees it: the whole run of the plugin.
// The baseline makes a plain veth pair with the same addresses and routes, from
// within this process.
func (b *bench) containers(ctx context.Context) error {
	var took, baseline []time.Duration
	for i := range rounds {
		ns, err := lab.NewNamespace(fmt.Sprintf("cni%d", i))
		if err != nil {
			return err
		}
		d, err := b.add(ctx, ns, i)
		if err == nil {
			took = append(took, d)
			d, err = b.plain(uint16(40000 + i))
			baseline = append(baseline, d)
		}
		ns.Close()
		if err != nil {
			return err
		}
	}
	b.row("CNI ADD, one after the other", took, baseline, 100*time.Millisecond)
	return nil
}

func (b *bench) add(ctx context.Context, ns *lab.Namespace, i int) (time.Duration, error) {
	id := fmt.Sprintf("bench-%d", i)
	start := time.Now()
	if err := b.plugin(ctx, "ADD", id, ns.Path()); err != nil {
		return 0, err
	}
	took := time.Since(start)
	return took, b.plugin(ctx, "DEL", id, ns.Path())
}

func (b *bench) plugin(ctx context.Context, command, id, netns string) error {
	dir, err := lab.Build()
	if err != nil {
		return err
	}
	conf := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "cilium", "type": "cilium-cni", "agent-socket": %q,
		"args": {"cni": {"labels": [{"key": "role", "value": "bench"}]}}}`, b.Socket)
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "cilium-cni"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+id, "CNI_NETNS="+netns,
		"CNI_IFNAME=eth0", "CNI_PATH="+dir)
	cmd.Stdin = bytes.NewBufferString(conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("CNI %s: %w: %s", command, err, out)
	}
	return nil
}

// plain is what any plugin has to do at least.
func (b *bench) plain(id uint16) (time.Duration, error) {
	ns, err := lab.NewNamespace("plain")
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	mac := device.RandomMAC()
	spec := device.PairSpec{
		Endpoint: id, HostName: device.HostName(id), PeerName: device.PeerName(id),
		HostMAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, PeerMAC: mac, MTU: 1500, IPv6: true, PeerNetns: ns.Path(),
	}
	iface := device.Interface{
		Name: "eth0", MAC: mac, MTU: 1500,
		IPv4: netip.MustParseAddr("10.15.255.250"), GatewayIPv4: netip.MustParseAddr("10.15.0.1"),
		IPv6: netip.MustParseAddr("f00d::a0f:0:ffff:250"), GatewayIPv6: netip.MustParseAddr("f00d::a0f:0:0:1"),
	}
	start := time.Now()
	err = b.Do(func() error {
		if _, _, err := device.CreatePair(spec); err != nil {
			return err
		}
		return device.MoveAndConfigure(spec.PeerName, ns.Path(), iface)
	})
	if err != nil {
		return 0, err
	}
	took := time.Since(start)
	return took, b.Do(func() error { return device.Delete(spec.HostName) })
}

// memory prints the agent's resident memory after all that.
func (b *bench) memory(agent *lab.Agent) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", agent.Pid))
	if err != nil {
		return err
	}
	_, rest, found := strings.Cut(string(text), "VmRSS:")
	if !found {
		return fmt.Errorf("no VmRSS of process %d", agent.Pid)
	}
	kilobytes, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		return err
	}
	const goal = 150
	megabytes := float64(kilobytes) / 1024
	fmt.Printf("agent with embedded store, resident memory: %.1f MB (goal: below %d MB, met: %v)\n", megabytes, goal, megabytes < goal)
	return nil
}
