// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"cilium.local/cilium/internal/flow"
)

// change returns a copy of the frame with one byte set; IPv4's checksum is made
// right again, so that the test is about the byte.
func change(data []byte, offset int, value byte) []byte {
	changed := bytes.Clone(data)
	changed[offset] = value
	if changed[14]>>4 == 4 && changed[14]&15 >= 5 && len(changed) >= 14+int(changed[14]&15)*4 {
		fixIPv4Checksum(changed)
	}
	return changed
}

func TestMalformedIPv4IsDropped(t *testing.T) {
	f := families[0]
	n := pair(t, f)
	good := frame{src: f.app1, dst: f.app2}.tcp(t, 1, 80, "S")
	n.wantDrop("header length 4 words", flow.DropInvalidPacket, n.send, change(good, 14, 0x44))
	n.wantDrop("header length beyond the frame", flow.DropInvalidPacket, n.send, change(good, 14, 0x4f))
	n.wantDrop("total length beyond the frame", flow.DropInvalidPacket, n.send, change(good, 17, 200))
	n.wantDrop("total length shorter than the header", flow.DropInvalidPacket, n.send, change(good, 17, 19))
	n.wantDrop("not version 4", flow.DropInvalidPacket, n.send, change(good, 14, 0x65))
	n.wantDrop("no TCP header", flow.DropL4Header, n.send, change(good[:14+20+10], 17, 30))
	n.wantDrop("TCP header of 4 words", flow.DropL4Header, n.send, change(good, 14+20+12, 0x40))
	n.wantDrop("TCP header beyond the datagram", flow.DropL4Header, n.send, change(good, 14+20+12, 0xf0))
	n.wantDrop("a protocol without ports", flow.DropUnknownL4, n.send, change(good, 14+9, 47))

	wrong := bytes.Clone(good)
	wrong[14+10] ^= 0xff
	n.wantDrop("header checksum", flow.DropIPChecksum, n.send, wrong)
	short := frame{src: f.app1, dst: f.app2}.udp(t, 1, 80, 0)
	n.wantDrop("UDP length below its header", flow.DropL4Header, n.send, change(short, 14+20+5, 7))
	n.wantDrop("VLAN tag", flow.DropUnsupportedL2, n.send, append(bytes.Clone(good[:12]), append([]byte{0x86, 0xdd + 1}, good[14:]...)...))
}

func TestIPv4OptionsAreCheckedAndSkipped(t *testing.T) {
	f := families[0]
	n := pair(t, f)
	good := frame{src: f.app1, dst: f.app2}.tcp(t, 1, 80, "S")
	withOptions := append(bytes.Clone(good[:34]), 1, 1, 1, 0) // three no-operations and the end
	withOptions = append(withOptions, good[34:]...)
	withOptions[14], withOptions[17] = 0x46, good[17]+4
	fixIPv4Checksum(withOptions)
	action, _ := n.send(withOptions)
	wantPass(t, "options", action)
	withOptions[34] = 7
	n.wantDrop("options and a wrong checksum", flow.DropIPChecksum, n.send, withOptions)
}

// chain is an IPv6 packet from app1 to app2 with raw extension headers.
func chain(t testing.TB, first byte, headers ...byte) []byte {
	f := families[1]
	data := frame{src: f.app1, dst: f.app2}.tcp(t, 1, 80, "S")
	data = append(bytes.Clone(data[:54]), append(headers, data[54:]...)...)
	data[14+6] = first
	binary.BigEndian.PutUint16(data[14+4:], uint16(len(data)-54))
	return data
}

// extension is a hop-by-hop or destination header of eight bytes, all padding.
func extension(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }

const (
	hopByHop, routing, destination, authentication, tcp = 0, 43, 60, 51, 6
)

