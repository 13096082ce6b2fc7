// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

const (
	flagSYN = 0x02
	flagACK = 0x10
)

// segment is a TCP segment without data, nor checksums of TCP, at which the
// programs do not look.
type segment struct {
	from, to     netip.Addr
	sport, dport uint16
	flags        byte
}

const (
	ethernetBytes = 14
	ipv4Bytes     = 20
	tcpBytes      = 20
	protocolTCP   = 6
	hops          = 64
)

func (s segment) frame() []byte {
	tcp := make([]byte, tcpBytes)
	binary.BigEndian.PutUint16(tcp, s.sport)
	binary.BigEndian.PutUint16(tcp[2:], s.dport)
	tcp[12], tcp[13] = tcpBytes/4<<4, s.flags
	ethernet := make([]byte, ethernetBytes)
	if s.from.Is4() {
		ethernet[12], ethernet[13] = 0x08, 0x00
		return slices.Concat(ethernet, s.ipv4(), tcp)
	}
	ethernet[12], ethernet[13] = 0x86, 0xdd
	return slices.Concat(ethernet, s.ipv6(), tcp)
}

func (s segment) ipv4() []byte {
	ip := make([]byte, ipv4Bytes)
	ip[0], ip[8], ip[9] = 0x45, hops, protocolTCP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+tcpBytes))
	copy(ip[12:], s.from.AsSlice())
	copy(ip[16:], s.to.AsSlice())
	sum := sumOf(ip)
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum&0xffff+sum>>16))
	return ip
}

// sumOf adds up the words of an IPv4 header, but for its checksum.
func sumOf(ip []byte) (sum uint32) {
	const checksum = 10
	for i := 0; i < ipv4Bytes; i += 2 {
		if i != checksum {
			sum += uint32(binary.BigEndian.Uint16(ip[i:]))
		}
	}
	return sum
}

func (s segment) ipv6() []byte {
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 6<<4, protocolTCP, hops
	binary.BigEndian.PutUint16(ip[4:], tcpBytes)
	copy(ip[8:], s.from.AsSlice())
	copy(ip[24:], s.to.AsSlice())
	return ip
}
