// SPDX-License-Identifier: Apache-2.0

// Package l4 names transport protocols and ports.
package l4

import (
	"fmt"
	"strconv"
	"strings"
)

// Protocol is an IANA protocol number; Any matches all protocols.
type Protocol uint8

// The protocols that policy can name.
const (
	Any    Protocol = 0
	ICMP   Protocol = 1
	TCP    Protocol = 6
	UDP    Protocol = 17
	ICMPv6 Protocol = 58
	SCTP   Protocol = 132
)

var names = map[Protocol]string{
	Any: "ANY", ICMP: "ICMP", TCP: "TCP", UDP: "UDP", ICMPv6: "ICMPv6", SCTP: "SCTP",
}

// String returns the name that policy documents use, or the number.
func (p Protocol) String() string {
	if name, ok := names[p]; ok {
		return name
	}
	return strconv.Itoa(int(p))
}

// HasPorts reports whether the protocol has source and destination ports.
func (p Protocol) HasPorts() bool { return p == TCP || p == UDP || p == SCTP }

// ParseProtocol reads a protocol name, in any case. The empty text is Any.
func ParseProtocol(text string) (Protocol, error) {
	if text == "" {
		return Any, nil
	}
	for p, name := range names {
		if strings.EqualFold(name, text) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("protocol %q: use TCP, UDP, SCTP, ICMP, ICMPv6 or ANY", text)
}

// Port is a protocol with a port; for ICMP and ICMPv6 the port is the message type.
type Port struct {
	Protocol Protocol
	Number   uint16
}

// ParsePort reads "80", "80/tcp" or "8/icmp"; without a protocol it is Any.
func ParsePort(text string) (Port, error) {
	number, proto, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return Port{}, fmt.Errorf("port %q: use a number from 0 to 65535, as in 80/tcp", text)
	}
	p, err := ParseProtocol(proto)
	if err != nil {
		return Port{}, fmt.Errorf("port %q: %w", text, err)
	}
	return Port{Protocol: p, Number: uint16(n)}, nil
}

// String returns "80/TCP".
func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Number, p.Protocol) }