func TestIPv6ExtensionChains(t *testing.T) {
	n := pair(t, families[1])
	action, _ := n.send(chain(t, hopByHop, append(extension(destination), extension(tcp)...)...))
	wantPass(t, "hop-by-hop, then destination options", action)
	action, _ = n.send(chain(t, authentication, tcp, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12))
	wantPass(t, "authentication header", action)

	n.wantDrop("routing header", flow.DropIPv6Extension, n.send, chain(t, routing, extension(tcp)...))
	n.wantDrop("hop-by-hop that is not first", flow.DropIPv6Extension, n.send,
		chain(t, destination, append(extension(hopByHop), extension(tcp)...)...))
	var long []byte
	for range 8 {
		long = append(long, extension(destination)...)
	}
	n.wantDrop("nine extensions", flow.DropIPv6Extension, n.send, chain(t, destination, append(long, extension(tcp)...)...))
	n.wantDrop("an extension longer than the packet", flow.DropIPv6Extension, n.send, chain(t, destination, tcp, 200, 1, 4, 0, 0, 0, 0))
	n.wantDrop("no next header", flow.DropUnknownL4, n.send, chain(t, 59))
	good := chain(t, tcp)
	n.wantDrop("payload length beyond the frame", flow.DropInvalidPacket, n.send, change(good, 14+5, 200))
}

// fragmentOf cuts a UDP datagram: payload bytes from offset, in a fragment.
func fragmentOf(t testing.TB, f family, id uint16, offset, size int, more bool) []byte {
	return cut(f, frame{src: f.app1, dst: f.app2}.udp(t, 4000, 53, 64), 17, id, offset, size, more)
}

// cut makes a fragment of a datagram of a protocol.
func cut(f family, whole []byte, protocol byte, id uint16, offset, size int, more bool) []byte {
	header := 34
	if f.name == "IPv6" {
		header = 54
	}
	bits := uint16(offset)
	if more {
		bits |= 1
	}
	payload := whole[header+offset : header+offset+size]
	if f.name == "IPv4" {
		data := append(bytes.Clone(whole[:34]), payload...)
		binary.BigEndian.PutUint16(data[16:], uint16(20+size))
		binary.BigEndian.PutUint16(data[18:], id)
		binary.BigEndian.PutUint16(data[20:], bits&1<<13|bits>>3)
		fixIPv4Checksum(data)
		return data
	}
	data := append(bytes.Clone(whole[:54]), protocol, 0, byte(bits>>8), byte(bits), 0, 0, byte(id>>8), byte(id))
	data = append(data, payload...)
	data[14+6] = 44
	binary.BigEndian.PutUint16(data[18:], uint16(8+size))
	return data
}

func TestLaterFragmentsFollowTheirFirst(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.wantDrop("later before first", flow.DropFirstFragMissing, n.send, fragmentOf(t, f, 1, 32, 16, false))
		action, _ := n.send(fragmentOf(t, f, 1, 0, 32, true))
		wantPass(t, "first", action)
		action, _ = n.send(fragmentOf(t, f, 1, 32, 16, false))
		wantPass(t, "later", action)
		n.wantDrop("reaching back into the first", flow.DropFragOverlap, n.send, fragmentOf(t, f, 1, 24, 16, true))
		n.wantDrop("of another datagram", flow.DropFirstFragMissing, n.send, fragmentOf(t, f, 2, 32, 16, false))
		n.wantDrop("first without its header", flow.DropL4Header, n.send, fragmentOf(t, f, 3, 0, 4, true))
	})
}

func TestLaterFragmentsHaveTheVerdictOfTheirPorts(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.policy(app2Policy, nil)
		n.wantDrop("first", flow.DropPolicy, n.send, fragmentOf(t, f, 1, 0, 32, true))
		n.wantDrop("later", flow.DropPolicy, n.send, fragmentOf(t, f, 1, 32, 16, false))
	})
}

func TestExpiredTTLIsAnswered(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		before := n.drops()[flow.DropTTLExceeded]
		sent := frame{src: f.app1, dst: f.app2, ttl: 1}.udp(t, 4000, 33434, 20)
		action, out := n.send(sent)
		if action != actRedirect || n.drops()[flow.DropTTLExceeded] != before+1 {
			t.Fatalf("action %d, want an answer and a counted drop", action)
		}
		wantError(t, f, out, sent, layers.CreateICMPv4TypeCode(11, 0), layers.CreateICMPv6TypeCode(3, 0))
	})
}

