// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/test/lab"
)

// TestMain lets the test binary play the programs that a lab runs, so that the
// lab is tested without them. The player makes real devices, but no policy.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "cilium-agent":
		if err := playAgent(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "cilium":
		fmt.Printf("%s at %s", strings.Join(os.Args[1:], " "), os.Getenv("CILIUM_SOCK"))
		os.Exit(4)
	default:
		os.Exit(m.Run())
	}
}

// playAgent serves the two requests that the lab makes, until SIGTERM.
func playAgent(args []string) error {
	var socket string
	for _, a := range args {
		if s, ok := strings.CutPrefix(a, "--socket-path="); ok {
			socket = s
		}
	}
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	gateway4, gateway6 := netip.MustParseAddr("10.15.0.1"), netip.MustParseAddr("f00d::a0f:0:1")
	host, err := device.SetupHost(context.Background(), device.HostConfig{IPv4: gateway4, IPv6: gateway6, MTU: 1500})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/healthz", func(http.ResponseWriter, *http.Request) {})
	id := uint16(1)
	mux.HandleFunc("PUT /v1/endpoint/{id}", func(w http.ResponseWriter, r *http.Request) {
		var ask struct{ Netns, State string }
		if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		id++
		ipv4, ipv6 := netip.AddrFrom4([4]byte{10, 15, 0, byte(id)}), netip.MustParseAddr(fmt.Sprintf("f00d::a0f:0:%x", id))
		if err := playCreate(id, ask.Netns, host.MAC, device.Interface{
			Name: "eth0", MAC: device.RandomMAC(), MTU: 1500,
			IPv4: ipv4, IPv6: ipv6, GatewayIPv4: gateway4, GatewayIPv6: gateway6,
		}); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"id": %d, "status": {"state": "ready", "networking": {"addressing": [{"ipv4": %q, "ipv6": %q}]}}}`, id, ipv4, ipv6)
	})
	mux.HandleFunc("DELETE /v1/endpoint/{id}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") == "container-id:unknown" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	server := &http.Server{Handler: mux}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func playCreate(id uint16, netns string, hostMAC net.HardwareAddr, iface device.Interface) error {
	peer := device.PeerName(id)
	if _, _, err := device.CreatePair(device.PairSpec{
		Endpoint: id, HostName: device.HostName(id), PeerName: peer, PeerNetns: netns,
		HostMAC: hostMAC, PeerMAC: iface.MAC, MTU: iface.MTU, IPv6: true,
	}); err != nil {
		return err
	}
	if err := device.AddHostRoutes(device.HostRoute{
		HostName: device.HostName(id), MAC: iface.MAC, IPv4: iface.IPv4, IPv6: iface.IPv6,
		GatewayIPv4: iface.GatewayIPv4, GatewayIPv6: iface.GatewayIPv6,
	}); err != nil {
		return err
	}
	if err := device.MoveAndConfigure(peer, netns, iface); err != nil {
		return err
	}
	// The real agent's programs answer neighbour discovery for the gateway.
	return device.InNamespace(netns, func() error {
		link, err := netlink.LinkByName(iface.Name)
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: iface.GatewayIPv6.AsSlice(), HardwareAddr: hostMAC,
		})
	})
}

// withPlayers runs the test again in a process whose programs are players,
// because a process reads where its programs are only once. It returns true in
// that process.
func withPlayers(t *testing.T) bool {
	t.Helper()
	if os.Getenv("LAB_PLAYERS") != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cilium-agent", "cilium"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(self, "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "LAB_PLAYERS=1", "CILIUM_BIN_DIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

func TestWorkloadsAreConnectedByTheAgentAndTalk(t *testing.T) {
	if !withPlayers(t) {
		return
	}
	n := lab.NewNode(t, "node", lab.Options{Outside: true, Forward: true})
	agent, err := n.StartAgent(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.StartAgent(soon(t)); err == nil || !strings.Contains(err.Error(), "it is running") {
		t.Errorf("second agent: %v", err)
	}
	app, err := n.Workload(soon(t), "app1", "id=app1")
	if err != nil {
		t.Fatal(err)
	}
	if app.IPv4.String() != "10.15.0.2" || app.IPv6.String() != "f00d::a0f:0:2" || app.ID != 2 {
		t.Errorf("workload %d has %s, %s", app.ID, app.IPv4, app.IPv6)
	}
	for _, addr := range []netip.Addr{app.IPv4, app.IPv6} {
		server, err := app.ServeUDP(netip.AddrPortFrom(addr, 0))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Close() })
		if err := n.RoundTripUDP(soon(t), server.Addr, []byte("hello")); err != nil {
			t.Error(err)
		}
		if err := n.Ping(soon(t), addr); err != nil {
			t.Error(err)
		}
	}
	if err := app.Remove(soon(t)); err != nil {
		t.Error(err)
	}
	result, err := n.CLI(soon(t), "endpoint", "list")
	if err != nil || result.Code != 4 || result.Stdout != "endpoint list at "+n.Socket {
		t.Errorf("got %+v, %v", result, err)
	}
	if err := agent.Stop(); err != nil || agent.Running() {
		t.Errorf("stopped: %v, running %v", err, agent.Running())
	}
}

func TestAgentIsKilledAndStartedAgain(t *testing.T) {
	if !withPlayers(t) {
		return
	}
	n := lab.NewNode(t, "node", lab.Options{})
	for range 2 {
		agent, err := n.StartAgent(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := agent.Kill(); err != nil || agent.Running() {
			t.Errorf("killed: %v, running %v", err, agent.Running())
		}
	}
	if _, err := n.Workload(soon(t), "late"); err == nil {
		t.Error("a workload was connected without an agent")
	}
}

func TestClosingTheNodeEndsTheAgent(t *testing.T) {
	if !withPlayers(t) {
		return
	}
	n, err := lab.Create("node", lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	agent, err := n.StartAgent(soon(t))
	if err != nil {
		t.Fatal(err, n.Close())
	}
	if err := n.Close(); err != nil || agent.Running() {
		t.Errorf("closed: %v, running %v", err, agent.Running())
	}
}
