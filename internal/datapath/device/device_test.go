// SPDX-License-Identifier: Apache-2.0

package device_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/device"
)

var (
	gateway4 = netip.MustParseAddr("10.15.0.1")
	gateway6 = netip.MustParseAddr("f00d::a0f:0:1")
	ranges   = []netip.Prefix{netip.MustParsePrefix("10.15.0.0/16"), netip.MustParsePrefix("f00d::a0f:0:0:0/96")}
)

// namespace makes a network namespace that lives as long as the test.
func namespace(t *testing.T) (path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	made := make(chan netns.NsHandle, 1)
	go func() {
		runtime.LockOSThread()
		origin, err := netns.Get()
		if err != nil {
			t.Errorf("open the current namespace: %v", err)
		}
		defer origin.Close()
		ns, err := netns.New()
		if err != nil {
			t.Errorf("make a namespace: %v", err)
		}
		if netns.Set(origin) == nil {
			runtime.UnlockOSThread()
		}
		made <- ns
	}()
	ns := <-made
	t.Cleanup(func() { ns.Close() })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(ns))
}

// in runs fn inside the namespace and fails the test on an error.
func in(t *testing.T, path string, fn func() error) {
	t.Helper()
	if err := device.InNamespace(path, fn); err != nil {
		t.Fatal(err)
	}
}

func hostConfig() device.HostConfig {
	return device.HostConfig{IPv4: gateway4, IPv6: gateway6, Ranges: ranges, MTU: 1500}
}

// workload is a container with all that the agent makes for it, but no programs.
type workload struct {
	id    uint16
	netns string
	pair  device.PairSpec
	iface device.Interface
	host  device.HostRoute
}

func newWorkload(t *testing.T, id uint16, hostMAC net.HardwareAddr) workload {
	mac := device.RandomMAC()
	ipv4 := netip.AddrFrom4([4]byte{10, 15, byte(id >> 8), byte(id)})
	ipv6 := netip.MustParseAddr(fmt.Sprintf("f00d::a0f:0:%x", id))
	return workload{
		id: id, netns: namespace(t),
		pair: device.PairSpec{
			Endpoint: id, HostName: device.HostName(id), PeerName: device.PeerName(id),
			HostMAC: hostMAC, PeerMAC: mac, MTU: 1500, IPv6: true,
		},
		iface: device.Interface{
			Name: "eth0", MAC: mac, MTU: 1500,
			IPv4: ipv4, IPv6: ipv6, GatewayIPv4: gateway4, GatewayIPv6: gateway6,
		},
		host: device.HostRoute{
			HostName: device.HostName(id), MAC: mac,
			IPv4: ipv4, IPv6: ipv6, GatewayIPv4: gateway4, GatewayIPv6: gateway6,
		},
	}
}

// attach does what the agent does, in the caller's namespace.
func (w workload) attach() error {
	if _, _, err := device.CreatePair(w.pair); err != nil {
		return err
	}
	if err := device.AddHostRoutes(w.host); err != nil {
		return err
	}
	return device.MoveAndConfigure(w.pair.PeerName, w.netns, w.iface)
}

