// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"cilium.local/cilium/test/lab"
)

// exchange sends a few bytes to an echo server and waits for them.
func exchange(conn net.Conn, limit time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 4))
	return err
}

// addAddress gives a workload an address that is not its own.
func addAddress(n *lab.Namespace, ip netip.Addr) error {
	return n.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(32, 32)}})
	})
}

func sendUDPFrom(n *lab.Namespace, from netip.Addr, to netip.AddrPort) error {
	return n.Do(func() error {
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("spoofed"))
		return err
	})
}

// dropped is the packet count of a drop reason, in both directions.
func dropped(t *testing.T, a *apps, reason string) int {
	t.Helper()
	sum := 0
	for line := range strings.SplitSeq(a.cli("bpf", "metrics", "list"), "\n") {
		rest, found := strings.CutPrefix(line, reason)
		if !found {
			continue
		}
		var direction string
		var packets int
		if _, err := fmt.Sscan(rest, &direction, &packets); err != nil {
			t.Fatalf("metrics line %q: %v", line, err)
		}
		sum += packets
	}
	return sum
}
