// SPDX-License-Identifier: Apache-2.0

// Package datapath is the kernel side of a node: it loads the BPF programs,
// attaches them to workloads, and gives each map of the data plane a typed
// handle. Programs, maps and attachments are pinned, so that they go on working
// while no agent runs, and the next agent adopts them.
//
// All methods are safe for concurrent use.
package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"cilium.local/cilium/internal/datapath/attach"
	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/datapath/event"
	"cilium.local/cilium/internal/datapath/prog"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/reconcile"
)

// Config says how to open the data plane.
type Config struct {
	PinDir      string // folder on a bpffs, for this node alone
	Constants   prog.Constants
	Sizes       prog.Sizes
	LegacyHooks bool // attach by clsact filters also where tcx exists
}

// Device names the host side of a workload's veth pair.
type Device struct {
	Index int
	Name  string
}

// String names the device in errors.
func (d Device) String() string { return fmt.Sprintf("%s (index %d)", d.Name, d.Index) }

// Datapath is the data plane of one node. Make it with Open.
type Datapath struct {
	log      *slog.Logger
	pinDir   string
	loaded   *prog.Loaded
	staged   bool // other maps are in force until TakeOver
	attacher *attach.Attacher
	quick    *attach.Attacher
	settler  *settler
	epochs   *bpfmap.Epochs
	policies *bpfmap.Policies
	flows    *bpfmap.Flows
	network  string   // the device that AttachNetwork was called for
	others   []Device // those that AttachNetwork and AttachOverlay were called for
}

// Open loads the programs and creates or adopts the pinned maps. It changes
// nothing about what is attached. Maps of another layout are in force until TakeOver.
func Open(cfg Config, log *slog.Logger) (*Datapath, error) {
	loaded, err := prog.Load(cfg.PinDir, cfg.Constants, cfg.Sizes, log)
	if err != nil {
		return nil, err
	}
	m := &loaded.Maps
	epochs, err := bpfmap.NewEpochs(m.Control, m.Epochs, m.Endpoints)
	if err != nil {
		loaded.Close()
		return nil, err
	}
	flows, err := bpfmap.NewFlows(m.FlowWays, m.Flows)
	if err != nil {
		loaded.Close()
		return nil, err
	}
	d := &Datapath{
		log:      log,
		pinDir:   cfg.PinDir,
		loaded:   loaded,
		attacher: attach.New(cfg.PinDir, cfg.LegacyHooks),
		quick:    attach.New(cfg.PinDir, true),
		settler:  newSettler(),
		epochs:   epochs,
		policies: bpfmap.NewPolicies(m.Policies, m.PolicySpec, epochs),
		flows:    flows,
	}
	if err := d.stage(); err != nil {
		d.Close()
		return nil, fmt.Errorf("prepare to take over from maps of another layout: %w", err)
	}
	return d, nil
}

// Close frees this process's handles. What is pinned or attached stays.
func (d *Datapath) Close() {
	d.policies.Close()
	_ = errors.Join(d.flows.Close(), d.epochs.Close()) // nothing depends on them any more
	d.loaded.Close()
}

// Attach puts the programs on both directions of a workload's device, or updates
// those that an earlier agent put there, without a gap. A device without programs
// gets filters, which takes half a millisecond; see Settle for the rest.
func (d *Datapath) Attach(dev Device) error {
	if d.attacher.Form() == attach.TCX {
		if adopted, _ := d.attacher.Adopt(dev.Index, dev.Name, d.loaded.FromWorkload, d.loaded.ToWorkload); adopted {
			return nil
		}
		if d.quick.Attach(dev.Index, dev.Name, d.loaded.FromWorkload, d.loaded.ToWorkload) == nil {
			d.settler.add(dev)
			return nil
		}
	}
	return d.attachLinks(dev)
}

// OverlayName is the name of the device that leads to all other nodes.
const OverlayName = "cilium_overlay"

// AttachOverlay puts the programs of the tunnel's device in place, or updates them,
// and sends packets for other nodes by it from then on; the largest that fit have mtu
// bytes.
func (d *Datapath) AttachOverlay(ifindex, mtu int) error {
	if d.loaded.FromOverlay == nil {
		return errors.New("the programs of the tunnel's device are not loaded: set Constants.Overlay")
	}
	dev := Device{Index: ifindex, Name: OverlayName}
	if err := d.attachAny(dev); err != nil {
		return fmt.Errorf("attach to %s: %w", OverlayName, err)
	}
	d.others = append(d.others, dev)
	return d.epochs.SetOverlay(ifindex, mtu)
}

// ForgetOverlay sends no packets to other nodes any more. The device is gone.
func (d *Datapath) ForgetOverlay() error {
	return errors.Join(d.epochs.SetOverlay(0, 0), d.attacher.Forget(OverlayName))
}

