// SPDX-License-Identifier: Apache-2.0

package device_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/internal/datapath/device"
)

// TestNodeRoutesComeAndGo adds routes by the overlay's device and by a neighbour.
func TestNodeRoutesComeAndGo(t *testing.T) {
	ns := namespace(t)
	in(t, ns, func() error {
		cfg := device.OverlayConfig{Name: "overlay", Encapsulation: "vxlan", UnderlayMTU: 1500, IPv6: true}
		index, err := device.SetupOverlay(cfg)
		if err != nil {
			return err
		}
		again, err := device.SetupOverlay(cfg)
		if err != nil || again != index {
			t.Errorf("set up again: device %d, %v; want %d, as it was", again, err, index)
		}
		cfg.Port = 9999
		if index, err = device.SetupOverlay(cfg); err != nil || index == again {
			t.Errorf("with another port it is still device %d, %v", index, err)
		}
		if _, err := device.SetupHost(t.Context(), device.HostConfig{IPv4: gateway4, IPv6: gateway6, Ranges: ranges, MTU: 1500}); err != nil {
			return err
		}
		routes := device.NewNodeRoutes()
		want := map[netip.Prefix]device.NodeRoute{
			netip.MustParsePrefix("10.2.0.0/24"): {Overlay: index, Source: gateway4},
			netip.MustParsePrefix("fd02::/112"):  {Overlay: index, Source: gateway6},
		}
		for to, r := range want {
			if err := routes.Update(to, r); err != nil {
				t.Error(err)
			}
			if err := routes.Update(to, r); err != nil {
				t.Errorf("again: %v", err)
			}
		}
		// A node that is no neighbour is the network's business: nothing is missing, and
		// nothing is in the kernel.
		left := netip.MustParsePrefix("10.9.0.0/24")
		if err := routes.Update(left, device.NodeRoute{Via: netip.MustParseAddr("192.0.2.9"), Source: gateway4}); err != nil {
			t.Error(err)
		}
		if is, err := routes.Dump(); err != nil || !is[left].Via.IsValid() {
			t.Errorf("a route that is left to the network is missed: %v, %v", is, err)
		}
		is, err := device.NewNodeRoutes().Dump()
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want, is, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("routes (-want +is):\n%s", diff)
		}
		if err := routes.Delete(left); err != nil {
			t.Error(err)
		}
		for to := range want {
			if err := routes.Delete(to); err != nil {
				t.Error(err)
			}
			if err := routes.Delete(to); err != nil {
				t.Errorf("again: %v", err)
			}
		}
		if left, err := routes.Dump(); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
		return device.RemoveOverlay("overlay")
	})
}
