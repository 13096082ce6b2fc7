// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"strings"
	"testing"
)

// TestMistakesInTheWayOfPacketsAreFoundFirst checks what needs no node to be known: not
// its addresses, and not the store.
func TestMistakesInTheWayOfPacketsAreFoundFirst(t *testing.T) {
	good := Config{
		NodeName: "node1", StateDir: "/s", SocketPath: "/s/sock", BPFRoot: "/b",
		Cluster: ClusterConfig{Name: "default"}, Network: NetworkConfig{IPv4Range: netip.MustParsePrefix("10.1.0.0/24")},
		Policy: PolicyConfig{Mode: "default"}, Store: StoreConfig{LeaseTTL: minLeaseTTL},
	}
	if err := good.validate(); err != nil {
		t.Fatalf("without a mistake: %v", err)
	}
	for want, routing := range map[string]RoutingConfig{
		`--routing "vlan": use one of none, native, `: {Mode: "vlan"},
		"--tunnel-port 70000: use 1 to 65535":         {TunnelPort: 70000},
		"--node-ipv4 ::1: it is no IPv4 address":      {IPv4: netip.MustParseAddr("::1")},
		"--node-ipv6 10.0.0.1: it is no IPv6 address": {IPv6: netip.MustParseAddr("10.0.0.1")},
	} {
		bad := good
		bad.Routing = routing
		if err := bad.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, and not %q", err, want)
		}
	}
	routing := RoutingConfig{Mode: routingNative, NativeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}}
	if err := routing.carries(good.Network.IPv4Range); err == nil || !strings.Contains(err.Error(), "10.1.0.0/24") {
		t.Errorf("a range that the network does not carry: %v", err)
	}
}
