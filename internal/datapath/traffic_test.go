// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/datapath/probe"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy/compile"
)

// namespace makes a network namespace of the test's own.
func namespace(t testing.TB, role string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	name := fmt.Sprintf("cl-dp-%d-%s", os.Getpid(), role)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends in the new namespace
		_, err := netns.NewNamed(name)
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.DeleteNamed(name); err != nil {
			t.Errorf("delete network namespace %s: %v", name, err)
		}
	})
	return "/run/netns/" + name
}

// live is a node with devices: two workloads, app1 and app2, behind real veths.
type live struct {
	*node
	home       string
	workload   map[string]string // name to namespace
	ipv4, ipv6 map[string]netip.Addr
}

func newLive(t *testing.T, legacy bool) *live {
	l := &live{
		home:     namespace(t, "node"),
		workload: map[string]string{"app1": namespace(t, "app1"), "app2": namespace(t, "app2")},
		ipv4:     map[string]netip.Addr{"app1": netip.MustParseAddr("10.15.0.11"), "app2": netip.MustParseAddr("10.15.0.12")},
		ipv6:     map[string]netip.Addr{"app1": netip.MustParseAddr("f00d::a0f:0:0:11"), "app2": netip.MustParseAddr("f00d::a0f:0:0:12")},
	}
	dp, err := Open(Config{PinDir: bpffs(t), Constants: constants(), Sizes: smallSizes(), LegacyHooks: legacy}, discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dp.Close)
	l.node = &node{dp, t}
	l.address("10.15.0.1/32", identity.Host)
	l.address("f00d::a0f:0:0:1/128", identity.Host)
	must(t, device.InNamespace(l.home, func() error {
		_, err := device.SetupHost(t.Context(), device.HostConfig{
			IPv4: gateway4, IPv6: gateway6, MTU: 1500,
			Ranges: []netip.Prefix{netip.MustParsePrefix("10.15.0.0/16"), netip.MustParsePrefix("f00d::a0f:0:0:0/96")},
		})
		return err
	}))
	l.connect(1, "app1", app1ID)
	l.connect(2, "app2", app2ID)
	return l
}

// newLiveNode uses the hooks that an agent would use on this kernel.
func newLiveNode(t *testing.T) *live {
	features, err := probe.Probe()
	must(t, err)
	return newLive(t, !features.TCX)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// policyOf numbers each workload's policy; enforced ones are even.
func policyOf(id uint16) uint32 { return 2 * uint32(id) }

// connect does for a workload what the agent does.
func (l *live) connect(id uint16, name string, who identity.ID) {
	t := l.t
	mac := net.HardwareAddr{2, 0, 0, 0, 1, byte(id)}
	gateway := constants().GatewayMAC
	var index int
	must(t, device.InNamespace(l.home, func() (err error) {
		index, _, err = device.CreatePair(device.PairSpec{
			Endpoint: id, HostName: device.HostName(id), PeerName: device.PeerName(id),
			HostMAC: gateway[:], PeerMAC: mac, MTU: 1500, IPv6: true,
		})
		if err != nil {
			return err
		}
		return device.AddHostRoutes(device.HostRoute{
			HostName: device.HostName(id), MAC: mac, IPv4: l.ipv4[name], IPv6: l.ipv6[name],
			GatewayIPv4: gateway4, GatewayIPv6: gateway6,
		})
	}))
	l.policy(policyOf(id), everything())
	for _, ip := range []netip.Addr{l.ipv4[name], l.ipv6[name]} {
		row := bpfmap.Endpoint{ID: id, Identity: who, PolicyID: policyOf(id), IfIndex: index, MAC: [6]byte(mac), MTU: 1500}
		must(t, l.Endpoints().Update(ip, row))
	}
	must(t, device.InNamespace(l.home, func() error {
		if err := l.attachLinks(Device{Index: index, Name: device.HostName(id)}); err != nil {
			return err
		}
		return device.MoveAndConfigure(device.PeerName(id), l.workload[name], device.Interface{
			Name: "eth0", MAC: mac, MTU: 1500, IPv4: l.ipv4[name], IPv6: l.ipv6[name],
			GatewayIPv4: gateway4, GatewayIPv6: gateway6,
		})
	}))
}

// serve answers every TCP connection to addr in the namespace with what it says.
func (l *live) serve(path string, addr netip.AddrPort) {
	l.t.Helper()
	var listener net.Listener
	must(l.t, device.InNamespace(path, func() (err error) {
		config := net.ListenConfig{}
		config.SetMultipathTCP(false)
		listener, err = config.Listen(context.Background(), "tcp", addr.String())
		return err
	}))
	l.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(struct{ io.Writer }{c}, c)
			}()
		}
	}()
}

// ask sends size bytes over TCP and wants them back.
func ask(path string, addr netip.AddrPort, size int, wait time.Duration) error {
	var c net.Conn
	err := device.InNamespace(path, func() (err error) {
		c, err = net.DialTimeout("tcp", addr.String(), wait)
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	go func() { _, _ = c.Write(make([]byte, size)) }()
	n, err := io.ReadFull(c, make([]byte, size))
	if err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	return nil
}

func TestTrafficOverBothKindsOfHooks(t *testing.T) {
	features, err := probe.Probe()
	must(t, err)
	for _, legacy := range []bool{false, true} {
		if !legacy && !features.TCX {
			continue // the kernel is older than 6.6
		}
		t.Run(fmt.Sprintf("legacy=%v", legacy), func(t *testing.T) { traffic(t, newLive(t, legacy)) })
	}
}

func traffic(t *testing.T, l *live) {
	const (
		size     = 3 << 20 // enough for segmentation offload
		patience = 5 * time.Second
	)
	for _, ip := range []map[string]netip.Addr{l.ipv4, l.ipv6} {
		server := netip.AddrPortFrom(ip["app1"], 80)
		l.serve(l.workload["app1"], server)
		if err := ask(l.workload["app2"], server, size, patience); err != nil {
			t.Errorf("workload to workload %s: %v", server, err)
		}
		if err := ask(l.home, server, size, patience); err != nil {
			t.Errorf("host to workload %s: %v", server, err)
		}
	}
	for _, gateway := range []netip.Addr{gateway4, gateway6} {
		server := netip.AddrPortFrom(gateway, 8080)
		l.serve(l.home, server)
		if err := ask(l.workload["app1"], server, size, patience); err != nil {
			t.Errorf("workload to host %s: %v", server, err)
		}
	}
	if drops := l.drops(); len(drops) > 0 && (len(drops) > 1 || drops[flow.DropUnroutable] == 0) {
		t.Errorf("drops of allowed traffic: %v", drops)
	}

	l.policy(policyOf(1), only(identity.Host, l4.Port{Protocol: l4.TCP, Number: 80}))
	server := netip.AddrPortFrom(l.ipv6["app1"], 80)
	if err := ask(l.workload["app2"], server, 1, time.Second); err == nil {
		t.Error("a denied workload was answered")
	}
	if err := ask(l.home, server, 1, patience); err != nil {
		t.Errorf("the allowed host: %v", err)
	}
	l.policy(policyOf(1), compile.Entries{})
}
