// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cilium.local/cilium/test/lab"
)

// TestPacketsThatDoNotFitIntoTheTunnelAreAnswered has workloads whose devices were
// given a larger MTU than the agent gave them send more than the tunnel takes.
func TestPacketsThatDoNotFitIntoTheTunnelAreAnswered(t *testing.T) {
	for name, test := range map[string]struct {
		wire lab.WireOptions
		mtu  int
	}{
		"over IPv4": {lab.WireOptions{}, 1450}, "over IPv6": {lab.WireOptions{NoIPv4: true}, 1430},
		"on a larger wire": {lab.WireOptions{MTU: 9000}, 8950},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, lab.ClusterOptions{Nodes: 2, Wire: test.wire, Flags: []string{"--routing=vxlan"}})
			client, server := c.apps["app2"][0], c.apps["app1"][1]
			for _, w := range []*lab.Workload{client, server} {
				run(t, w.Namespace, "ip", "link", "set", "eth0", "mtu", fmt.Sprint(test.mtu+50))
			}
			for _, n := range c.Nodes { // a device takes no more than its own MTU from its peer
				run(t, n.Namespace, "sh", "-c", fmt.Sprintf("for d in $(ip -o link | grep -o 'lxc[0-9a-f]*'); do ip link set $d mtu %d; done", test.mtu+50))
			}
			for _, to := range c.addresses("app1", 1) {
				if got := pathMTU(t, client.Namespace, to, test.mtu+50); got != test.mtu {
					t.Errorf("the way to %s takes %d bytes, by what its sender learns; want %d", to, got, test.mtu)
				}
			}
			// What may be cut arrives in pieces.
			large := bytes.Repeat([]byte("x"), 3*test.mtu)
			for _, to := range c.addresses("app1", 1) {
				if err := exchange(t, client, to, large); err != nil {
					t.Errorf("a datagram of %d bytes to %s: %v", len(large), to, err)
				}
			}
		})
	}
}

// exchange sends a datagram and waits for it to come back. The first answer over IPv6 is
// lost: its sender has to learn the MTU, too.
func exchange(t *testing.T, from *lab.Workload, to netip.Addr, data []byte) (err error) {
	for range 3 {
		if err = from.RoundTripUDP(within(t, time.Second), netip.AddrPortFrom(to, lab.ProbePort), data); err == nil {
			return nil
		}
	}
	return err
}

// pathMTU sends packets of a size that must not be cut, until the kernel has learnt what
// fits, which it returns in bytes.
func pathMTU(t *testing.T, from *lab.Namespace, to netip.Addr, size int) (mtu int) {
	t.Helper()
	err := from.Do(func() error {
		family, level, discover, known, headers := unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU, 28
		var addr unix.Sockaddr = &unix.SockaddrInet4{Port: lab.ProbePort, Addr: as4(to)}
		if to.Is6() {
			family, level, discover, known, headers = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU, 48
			addr = &unix.SockaddrInet6{Port: lab.ProbePort, Addr: to.As16()}
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := errors.Join(unix.SetsockoptInt(fd, level, discover, unix.IP_PMTUDISC_DO), unix.Connect(fd, addr)); err != nil {
			return err
		}
		data := make([]byte, size-headers)
		for range 50 {
			if _, err = unix.Write(fd, data); errors.Is(err, unix.EMSGSIZE) {
				mtu, err = unix.GetsockoptInt(fd, level, known)
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
		return fmt.Errorf("nobody says that %d bytes are too many", size)
	})
	if err != nil {
		t.Error(err)
	}
	return mtu
}

func as4(addr netip.Addr) (bytes [4]byte) {
	if addr.Is4() {
		bytes = addr.As4()
	}
	return bytes
}
