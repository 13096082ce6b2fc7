// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"time"
)

// Types of ICMP messages (RFC 792; RFC 4443, section 4).
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// echo asks an address by ICMP and waits for its answer until ctx ends.
func echo(ctx context.Context, addr netip.Addr) error {
	network, request, reply := "ip4:icmp", byte(echoRequest4), byte(echoReply4)
	if addr.Is6() {
		network, request, reply = "ip6:ipv6-icmp", echoRequest6, echoReply6
	}
	conn, err := net.DialIP(network, nil, &net.IPAddr{IP: addr.AsSlice()})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	return exchange(conn, request, reply)
}

// exchange sends a request, and reads until its reply is there: the socket gets what
// others asked the same node for, too.
func exchange(conn *net.IPConn, request, reply byte) error {
	message := make([]byte, 8+16)
	message[0] = request
	_, _ = rand.Read(message[4:]) // identifier, number and content; never fails
	if request == echoRequest4 {  // in IPv6 the kernel does it, which knows the addresses
		binary.BigEndian.PutUint16(message[2:], checksum(message))
	}
	if _, err := conn.Write(message); err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFromIP(buffer)
		if err != nil {
			return err
		}
		if got := buffer[:n]; n >= 8 && got[0] == reply && bytes.Equal(got[4:], message[4:]) {
			return nil
		}
	}
}

// checksum is that of RFC 1071, of a message of even length.
func checksum(message []byte) uint16 {
	var sum uint32
	for i := 0; i < len(message); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(message[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}