// knowGateway stands for the programs, which answer for the gateway.
func (w workload) knowGateway(t *testing.T) {
	in(t, w.netns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, addr := range []netip.Addr{gateway4, gateway6} {
			err := netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: w.pair.HostMAC})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// node makes a namespace with the gateway device.
func node(t *testing.T) (path string, host *device.Host) {
	path = namespace(t)
	in(t, path, func() (err error) {
		host, err = device.SetupHost(context.Background(), hostConfig())
		return err
	})
	return path, host
}

// echo sends one request over TCP from one namespace to a listener in another.
func echo(t *testing.T, from, to string, addr netip.Addr) error {
	t.Helper()
	var listener net.Listener
	in(t, to, func() (err error) {
		lc := net.ListenConfig{}
		lc.SetMultipathTCP(false)
		listener, err = lc.Listen(t.Context(), "tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	defer listener.Close()
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, io.LimitReader(c, 5))
	}()
	return device.InNamespace(from, func() error {
		c, err := net.DialTimeout("tcp", listener.Addr().String(), 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		data, err := io.ReadAll(c)
		if err == nil && string(data) != "hello" {
			err = fmt.Errorf("got %q", data)
		}
		return err
	})
}

func TestWorkloadsAndHostReachEachOtherInBothFamilies(t *testing.T) {
	host, h := node(t)
	a, b := newWorkload(t, 0x102, h.MAC), newWorkload(t, 0x103, h.MAC)
	for _, w := range []workload{a, b} {
		in(t, host, w.attach)
		w.knowGateway(t)
	}
	cases := []struct {
		name     string
		from, to string
		addr     netip.Addr
	}{
		{"host to workload IPv4", host, a.netns, a.iface.IPv4},
		{"host to workload IPv6", host, a.netns, a.iface.IPv6},
		{"workload to host IPv4", a.netns, host, gateway4},
		{"workload to host IPv6", a.netns, host, gateway6},
		{"workload to workload IPv4", a.netns, b.netns, b.iface.IPv4},
		{"workload to itself IPv4", a.netns, a.netns, a.iface.IPv4},
		{"workload to itself IPv6", a.netns, a.netns, a.iface.IPv6},
	}
	if _, err := os.Stat("/proc/sys/net/ipv6/conf/all/force_forwarding"); err == nil {
		cases = append(cases, struct {
			name     string
			from, to string
			addr     netip.Addr
		}{"workload to workload IPv6 through the host's stack", a.netns, b.netns, b.iface.IPv6})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if err := echo(t, c.from, c.to, c.addr); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHostSendsToWorkloadsFromTheGatewayAddress(t *testing.T) {
	host, h := node(t)
	w := newWorkload(t, 0x102, h.MAC)
	in(t, host, w.attach)
	in(t, host, func() error {
		for _, pair := range [][2]netip.Addr{{w.iface.IPv4, gateway4}, {w.iface.IPv6, gateway6}} {
			routes, err := netlink.RouteGet(pair[0].AsSlice())
			if err != nil {
				return err
			}
			if !routes[0].Src.Equal(pair[1].AsSlice()) {
				t.Errorf("to %s from %s, want %s", pair[0], routes[0].Src, pair[1])
			}
		}
		return nil
	})
}

func TestUnknownAddressesOfTheRangesAreUnreachable(t *testing.T) {
	host, _ := node(t)
	in(t, host, func() error {
		for _, addr := range []string{"10.15.200.1", "f00d::a0f:0:7777"} {
			if _, err := netlink.RouteGet(net.ParseIP(addr)); !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) {
				t.Errorf("%s: got %v, want unreachable", addr, err)
			}
		}
		return nil
	})
}

func TestSetupHostAdoptsWhatIsThereAndDropsFormerAddressesAndRanges(t *testing.T) {
	host, first := node(t)
	in(t, host, func() error {
		cfg := hostConfig()
		cfg.IPv4 = netip.MustParseAddr("10.16.0.1")
		cfg.Ranges = []netip.Prefix{netip.MustParsePrefix("10.16.0.0/16")}
		second, err := device.SetupHost(t.Context(), cfg)
		if err != nil {
			return err
		}
		if second.Index != first.Index || second.MAC.String() != first.MAC.String() {
			t.Errorf("the device was replaced: %v, then %v", first, second)
		}
		addrs, err := device.HostAddresses()
		if err != nil {
			return err
		}
		if want := []netip.Addr{cfg.IPv4, gateway6}; !slices.Equal(addrs, want) {
			t.Errorf("addresses %v, want %v", addrs, want)
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Type: unix.RTN_UNREACHABLE, Protocol: 193}, netlink.RT_FILTER_TYPE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return err
		}
		if len(routes) != 1 || routes[0].Dst.String() != "10.16.0.0/16" {
			t.Errorf("unreachable routes %v", routes)
		}
		return nil
	})
}

func TestSetupHostRefusesAForeignDevice(t *testing.T) {
	path := namespace(t)
	in(t, path, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "cilium_host"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		_, err := device.SetupHost(t.Context(), hostConfig())
		if err == nil || !strings.Contains(err.Error(), "not ours") {
			t.Errorf("got %v", err)
		}
		return nil
	})
}

func TestRemoveHostLeavesNothing(t *testing.T) {
	host, _ := node(t)
	in(t, host, func() error {
		for range 2 {
			if err := device.RemoveHost("cilium_host"); err != nil {
				return err
			}
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: 193}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return err
		}
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		if len(routes) != 0 || len(links) != 1 {
			t.Errorf("left: routes %v, links %v", routes, links)
		}
		return nil
	})
}

func TestLeftoverIsReplacedOnlyWhenAsked(t *testing.T) {
	host, h := node(t)
	w := newWorkload(t, 0x102, h.MAC)
	in(t, host, func() error {
		if _, _, err := device.CreatePair(w.pair); err != nil {
			return err
		}
		if _, _, err := device.CreatePair(w.pair); !errors.Is(err, device.ErrExists) {
			t.Errorf("got %v, want ErrExists", err)
		}
		w.pair.Replace = true
		return w.attach()
	})
}

func TestForeignDevicesAreNeitherListedNorDeletedNorReplaced(t *testing.T) {
	host, h := node(t)
	w := newWorkload(t, 0x102, h.MAC)
	in(t, host, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Alias = w.pair.HostName, "somebody's"
		foreign := &netlink.Veth{LinkAttrs: attrs, PeerName: "other"}
		if err := netlink.LinkAdd(foreign); err != nil {
			return err
		}
		if err := netlink.LinkSetAlias(foreign, "somebody's"); err != nil {
			return err
		}
		w.pair.Replace = true
		if _, _, err := device.CreatePair(w.pair); err == nil {
			t.Error("a foreign device was replaced")
		}
		if err := device.Delete(w.pair.HostName); err == nil {
			t.Error("a foreign device was deleted")
		}
		list, err := device.List()
		if len(list) != 0 {
			t.Errorf("listed %v", list)
		}
		return err
	})
}

