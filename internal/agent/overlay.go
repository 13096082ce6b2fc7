// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net/netip"

	"cilium.local/cilium/internal/datapath"
	"cilium.local/cilium/internal/datapath/device"
)

// minMTU is what IPv6 needs (RFC 8200, section 5), in bytes.
const minMTU = 1280

// findUnderlay fills in the addresses by which other nodes reach this one. Routing that
// nobody has asked for is left out where there is none.
func (a *Agent) findUnderlay() error {
	r := &a.cfg.Routing
	for _, family := range []struct {
		ipv6 bool
		addr *netip.Addr
	}{{false, &r.IPv4}, {true, &r.IPv6}} {
		if family.addr.IsValid() {
			continue
		}
		found, err := device.UnderlayAddress(family.ipv6)
		if err != nil {
			return err
		}
		*family.addr = found
	}
	hasAddress := r.IPv4.IsValid() || r.IPv6.IsValid()
	r.setDefault(a.cfg.Store.external() && hasAddress)
	if r.Mode != routingNone && !hasAddress {
		return fmt.Errorf("--routing %s: this node has no address by which others could reach it: give it one, or name it with --node-ipv4 or --node-ipv6", r.Mode)
	}
	return nil
}

// underlay is this node's end of the tunnels: its IPv4 address where it has one.
func (c *RoutingConfig) underlay() netip.Addr {
	if c.IPv4.IsValid() {
		return c.IPv4
	}
	return c.IPv6
}

func (a *Agent) overlayConfig(underlayMTU int) device.OverlayConfig {
	r := a.cfg.Routing
	return device.OverlayConfig{
		Name: datapath.OverlayName, Encapsulation: r.Mode, Port: r.TunnelPort,
		UnderlayMTU: underlayMTU, UnderlayIPv6: r.underlay().Is6(), IPv6: a.cfg.Network.IPv6Range.IsValid(),
	}
}

// openOverlay makes the device that leads to the other nodes, or removes that of an
// agent that was configured otherwise. Workloads get what fits into the tunnel.
func (a *Agent) openOverlay() error {
	if !a.cfg.Routing.encapsulates() {
		return errors.Join(device.RemoveOverlay(datapath.OverlayName), a.dp.ForgetOverlay(), a.openNetwork())
	}
	if err := a.openNetwork(); err != nil {
		return err
	}
	cfg := a.overlayConfig(a.mtu)
	if cfg.MTU() < minMTU {
		return fmt.Errorf("--mtu %d: too little for %s, which leaves workloads %d bytes of the %d that IPv6 needs",
			a.mtu, cfg.Encapsulation, cfg.MTU(), minMTU)
	}
	index, err := device.SetupOverlay(cfg)
	if err != nil {
		return err
	}
	a.mtu, a.overlay = cfg.MTU(), index
	return a.dp.AttachOverlay(index, cfg.MTU())
}

// openNetwork puts the short cut of native routing on the device by which packets from
// other nodes come, and takes away that of an agent that was configured otherwise.
func (a *Agent) openNetwork() error {
	r := a.cfg.Routing
	if r.Mode == routingNative {
		index, name, err := device.WithAddress(r.underlay())
		if err != nil {
			return err
		}
		if err := a.dp.AttachNetwork(datapath.Device{Index: index, Name: name}); err != nil {
			return err
		}
	}
	present, err := device.List()
	if err != nil {
		return err
	}
	workloads := make([]datapath.Device, len(present))
	for i, d := range present {
		workloads[i] = datapath.Device{Index: d.Index, Name: d.Name}
	}
	return a.dp.DetachOthers(workloads)
}
