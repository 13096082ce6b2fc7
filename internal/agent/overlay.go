// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"cilium.local/cilium/internal/datapath"
	"cilium.local/cilium/internal/datapath/device"
)

// minMTU is what IPv6 needs (RFC 8200, section 5), in bytes.
const minMTU = 1280

// findUnderlay fills in the addresses by which other nodes reach this one. A node may
// have none yet, because its network comes later: followUnderlay finds them then.
func (a *Agent) findUnderlay() error {
	r := &a.cfg.Routing
	a.underlays = nil
	for _, f := range []underlay{{addr: &r.IPv4}, {ipv6: true, addr: &r.IPv6}} {
		if f.addr.IsValid() {
			continue // named by a flag
		}
		found, err := device.FindUnderlay(f.ipv6, netip.Addr{})
		if err != nil {
			return err
		}
		*f.addr, f.best = found.Addr, found.Default
		a.underlays = append(a.underlays, f)
	}
	r.setDefault(a.cfg.Store.external())
	return nil
}

// underlay is an address between the nodes that the agent has found itself.
type underlay struct {
	ipv6 bool
	addr *netip.Addr
	best bool // it is that of the device with the default route
}

// ErrMoved ends an agent whose node has another address between the nodes than it began
// with. The next one, in the same process, registers and sets up tunnels by that address;
// the data plane notices as little as of any restart.
var ErrMoved = errors.New("this node's address has changed")

// underlayEvery is the time between two looks for the node's own addresses.
const underlayEvery = 5 * time.Second

// followUnderlay returns ErrMoved when the node is to be reached by another address.
func (a *Agent) followUnderlay(ctx context.Context) error {
	if a.cfg.Routing.Mode == routingNone {
		return nil
	}
	tick := time.NewTicker(underlayEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		present, err := device.HostAddresses()
		if err != nil {
			a.log.Warn("the node's addresses are not known", "error", err)
			continue
		}
		for _, f := range a.underlays {
			if f.best && slices.Contains(present, *f.addr) {
				continue // no look at the routes, of which there may be very many
			}
			found, err := device.FindUnderlay(f.ipv6, *f.addr)
			if err != nil {
				a.log.Warn("the node's addresses are not known", "error", err)
			} else if found.Addr.IsValid() && found.Addr != *f.addr {
				return fmt.Errorf("%w from %q to %s", ErrMoved, addrText(*f.addr), found.Addr)
			}
		}
	}
}

// placed fails while others could not reach this node.
func (c *RoutingConfig) placed() error {
	if c.Mode != routingNone && !c.underlay().IsValid() {
		return fmt.Errorf("--routing %s: this node has no address yet by which others could reach it: give it one, or name it with --node-ipv4 or --node-ipv6", c.Mode)
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
		UnderlayMTU: underlayMTU, UnderlayIPv6: !r.underlay().Is4(), // as long as there is none, too: then less fits
		IPv6: a.cfg.Network.IPv6Range.IsValid(),
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
	if r.Mode == routingNative && r.underlay().IsValid() {
		index, name, err := device.WithAddress(r.underlay())
		if err != nil {
			return err
		}
		if err := a.dp.AttachNetwork(datapath.Device{Index: index, Name: name}); err != nil {
			return err
		}
	}
	if err := datapath.Reclaim(); err != nil {
		return err
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
