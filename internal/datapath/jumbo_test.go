// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/flow"
)

// ipLengthMax is the longest packet whose header can say its length.
const ipLengthMax = 65535

// enlarge lets a device have frames of up to 150,000 bytes (BIG TCP).
func enlarge(t *testing.T, path, name string) {
	const size = 150_000
	must(t, device.InNamespace(path, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, set := range []func(netlink.Link, int) error{
			netlink.LinkSetGSOMaxSize, netlink.LinkSetGROMaxSize,
			netlink.LinkSetGSOIPv4MaxSize, netlink.LinkSetGROIPv4MaxSize,
		} {
			if err := set(link, size); err != nil {
				return err
			}
		}
		return nil
	}))
}

// sniffer is a socket that sees all packets of a namespace.
func sniffer(t *testing.T, path string) int {
	var fd int
	must(t, device.InNamespace(path, func() (err error) {
		protocol := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(protocol))
		return err
	}))
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
	return fd
}

// longest empties a sniffer and returns the bytes of the longest packet.
func longest(t *testing.T, fd int) (bytes int) {
	for {
		n, _, err := unix.Recvfrom(fd, make([]byte, 64), unix.MSG_TRUNC)
		if err == unix.EAGAIN {
			return bytes
		}
		must(t, err)
		bytes = max(bytes, n)
	}
}

// TestFramesLongerThanTheirHeadersCanSay moves data over devices that allow BIG TCP.
func TestFramesLongerThanTheirHeadersCanSay(t *testing.T) {
	l := newLiveNode(t)
	for id, name := range []string{1: "app1", 2: "app2"} {
		if name != "" {
			enlarge(t, l.home, device.HostName(uint16(id)))
			enlarge(t, l.workload[name], "eth0")
		}
	}
	for _, ip := range []map[string]netip.Addr{l.ipv4, l.ipv6} {
		server := netip.AddrPortFrom(ip["app1"], 80)
		l.serve(l.workload["app1"], server)
		for _, client := range []string{l.workload["app2"], l.home} {
			seen := sniffer(t, l.workload["app1"])
			must(t, ask(client, server, 8<<20, 5*time.Second))
			if n := longest(t, seen); n <= ipLengthMax {
				t.Errorf("%s: the longest packet has %d bytes: the kernel made no BIG TCP", server, n)
			}
		}
	}
	if drops := l.drops(); len(drops) > 0 && (len(drops) > 1 || drops[flow.DropUnroutable] == 0) {
		t.Errorf("drops of allowed traffic: %v", drops)
	}
}

// TestOnlyOffloadLeavesTheLengthOut sends what claims to be a jumbo frame and was not
// made by segmentation offload.
func TestOnlyOffloadLeavesTheLengthOut(t *testing.T) {
	v4, v6 := families[0], families[1]
	n := pair(t, v4)
	data := frame{src: v4.app1, dst: v4.app2}.tcp(t, 1, 80, "S")
	binary.BigEndian.PutUint16(data[14+2:], 0)
	fixIPv4Checksum(data)
	n.wantDrop("IPv4 of length 0", flow.DropInvalidPacket, n.send, data)

	n = pair(t, v6)
	data = frame{src: v6.app1, dst: v6.app2}.tcp(t, 1, 80, "S")
	binary.BigEndian.PutUint16(data[14+4:], 0)
	n.wantDrop("IPv6 of length 0", flow.DropL4Header, n.send, data)
	data = chain(t, hopByHop, tcp, 0, 0xc2, 4, 0, 1, 0x86, 0xa0)
	n.wantDrop("a jumbo option and a length", flow.DropIPv6Extension, n.send, data)
	binary.BigEndian.PutUint16(data[14+4:], 0)
	n.wantDrop("a jumbo option and length 0", flow.DropIPv6Extension, n.send, data)
}