func TestPacketBeyondTheNextMTUIsAnswered(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		sent := frame{src: f.app1, dst: f.app2}.udp(t, 4000, 53, 1600)
		action, out := n.send(sent)
		if action != actRedirect || n.drops()[flow.DropFragNeeded] != 1 {
			t.Fatalf("action %d, want an answer and a counted drop", action)
		}
		p := wantError(t, f, out, sent, layers.CreateICMPv4TypeCode(3, 4), layers.CreateICMPv6TypeCode(2, 0))
		offset := 14 + 20 + 6
		if f.name == "IPv6" {
			offset = 14 + 40 + 6
		}
		if mtu := binary.BigEndian.Uint16(p.Data()[offset:]); mtu != 1500 {
			t.Errorf("MTU in the answer is %d, want 1500", mtu)
		}
		if f.name == "IPv4" {
			action, _ = n.send(frame{src: f.app1, dst: f.app2, fragment: true}.udp(t, 4000, 53, 1600))
			if action != actPass {
				t.Errorf("a datagram that may be fragmented: action %d, want the host's stack", action)
			}
		}
	})
}

// wantError checks that out is an ICMP error from the gateway to the sender that
// quotes what was sent.
func wantError(t *testing.T, f family, out, sent []byte, v4 layers.ICMPv4TypeCode, v6 layers.ICMPv6TypeCode) gopacket.Packet {
	t.Helper()
	p := parsed(t, out)
	flow := p.NetworkLayer().NetworkFlow()
	if flow.Src().String() != f.host || flow.Dst().String() != f.app1 {
		t.Errorf("answer from %s to %s", flow.Src(), flow.Dst())
	}
	quote := 14 + 20 + 8
	if l, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok && l.TypeCode != v4 {
		t.Errorf("answer is %s, want %s", l.TypeCode, v4)
	}
	if f.name == "IPv6" {
		quote = 14 + 40 + 8
		if l, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); !ok || l.TypeCode != v6 {
			t.Errorf("answer is %v, want %s", p, v6)
		}
	}
	if got := out[quote:]; len(got) < 48 || !bytes.HasPrefix(sent[14:], got) {
		t.Errorf("the answer quotes %d bytes that are not the packet's", len(got))
	}
	return p
}

func TestGatewayAnswersARP(t *testing.T) {
	n := pair(t, families[0])
	ask := func(target byte) []byte {
		eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 1, 1}, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP}
		arp := &layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: []byte{2, 0, 0, 0, 1, 1}, SourceProtAddress: []byte{10, 15, 0, 11},
			DstHwAddress: make([]byte, 6), DstProtAddress: []byte{10, 15, 0, target},
		}
		buf := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{}, eth, arp); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	action, out := n.send(ask(1))
	arp := parsed(t, out).Layer(layers.LayerTypeARP).(*layers.ARP)
	if action != actRedirect || arp.Operation != layers.ARPReply || !bytes.Equal(arp.SourceHwAddress, []byte{2, 0, 0, 0, 0, 1}) ||
		!bytes.Equal(arp.SourceProtAddress, []byte{10, 15, 0, 1}) || !bytes.Equal(arp.DstProtAddress, []byte{10, 15, 0, 11}) {
		t.Errorf("action %d, answer %+v", action, arp)
	}
	if action, _ = n.send(ask(12)); action != actDrop {
		t.Errorf("ARP for a neighbour: action %d, want a drop", action)
	}
}

func TestGatewayAnswersNeighbourSolicitation(t *testing.T) {
	f := families[1]
	n := pair(t, f)
	for _, withOption := range []bool{true, false} {
		ns := &layers.ICMPv6NeighborSolicitation{TargetAddress: gateway6.AsSlice()}
		if withOption {
			ns.Options = layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: []byte{2, 0, 0, 0, 1, 1}}}
		}
		data := frame{src: f.app1, dst: "ff02::1:ff00:1", ttl: 255}.with(t,
			&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}, ns)
		action, out := n.send(data)
		p := parsed(t, out)
		na, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
		if action != actRedirect || !ok || !na.TargetAddress.Equal(gateway6.AsSlice()) || len(na.Options) != 1 ||
			!bytes.Equal(na.Options[0].Data, []byte{2, 0, 0, 0, 0, 1}) || ttlOf(p) != 255 {
			t.Errorf("with option %v: action %d, answer %v", withOption, action, p)
		}
	}
}