// AttachNetwork puts the short cut for packets from other nodes on the device by which
// they come. It is called before TakeOver, or not at all.
func (d *Datapath) AttachNetwork(dev Device) error {
	if d.loaded.FromNetwork == nil {
		return errors.New("the program of the network's device is not loaded: set Constants.Native")
	}
	d.network = dev.Name
	d.others = append(d.others, dev)
	return d.attachAny(dev)
}

// OtherDevices are those that are not of workloads.
func (d *Datapath) OtherDevices() []Device { return d.others }

// DetachOthers removes the programs from all devices but those named, that of the
// overlay and that of AttachNetwork.
func (d *Datapath) DetachOthers(workloads []Device) error {
	keep := map[string]bool{OverlayName: true, d.network: true}
	for _, dev := range workloads {
		keep[dev.Name] = true
	}
	found, err := d.attacher.Devices()
	for _, name := range found {
		if keep[name] {
			continue
		}
		if dev, findErr := net.InterfaceByName(name); findErr == nil {
			err = errors.Join(err, d.attacher.Detach(dev.Index, name))
		} else {
			err = errors.Join(err, d.attacher.Forget(name))
		}
	}
	return err
}

// programsOf returns the programs that belong on a device.
func (d *Datapath) programsOf(ifname string) attach.Pair {
	switch ifname {
	case OverlayName:
		return attach.Pair{Ingress: d.loaded.FromOverlay, Egress: d.loaded.ToOverlay}
	case d.network:
		return attach.Pair{Ingress: d.loaded.FromNetwork}
	}
	return attach.Pair{Ingress: d.loaded.FromWorkload, Egress: d.loaded.ToWorkload}
}

func (d *Datapath) attachLinks(dev Device) error {
	if err := d.attacher.Attach(dev.Index, dev.Name, d.loaded.FromWorkload, d.loaded.ToWorkload); err != nil {
		return fmt.Errorf("attach to %s: %w", dev.Name, err)
	}
	return nil
}

// Detach removes the programs from a device; a device that is gone is no error.
func (d *Datapath) Detach(dev Device) error {
	d.settler.busy.Lock()
	defer d.settler.busy.Unlock()
	d.settler.remove(dev)
	if err := d.attacher.Detach(dev.Index, dev.Name); err != nil {
		return fmt.Errorf("detach from %s: %w", dev.Name, err)
	}
	return nil
}

// Endpoints is the kernel's table of local workloads, by address.
func (d *Datapath) Endpoints() reconcile.Target[netip.Addr, bpfmap.Endpoint] {
	return bpfmap.NewEndpoints(d.loaded.Maps.Endpoints, d.epochs)
}

// Addresses is the kernel's ipcache.
func (d *Datapath) Addresses() reconcile.Target[netip.Prefix, bpfmap.Address] {
	return bpfmap.NewIPCache(d.loaded.Maps.IPCache, d.epochs)
}

// Nodes is the kernel's table of tunnels, by slot.
func (d *Datapath) Nodes() *bpfmap.Nodes {
	return bpfmap.NewNodes(d.loaded.Maps.Nodes, d.loaded.Maps.NodeSlots)
}

// Policies is the kernel's table of compiled policies.
func (d *Datapath) Policies() *bpfmap.Policies { return d.policies }

// Flows is the kernel's flow table.
func (d *Datapath) Flows() *bpfmap.Flows { return d.flows }

// FlowEvents returns the counters of the flow table.
func (d *Datapath) FlowEvents() (bpfmap.FlowEvents, error) {
	return bpfmap.ReadFlowEvents(d.loaded.Maps.FlowEvents)
}

// Hits is the kernel's table of rule counters.
func (d *Datapath) Hits() *bpfmap.Hits {
	return bpfmap.NewHits(d.loaded.Maps.RuleHits, d.loaded.Maps.RuleHitsBefore)
}

// Metrics returns the counters of forwarded and dropped packets.
func (d *Datapath) Metrics() ([]bpfmap.Count, error) {
	return bpfmap.ReadMetrics(d.loaded.Maps.Metrics, d.loaded.Maps.MetricsBefore)
}

// Events calls handle for every event of the programs until the context ends.
// There is one reader at a time.
func (d *Datapath) Events(ctx context.Context, handle func(flow.Event)) error {
	return event.Read(ctx, d.loaded.Maps.Events, handle)
}

// Watch has every change of a flow among the Events, or only decisions and drops.
// An agent begins without.
func (d *Datapath) Watch(changes bool) error { return d.epochs.SetWatched(changes) }

// LostEvents returns how many events found the ring buffer full.
func (d *Datapath) LostEvents() (uint64, error) {
	return bpfmap.ReadLostEvents(d.loaded.Maps.EventsLost)
}
