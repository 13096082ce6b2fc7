// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"cilium.local/cilium/internal/datapath"
	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/endpoint"
)

// devices implements endpoint.Devices on the node's network namespace.
type devices struct {
	gateway4, gateway6 netip.Addr
	host               *hostRows
}

// Create makes the pair. A pair of that name is a leftover, since the manager
// gave the name to nobody else.
func (d devices) Create(e endpoint.Endpoint) (int, error) {
	host, _, err := device.CreatePair(device.PairSpec{
		Endpoint: e.ID, HostName: e.Device.HostName, PeerName: e.Device.PeerName,
		HostMAC: e.Device.HostMAC, PeerMAC: e.Device.MAC, MTU: e.Device.MTU,
		PeerNetns: e.Device.NetNS, IPv6: e.IPv6.IsValid(), Replace: true,
	})
	return host, err
}

// Configure adds the host's routes and sets up the container end when the
// endpoint names a network namespace.
func (d devices) Configure(e endpoint.Endpoint) error {
	err := d.host.add(d.hostRoute(e))
	if err != nil || e.Device.NetNS == "" {
		return err
	}
	return device.MoveAndConfigure(e.Device.PeerName, e.Device.NetNS, d.container(e))
}

// container describes the interface inside the workload's namespace.
func (d devices) container(e endpoint.Endpoint) device.Interface {
	return device.Interface{
		Name: e.Device.ContainerIfName, MAC: e.Device.MAC, MTU: e.Device.MTU,
		IPv4: e.IPv4, IPv6: e.IPv6, GatewayIPv4: d.gateway4, GatewayIPv6: d.gateway6,
	}
}

// Delete removes the pair; the kernel removes its routes and neighbours with it. One
// whose alias somebody has changed is still ours.
func (d devices) Delete(e endpoint.Endpoint) error {
	d.host.routes.Delete(e.Device.HostName) // first, or it would be missed
	err := device.Delete(e.Device.HostName)
	if !errors.Is(err, device.ErrForeign) {
		return err
	}
	if err := datapath.Reclaim(); err != nil {
		return err
	}
	return device.Delete(e.Device.HostName)
}

// Index finds the host end and checks that it is this agent's.
func (d devices) Index(hostName string) (int, error) {
	found, err := device.Find(hostName)
	if err != nil {
		return 0, fmt.Errorf("device of a restored endpoint: %w", err)
	}
	return found.Index, nil
}

// Exists asks the kernel for a device.
func (d devices) Exists(ifindex int) (bool, error) { return device.Exists(ifindex) }

// goneEvery is the time between two looks for devices that are gone; events tell of most
// at once.
const goneEvery = 3 * time.Second

// followDevices removes endpoints whose devices go.
func (a *Agent) followDevices(ctx context.Context) error {
	return device.WatchRemovals(ctx, goneEvery, func() {
		if err := a.endpoints.RemoveGone(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("endpoints without a device", "error", err)
		}
	})
}
