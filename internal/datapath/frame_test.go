// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// family holds the addresses that a test uses in one IP version, so that every
// test of the shared code path runs in both.
type family struct {
	name                string
	app1, app2, outside string
	host                string
}

var families = []family{
	{"IPv4", "10.15.0.11", "10.15.0.12", "192.0.2.9", "10.15.0.1"},
	{"IPv6", "f00d::a0f:0:0:11", "f00d::a0f:0:0:12", "2001:db8::9", "f00d::a0f:0:0:1"},
}

func eachFamily(t *testing.T, test func(t *testing.T, f family)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}

// frame builds Ethernet and IP around a transport layer. ttl 0 means 64.
type frame struct {
	src, dst string
	ttl      uint8
	fragment bool // IPv4: allow fragmentation
}

func (f frame) with(t testing.TB, transport ...gopacket.SerializableLayer) []byte {
	t.Helper()
	src, dst := netip.MustParseAddr(f.src), netip.MustParseAddr(f.dst)
	if f.ttl == 0 {
		f.ttl = 64
	}
	eth := &layers.Ethernet{
		SrcMAC: net.HardwareAddr{2, 0, 0, 0, 1, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1},
		EthernetType: layers.EthernetTypeIPv4,
	}
	var ip gopacket.NetworkLayer
	var serializable gopacket.SerializableLayer
	if src.Is4() {
		h := &layers.IPv4{
			Version: 4, TTL: f.ttl, SrcIP: src.AsSlice(), DstIP: dst.AsSlice(),
			Protocol: protocolOf(transport[0]), Flags: layers.IPv4DontFragment,
		}
		if f.fragment {
			h.Flags = 0
		}
		ip, serializable = h, h
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		h := &layers.IPv6{
			Version: 6, HopLimit: f.ttl, SrcIP: src.AsSlice(), DstIP: dst.AsSlice(),
			NextHeader: protocolOf(transport[0]),
		}
		ip, serializable = h, h
	}
	for _, l := range transport {
		if l, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := l.SetNetworkLayerForChecksum(ip); err != nil {
				t.Fatal(err)
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	all := append([]gopacket.SerializableLayer{eth, serializable}, transport...)
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, options, all...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func protocolOf(l gopacket.SerializableLayer) layers.IPProtocol {
	switch l.LayerType() {
	case layers.LayerTypeTCP:
		return layers.IPProtocolTCP
	case layers.LayerTypeUDP:
		return layers.IPProtocolUDP
	case layers.LayerTypeSCTP:
		return layers.IPProtocolSCTP
	case layers.LayerTypeICMPv4:
		return layers.IPProtocolICMPv4
	case layers.LayerTypeICMPv6:
		return layers.IPProtocolICMPv6
	}
	return layers.IPProtocolGRE
}

func (f frame) tcp(t testing.TB, sport, dport int, flags string) []byte {
	h := &layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), Window: 1000}
	for _, c := range flags {
		switch c {
		case 'S':
			h.SYN = true
		case 'A':
			h.ACK = true
		case 'F':
			h.FIN = true
		case 'R':
			h.RST = true
		}
	}
	return f.with(t, h)
}

func (f frame) udp(t testing.TB, sport, dport, size int) []byte {
	h := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
	return f.with(t, h, gopacket.Payload(make([]byte, size)))
}

func (f frame) sctp(t testing.TB, sport, dport int) []byte {
	return f.with(t, &layers.SCTP{SrcPort: layers.SCTPPort(sport), DstPort: layers.SCTPPort(dport)})
}

// echo is a ping, or with reply set its answer.
func (f frame) echo(t testing.TB, id int, reply bool) []byte {
	if netip.MustParseAddr(f.src).Is4() {
		kind := uint8(layers.ICMPv4TypeEchoRequest)
		if reply {
			kind = layers.ICMPv4TypeEchoReply
		}
		return f.with(t, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: uint16(id), Seq: 1})
	}
	kind := uint8(layers.ICMPv6TypeEchoRequest)
	if reply {
		kind = layers.ICMPv6TypeEchoReply
	}
	return f.with(t, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)},
		&layers.ICMPv6Echo{Identifier: uint16(id), SeqNumber: 1})
}

// unreachable is an ICMP error about a packet, given as a whole frame.
func (f frame) unreachable(t testing.TB, about []byte) []byte {
	quote := gopacket.Payload(about[14:min(len(about), 14+48)])
	if netip.MustParseAddr(f.src).Is4() {
		return f.with(t, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, quote)
	}
	return f.with(t, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 4)},
		gopacket.Payload(make([]byte, 4)), quote)
}

// parsed decodes a frame and fails when a checksum in it is wrong.
func parsed(t testing.TB, data []byte) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.Default)
	if p.ErrorLayer() != nil {
		t.Fatalf("undecodable frame: %v", p.ErrorLayer().Error())
	}
	for _, l := range p.Layers() {
		if l, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok && l.SetNetworkLayerForChecksum(p.NetworkLayer()) != nil {
			t.Fatal("no network layer")
		}
	}
	err, wrong := p.VerifyChecksums()
	if err != nil || len(wrong) != 0 {
		t.Errorf("checksums: %v %v in %v", err, wrong, p)
	}
	return p
}

func ttlOf(p gopacket.Packet) uint8 {
	if ip, ok := p.NetworkLayer().(*layers.IPv4); ok {
		return ip.TTL
	}
	return p.NetworkLayer().(*layers.IPv6).HopLimit
}

// fixIPv4Checksum makes the header right again after a test changed it.
func fixIPv4Checksum(data []byte) {
	header := data[14 : 14+int(data[14]&15)*4]
	header[10], header[11] = 0, 0
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(header[10:], ^uint16(sum))
}
