// SPDX-License-Identifier: Apache-2.0

package datapathtest

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"cilium.local/cilium/internal/l4"
)

// Packet is the first packet of a conversation, without payload. SourcePort is the
// identifier of an ICMP message, of which the port is the type.
type Packet struct {
	Source, Dest netip.Addr
	SourcePort   uint16
	Port         l4.Port
}

const (
	ethernetHeader = 14
	ttl            = 64
	tcpSYN         = 2
)

// Frame returns the packet with an Ethernet header. Transport checksums are left
// out: the programs do not look at them.
func (p Packet) Frame() ([]byte, error) {
	if p.Source.Is4() != p.Dest.Is4() || !p.Source.IsValid() || !p.Dest.IsValid() {
		return nil, fmt.Errorf("packet from %s to %s: both ends must have addresses of one family", p.Source, p.Dest)
	}
	transport := p.transport()
	if p.Source.Is4() {
		return append(p.ipv4(len(transport)), transport...), nil
	}
	return append(p.ipv6(len(transport)), transport...), nil
}

func (p Packet) transport() []byte {
	header := make([]byte, 20)
	switch p.Port.Protocol {
	case l4.ICMP, l4.ICMPv6:
		header[0] = byte(p.Port.Number)
		binary.BigEndian.PutUint16(header[4:], p.SourcePort)
		return header // of these, 12 bytes are payload
	case l4.UDP:
		header = header[:8]
		binary.BigEndian.PutUint16(header[4:], 8)
	case l4.SCTP:
		header = header[:12]
	default:
		header[12] = 5 << 4 // words
		header[13] = tcpSYN
	}
	binary.BigEndian.PutUint16(header, p.SourcePort)
	binary.BigEndian.PutUint16(header[2:], p.Port.Number)
	return header
}

func (p Packet) ipv4(payload int) []byte {
	frame := make([]byte, ethernetHeader+20, ethernetHeader+20+payload)
	frame[12], frame[13] = 0x08, 0x00
	ip := frame[ethernetHeader:]
	ip[0], ip[8], ip[9] = 0x45, ttl, byte(p.Port.Protocol)
	binary.BigEndian.PutUint16(ip[2:], uint16(20+payload))
	copy(ip[12:], p.Source.AsSlice())
	copy(ip[16:], p.Dest.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	return frame
}

func (p Packet) ipv6(payload int) []byte {
	frame := make([]byte, ethernetHeader+40, ethernetHeader+40+payload)
	frame[12], frame[13] = 0x86, 0xdd
	ip := frame[ethernetHeader:]
	ip[0], ip[6], ip[7] = 6<<4, byte(p.Port.Protocol), ttl
	binary.BigEndian.PutUint16(ip[4:], uint16(payload))
	copy(ip[8:], p.Source.AsSlice())
	copy(ip[24:], p.Dest.AsSlice())
	return frame
}
