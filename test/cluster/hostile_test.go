// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"cilium.local/cilium/test/lab"
)

// forgery is a packet that claims to be from somebody, in a tunnel of somebody.
type forgery struct {
	name     string
	sender   *lab.Namespace
	vni      uint32
	src, dst netip.Addr
	reason   string // with which it is dropped
	culprit  netip.Addr
	port     int // it is sent from
}

// TestForgedTunnelPackets sends what only the right node may send, from others and from
// the right node about others.
func TestForgedTunnelPackets(t *testing.T) {
	c := start(t, lab.ClusterOptions{Nodes: 3, Flags: []string{"--routing=vxlan"}})
	target, peer := c.Nodes[0], c.Nodes[1]
	app2 := c.identity("app2")
	c.apply(lab.AllowRule(`"fromEndpoints": [{"matchLabels": {"id": "app2"}}]`, fmt.Sprintf(`"toPorts": [{"ports": [{"port": "%d", "protocol": "UDP"}]}]`, victimPort)))
	monitor := lab.StartMonitor(t, target, "--type", "drop")
	victim := listen(t, c.apps["app1"][0])
	known := c.apps["app2"][1].IPv4
	for i, f := range []forgery{
		{"a host that is no node", c.Wire.Namespace, app2, known, victim.to, "Unknown sender", c.Wire.IPv4, 0},
		{"another node's workload", peer.Namespace, app2, c.apps["app2"][2].IPv4, victim.to, "Invalid source ip", peer.IPv4, 0},
		{"the receiver's own workload", peer.Namespace, app2, c.apps["app2"][0].IPv4, victim.to, "Invalid source ip", peer.IPv4, 0},
		{"the world", peer.Namespace, app2, netip.MustParseAddr("8.8.8.8"), victim.to, "Invalid source ip", peer.IPv4, 0},
		{"a workload that says it is a host", peer.Namespace, 1, known, victim.to, "Invalid identity", peer.IPv4, 0},
		{"a workload that says it is the world", peer.Namespace, 2, known, victim.to, "Invalid identity", peer.IPv4, 0},
		{"a workload without identity", peer.Namespace, 0, known, victim.to, "Invalid identity", peer.IPv4, 0},
		{"a node that says it is a workload", peer.Namespace, app2, netip.MustParseAddr("10.2.0.1"), victim.to, "Invalid identity", peer.IPv4, 0},
		{"a way through this node", peer.Namespace, app2, known, netip.MustParseAddr("8.8.8.8"), "Unknown L3 target address", peer.IPv4, 0},
	} {
		f.port = 4000 + i
		f.send(t, target.IPv4)
		text := monitor.WaitFor(t, fmt.Sprintf("%s:%d -> %s:%d udp by tunnel from %s event", f.src, f.port, f.dst, victimPort, f.culprit))
		for line := range strings.SplitSeq(text, "\n") {
			if strings.Contains(line, fmt.Sprintf(":%d ->", f.port)) && !strings.Contains(line, "drop ("+f.reason+")") {
				t.Errorf("%s: not dropped as %q: %s", f.name, f.reason, line)
			}
		}
	}
	victim.expectNothing(t)

	// What is cut short, or no tunnel packet at all, kills nobody.
	for size := range 60 {
		forge(t, peer.Namespace, target.IPv4, make([]byte, size))
	}
	// The right one comes through, so the forgeries were well made.
	forgery{"itself", peer.Namespace, app2, known, victim.to, "", peer.IPv4, 5000}.send(t, target.IPv4)
	victim.expect(t, known)
}

// TestPlainPacketsFromBehindATunnelAreDropped claims a remote workload's address on the
// wire itself.
func TestPlainPacketsFromBehindATunnelAreDropped(t *testing.T) {
	c := start(t, lab.ClusterOptions{Nodes: 2, Flags: []string{"--routing=vxlan"}})
	victim := listen(t, c.apps["app1"][0])
	monitor := lab.StartMonitor(t, c.Nodes[0], "--type", "drop")
	known := c.apps["app2"][1].IPv4
	run(t, c.Wire.Namespace, "ip", "route", "add", "10.1.0.0/24", "via", c.Nodes[0].IPv4.String())
	run(t, c.Wire.Namespace, "ip", "addr", "add", known.String()+"/32", "dev", "lo")
	sendFrom(t, c.Wire.Namespace, netip.AddrPortFrom(known, 4000), netip.AddrPortFrom(victim.to, victimPort))
	monitor.WaitFor(t, "drop (Invalid source ip)")
	victim.expectNothing(t)
}

func (f forgery) send(t *testing.T, to netip.Addr) {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: f.src.AsSlice(), DstIP: f.dst.AsSlice()}
	udp := &layers.UDP{SrcPort: layers.UDPPort(f.port), DstPort: victimPort}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	forge(t, f.sender, to, serialized(t, &layers.VXLAN{ValidIDFlag: true, VNI: f.vni}, eth, ip, udp, gopacket.Payload("forged")))
}

func serialized(t *testing.T, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// forge sends a datagram to a node's end of the tunnels.
func forge(t *testing.T, from *lab.Namespace, to netip.Addr, data []byte) {
	t.Helper()
	conn, err := from.DialUDP(t.Context(), netip.AddrPortFrom(to, 8472))
	if err == nil {
		defer conn.Close()
		_, err = conn.Write(data)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func sendFrom(t *testing.T, ns *lab.Namespace, from, to netip.AddrPort) {
	t.Helper()
	err := ns.Do(func() error {
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("forged"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, ns *lab.Namespace, program string, args ...string) {
	t.Helper()
	if out, err := ns.Command(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
	}
}

// victimPort is one that only forgeries are sent to.
const victimPort = 81

// ear is a workload's socket that notes who speaks to it.
type ear struct {
	*lab.Server
	to netip.Addr
}

func listen(t *testing.T, w *lab.Workload) ear {
	t.Helper()
	server, err := w.ServeUDP(netip.AddrPortFrom(w.IPv4, victimPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return ear{server, w.IPv4}
}

func (e ear) expectNothing(t *testing.T) {
	t.Helper()
	time.Sleep(100 * time.Millisecond)
	for _, peer := range e.Peers() {
		t.Errorf("a packet from %s arrived", peer)
	}
}

func (e ear) expect(t *testing.T, from netip.Addr) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, peer := range e.Peers() {
			if peer.Addr() == from {
				return
			}
		}
	}
	t.Errorf("no packet from %s arrived", from)
}

// identity is the number of the label id=name.
func (c *cluster) identity(name string) (id uint32) {
	c.t.Helper()
	for line := range strings.SplitSeq(c.cli(c.Nodes[0], "identity", "list"), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && strings.Contains(line, "container:id="+name) {
			_, _ = fmt.Sscan(fields[0], &id)
		}
	}
	if id == 0 {
		c.t.Fatalf("no identity for id=%s", name)
	}
	return id
}