func TestConfigureMayBeRepeatedAndCheckNamesEveryChange(t *testing.T) {
	host, h := node(t)
	w := newWorkload(t, 0x102, h.MAC)
	in(t, host, w.attach)
	in(t, host, func() error {
		for range 2 {
			if err := device.AddHostRoutes(w.host); err != nil {
				return err
			}
			if err := device.MoveAndConfigure(w.pair.PeerName, w.netns, w.iface); err != nil {
				return err
			}
		}
		return device.CheckInNetns(w.netns, w.iface)
	})
	in(t, w.netns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMTU(link, 1400); err != nil {
			return err
		}
		return netlink.AddrDel(link, &netlink.Addr{IPNet: netlink.NewIPNet(w.iface.IPv4.AsSlice())})
	})
	err := device.CheckInNetns(w.netns, w.iface)
	for _, want := range []string{"MTU is 1400", "10.15.1.2 is missing", "0.0.0.0/0 is missing"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

func TestContainerInterfaceHasNoLinkLocalAddress(t *testing.T) {
	host, h := node(t)
	w := newWorkload(t, 0x102, h.MAC)
	in(t, host, w.attach)
	for _, path := range []string{host, w.netns} {
		in(t, path, func() error {
			addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
			for _, a := range addrs {
				if a.IP.IsLinkLocalUnicast() {
					t.Errorf("%s has %s", a.Label, a.IPNet)
				}
			}
			return err
		})
	}
}

func TestNameTakenInTheContainerIsAnError(t *testing.T) {
	host, h := node(t)
	w := newWorkload(t, 0x102, h.MAC)
	in(t, w.netns, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	err := device.InNamespace(host, w.attach)
	if err == nil || !strings.Contains(err.Error(), "another device of that name") {
		t.Errorf("got %v", err)
	}
}

func TestSecondDefaultRouteIsRefused(t *testing.T) {
	host, h := node(t)
	w := newWorkload(t, 0x102, h.MAC)
	in(t, host, w.attach)
	second := newWorkload(t, 0x103, h.MAC)
	second.netns, second.iface.Name = w.netns, "eth1"
	err := device.InNamespace(host, second.attach)
	if err == nil || !strings.Contains(err.Error(), "another interface has it") {
		t.Errorf("got %v", err)
	}
}

func TestDeleteTakesRoutesAndContainerEndAndMayBeRepeated(t *testing.T) {
	host, h := node(t)
	w := newWorkload(t, 0x102, h.MAC)
	in(t, host, w.attach)
	in(t, host, func() error {
		list, err := device.List()
		if err != nil || len(list) != 1 || list[0].Endpoint != w.id || !list[0].Up || list[0].MTU != 1500 {
			t.Errorf("listed %+v, %v", list, err)
		}
		if err := device.DelHostRoutes(w.host); err != nil {
			return err
		}
		if err := device.DelHostRoutes(w.host); err != nil {
			return err
		}
		for range 2 {
			if err := device.Delete(w.pair.HostName); err != nil {
				return err
			}
		}
		if _, err := device.Find(w.pair.HostName); !device.IsNotFound(err) {
			t.Errorf("got %v", err)
		}
		return device.DelHostRoutes(w.host)
	})
	in(t, w.netns, func() error {
		if _, err := netlink.LinkByName("eth0"); !device.IsNotFound(err) {
			t.Errorf("the container end is still there: %v", err)
		}
		return nil
	})
}

func TestForwardingNamesWhatTheOperatorHasToSet(t *testing.T) {
	path := namespace(t)
	in(t, path, func() error {
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte("0"), 0); err != nil {
				return err
			}
		}
		s, err := device.Forwarding()
		if err != nil {
			return err
		}
		if len(s.Missing()) != 2 || s.IPv4 || s.IPv6 {
			t.Errorf("got %+v, missing %v", s, s.Missing())
		}
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
				return err
			}
		}
		s, err = device.Forwarding()
		if len(s.Missing()) != 0 {
			t.Errorf("still missing %v", s.Missing())
		}
		return err
	})
}

