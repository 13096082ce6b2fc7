// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/datapath/probe"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// By when an answered client knows. Linux overlooks an ICMP error that comes back
// while the system call still holds the socket, which over veth it does; TCP then
// learns from the answer to its second SYN, after a second.
const (
	soon  = 500 * time.Millisecond
	later = 2500 * time.Millisecond
)

// outsider connects a machine beyond the host, which the host forwards for, and
// returns its namespace.
func (l *live) outsider() string {
	t := l.t
	away := namespace(t.(*testing.T), "away")
	must(t, device.InNamespace(l.home, func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "away"}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		fd, err := os.Open(away)
		if err != nil {
			return err
		}
		defer fd.Close()
		peer, err := netlink.LinkByName("away")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetNsFd(peer, int(fd.Fd())); err != nil {
			return err
		}
		for _, name := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
			if err := os.WriteFile(name, []byte("1"), 0); err != nil {
				return err
			}
		}
		return address("uplink", "192.0.2.1/24", "2001:db8::1/64")
	}))
	must(t, device.InNamespace(away, func() error {
		if err := address("away", "192.0.2.9/24", "2001:db8::9/64"); err != nil {
			return err
		}
		for to, via := range map[string]string{"10.15.0.0/16": "192.0.2.1", "f00d::/16": "2001:db8::1"} {
			_, network, _ := net.ParseCIDR(to)
			if err := netlink.RouteAdd(&netlink.Route{Dst: network, Gw: net.ParseIP(via)}); err != nil {
				return err
			}
		}
		return nil
	}))
	return away
}

func address(device string, addresses ...string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	for _, text := range addresses {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

// connect opens a connection, or sends a datagram on a connected socket and waits
// for what comes of it; control sets socket options.
func connect(path, network string, to netip.AddrPort, wait time.Duration, control func(fd uintptr) error) error {
	var c net.Conn
	err := device.InNamespace(path, func() (err error) {
		d := net.Dialer{Timeout: wait}
		d.SetMultipathTCP(false)
		if control != nil {
			d.ControlContext = func(_ context.Context, _, _ string, raw syscall.RawConn) (err error) {
				return errors.Join(raw.Control(func(fd uintptr) { err = control(fd) }), err)
			}
		}
		c, err = d.Dial(network, to.String())
		return err
	})
	if err != nil || network == "tcp" {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 10))
	return err
}

func TestARefusedClientLearnsItAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for clients to try again")
	}
	features, err := probe.Probe()
	must(t, err)
	for _, legacy := range []bool{false, true} {
		if !legacy && !features.TCX {
			continue
		}
		t.Run(map[bool]string{false: "tcx", true: "clsact"}[legacy], func(t *testing.T) { refused(t, newLive(t, legacy)) })
	}
}

func refused(t *testing.T, l *live) {
	away := l.outsider()
	for _, ip := range []map[string]netip.Addr{l.ipv4, l.ipv6} {
		server := netip.AddrPortFrom(ip["app1"], 80)
		l.serve(l.workload["app1"], server)
		prohibited := syscall.EHOSTUNREACH
		if server.Addr().Is6() {
			prohibited = syscall.EACCES
		}
		for name, client := range map[string]string{"container": l.workload["app2"], "host": l.home, "outside": away} {
			l.policy(policyOf(1), everything())
			// A fresh device may lose the first packet.
			if err := connect(client, "tcp", server, later, nil); err != nil {
				t.Fatalf("%s to %s, allowed: %v", name, server, err)
			}
			for _, c := range []struct {
				network  string
				wait     time.Duration
				response compile.Response
				want     error
			}{
				{"tcp", soon, compile.ResponseRST, syscall.ECONNREFUSED}, {"tcp", later, compile.ResponseICMP, prohibited},
				{"udp", soon, compile.ResponseRST, prohibited}, {"udp", soon, compile.ResponseICMP, prohibited},
				{"udp", soon, compile.ResponseDrop, os.ErrDeadlineExceeded},
			} {
				l.policy(policyOf(1), answered(policy.Ingress, c.response))
				if err := connect(client, c.network, server, c.wait, nil); !errors.Is(err, c.want) {
					t.Errorf("%s to %s by %s, response %d: %v, want %v", name, server, c.network, c.response, err, c.want)
				}
			}
		}
		l.policy(policyOf(1), everything())
		l.policy(policyOf(2), answered(policy.Egress, compile.ResponseRST))
		for name, to := range map[string]netip.AddrPort{"container": server, "host": netip.AddrPortFrom(gatewayOf(server.Addr()), 80)} {
			if err := connect(l.workload["app2"], "tcp", to, soon, nil); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("container to %s, egress denied: %v", name, err)
			}
		}
		l.policy(policyOf(2), everything())
	}
}

func gatewayOf(ip netip.Addr) netip.Addr {
	if ip.Is4() {
		return gateway4
	}
	return gateway6
}

// TestARunningConnectionIsResetWhenItsAllowIsRevoked has a client in the middle of
// sending much, in frames of segmentation offload.
func TestARunningConnectionIsResetWhenItsAllowIsRevoked(t *testing.T) {
	l := newLiveNode(t)
	server := netip.AddrPortFrom(l.ipv6["app1"], 80)
	l.serve(l.workload["app1"], server)
	var c net.Conn
	must(t, device.InNamespace(l.workload["app2"], func() (err error) {
		c, err = net.DialTimeout("tcp", server.String(), 5*time.Second)
		return err
	}))
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	go func() { _, _ = io.Copy(struct{ io.Writer }{io.Discard}, c) }()
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := c.Write(make([]byte, 1<<20)); err != nil {
				failed <- err
				return
			}
		}
	}()
	time.Sleep(50 * time.Millisecond)
	l.policy(policyOf(2), answered(policy.Egress, compile.ResponseRST))
	if err := <-failed; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("the client got %v", err)
	}
}

// TestAWorkloadCannotForgeTheMarkOfAnswers has one mark what it sends with each of
// our marks; the kernel clears them on the way out of its namespace.
func TestAWorkloadCannotForgeTheMarkOfAnswers(t *testing.T) {
	l := newLiveNode(t)
	l.policy(policyOf(2), answered(policy.Egress, compile.ResponseDrop))
	for _, mark := range []int{0x0e00, 0x0f00} {
		before := l.drops()[flow.DropDenyRule]
		err := connect(l.workload["app2"], "udp", netip.AddrPortFrom(gateway4, 80), soon, func(fd uintptr) error {
			return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
		})
		if !errors.Is(err, os.ErrDeadlineExceeded) || l.drops()[flow.DropDenyRule] != before+1 {
			t.Errorf("mark %#x: %v, and %d drops", mark, err, l.drops()[flow.DropDenyRule]-before)
		}
	}
}
