// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"cilium.local/cilium/test/lab"
)

// TestANodeWhoseAddressComesLateOrChanges starts an agent before its network is there, as
// before DHCP has answered, and then gives it an address, and later another one.
func TestANodeWhoseAddressComesLateOrChanges(t *testing.T) {
	c := &cluster{Cluster: lab.NewCluster(t, lab.ClusterOptions{Nodes: 2}), t: t, apps: map[string][]*lab.Workload{}}
	late := c.Nodes[1]
	first := netip.PrefixFrom(late.IPv4, 24)
	readdress := func(addrs ...netip.Prefix) {
		t.Helper()
		if err := late.Do(func() error { return onlyAddresses("eth0", addrs...) }); err != nil {
			t.Fatal(err)
		}
	}
	readdress()
	if err := c.StartAgents(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	result, err := late.CLI(within(t, 30*time.Second), "status")
	if err != nil || !strings.Contains(result.Stdout, "no address yet") {
		t.Errorf("status without an address: %v\n%s", err, result.Stdout)
	}
	app2, app1 := c.workload(c.Nodes[0], "app2"), c.workload(late, "app1")
	c.apply(`[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}]}]}]`)
	reached := func() bool { return app2.Ping(within(t, time.Second), app1.IPv4) == nil }
	other := netip.PrefixFrom(first.Addr().Next().Next().Next(), 24)
	for _, addr := range []netip.Prefix{first, other} {
		readdress(addr)
		for end := time.Now().Add(40 * time.Second); !reached(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the node with the address %s is not reached:\n%s\n%s", addr, c.cli(c.Nodes[0], "status"), late.Log(20))
			}
		}
	}
}

func onlyAddresses(device string, want ...netip.Prefix) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for i := range list {
		if err := netlink.AddrDel(link, &list[i]); err != nil {
			return err
		}
	}
	for _, p := range want {
		addr, err := netlink.ParseAddr(p.String())
		if err == nil {
			err = netlink.AddrAdd(link, addr)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