func TestSetupChangesNoSettingButOfOurOwnDevices(t *testing.T) {
	path := namespace(t)
	before := settings(t, path)
	in(t, path, func() error {
		_, err := device.SetupHost(t.Context(), hostConfig())
		return err
	})
	in(t, path, newWorkload(t, 0x102, device.RandomMAC()).attach)
	for name, value := range settings(t, path) {
		if before[name] != value {
			t.Errorf("%s was %q, is %q", name, before[name], value)
		}
	}
}

func settings(t *testing.T, path string) map[string]string {
	all := map[string]string{}
	in(t, path, func() error {
		for _, dev := range []string{"all", "default", "lo"} {
			for _, family := range []string{"ipv4", "ipv6"} {
				for _, name := range []string{"forwarding", "rp_filter", "accept_ra", "addr_gen_mode", "disable_ipv6", "send_redirects"} {
					file := "/proc/sys/net/" + family + "/conf/" + dev + "/" + name
					if data, err := os.ReadFile(file); err == nil {
						all[file] = string(data)
					}
				}
			}
		}
		return nil
	})
	return all
}

func TestWatchReportsAddressesAtOnceAndAfterAChange(t *testing.T) {
	host, _ := node(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reports, ended := make(chan []netip.Addr, 8), make(chan error, 1)
	go func() {
		ended <- device.InNamespace(host, func() error {
			return device.WatchHostAddresses(ctx, func(a []netip.Addr) { reports <- a })
		})
	}()
	expect := func(want ...netip.Addr) {
		t.Helper()
		select {
		case got := <-reports:
			if !slices.Equal(got, want) {
				t.Fatalf("got %v, want %v", got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no report of %v", want)
		}
	}
	expect(gateway4, gateway6)
	in(t, host, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(net.ParseIP("192.0.2.7"))})
	})
	expect(gateway4, netip.MustParseAddr("192.0.2.7"), gateway6)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestMTUIsThatOfTheDefaultRoutesDevice(t *testing.T) {
	host, _ := node(t)
	in(t, host, func() error {
		if mtu, err := device.DetectMTU(); err != nil || mtu != 1500 {
			t.Errorf("without devices: %d, %v", mtu, err)
		}
		for i, name := range []string{"up0", "up1"} {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MTU = name, 1300+100*i
			link := &netlink.Bridge{LinkAttrs: attrs}
			if err := netlink.LinkAdd(link); err != nil {
				return err
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, byte(i)*16+1).To4(), Mask: net.CIDRMask(28, 32)}}); err != nil {
				return err
			}
		}
		if mtu, err := device.DetectMTU(); err != nil || mtu != 1300 {
			t.Errorf("without a default route: %d, %v", mtu, err)
		}
		if err := netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 18).To4()}); err != nil {
			return err
		}
		mtu, err := device.DetectMTU()
		if mtu != 1400 {
			t.Errorf("with a default route: %d", mtu)
		}
		return err
	})
}

func TestAThreadIsNeverLeftInAnotherNamespace(t *testing.T) {
	path := namespace(t)
	origin, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer origin.Close()
	for range 50 {
		_ = device.InNamespace(path, func() error { return errors.New("whatever") })
	}
	done := make(chan struct{})
	go func() { // a goroutine that ends early
		defer close(done)
		err := device.InNamespace(path, func() error { runtime.Goexit(); return nil })
		if err == nil || !strings.Contains(err.Error(), "ended early") {
			t.Errorf("got %v", err)
		}
	}()
	<-done
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		ns, err := netns.GetFromPath("/proc/self/task/" + task.Name() + "/ns/net")
		if err != nil {
			continue // ended meanwhile
		}
		if !ns.Equal(origin) {
			t.Errorf("thread %s is in %s", task.Name(), ns.UniqueId())
		}
		ns.Close()
	}
}

func TestContainerEndIsMadeWhereItBelongs(t *testing.T) {
	host, h := node(t)
	w := newWorkload(t, 0x102, h.MAC)
	w.pair.PeerNetns = w.netns
	in(t, host, func() error {
		if _, _, err := device.CreatePair(w.pair); err != nil {
			return err
		}
		w.pair.Replace = true // the first is a leftover then
		if err := w.attach(); err != nil {
			return err
		}
		return device.CheckInNetns(w.netns, w.iface)
	})
	w.knowGateway(t)
	if err := echo(t, host, w.netns, w.iface.IPv6); err != nil {
		t.Error(err)
	}
	w.pair.PeerNetns = "/does/not/exist"
	if _, _, err := device.CreatePair(w.pair); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("got %v", err)
	}
}

func TestCreateAndConfigureIsQuick(t *testing.T) {
	host, h := node(t)
	for name, direct := range map[string]bool{"made in place": true, "moved": false} {
		var took []time.Duration
		for i := range uint16(10) {
			w := newWorkload(t, 0x200+i, h.MAC)
			if direct {
				w.pair.PeerNetns = w.netns
			}
			in(t, host, func() error {
				start := time.Now()
				if err := w.attach(); err != nil {
					return err
				}
				took = append(took, time.Since(start))
				return device.Delete(w.pair.HostName)
			})
		}
		slices.Sort(took)
		t.Logf("%s: median %v, longest %v", name, took[len(took)/2], took[len(took)-1])
		// The aim is 15 ms when made in place; a busy machine gets room.
		if median := took[len(took)/2]; direct && median > 100*time.Millisecond {
			t.Errorf("%s: median %v", name, median)
		}
	}
}

// A container's first connection must not wait for the kernel to notice, up to a
// second later, that the link has a carrier. The kernel counts link events of the
// whole machine against one limit, so some late ones may be another's doing, such as
// that of a test beside; without what makes them quick all are late.
func TestIPv6WorksAtOnce(t *testing.T) {
	host, h := node(t)
	var took []time.Duration
	for i, direct := range []bool{true, false, true, false} {
		w := newWorkload(t, 0x300+uint16(i), h.MAC)
		if direct {
			w.pair.PeerNetns = w.netns
		}
		in(t, host, w.attach)
		w.knowGateway(t)
		for _, c := range []struct {
			from, to string
			addr     netip.Addr
		}{{w.netns, host, gateway6}, {host, w.netns, w.iface.IPv6}} {
			start := time.Now()
			if err := echo(t, c.from, c.to, c.addr); err != nil {
				t.Error(err)
			}
			took = append(took, time.Since(start))
		}
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > 500*time.Millisecond {
		t.Errorf("half of the connections were late: %v", took)
	}
}
