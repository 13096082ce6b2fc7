// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/reconcile"
	"cilium.local/cilium/internal/table"
)

const (
	// hostCompare is the time between two looks at what the agent has set up in the host
	// beside BPF, which the machine's own tools may take away.
	hostCompare = 5 * time.Second
	// hostWait is how long the host may take to have the routes of a new workload.
	hostWait = 5 * time.Second
)

// hostRows are the wanted rows of the host's own network: the gateway device and its
// ranges, and the routes, neighbours and settings of workloads' devices.
type hostRows struct {
	gateway       *table.Table[string, device.HostConfig]
	routes        *table.Table[string, device.HostRoute]
	gatewayWriter *reconcile.Reconciler[string, device.HostConfig]
	routesWriter  *reconcile.Reconciler[string, device.HostRoute]
}

func newHostRows(gateway device.HostConfig, log *slog.Logger) *hostRows {
	r := &hostRows{
		gateway: table.New[string, device.HostConfig]("gateway device"),
		routes:  table.New[string, device.HostRoute]("host routes"),
	}
	r.gateway.Upsert(gateway.Name, gateway)
	r.gatewayWriter = reconcile.New(r.gateway, device.HostDevice{Config: gateway},
		reconcile.Options[device.HostConfig]{Log: log, CompareEvery: hostCompare})
	r.routesWriter = reconcile.New(r.routes, device.HostRoutes{},
		reconcile.Options[device.HostRoute]{Log: log, CompareEvery: hostCompare, MaxBackoff: hostCompare})
	return r
}

// run writes wanted rows until the context ends.
func (r *hostRows) run(ctx context.Context) error {
	var gateway error
	var running sync.WaitGroup
	running.Go(func() { gateway = r.gatewayWriter.Run(ctx) })
	err := r.routesWriter.Run(ctx)
	running.Wait()
	return errors.Join(gateway, err)
}

// add waits until the host has what a workload's device needs.
func (r *hostRows) add(row device.HostRoute) error {
	r.routes.Upsert(row.HostName, row)
	ctx, cancel := context.WithTimeout(context.Background(), hostWait)
	defer cancel()
	return r.routesWriter.WaitKey(ctx, row.HostName)
}

func (r *hostRows) status() []reconcile.Status {
	return []reconcile.Status{r.gatewayWriter.Status(), r.routesWriter.Status()}
}

// hostRoute is what the host needs to reach an endpoint.
func (d devices) hostRoute(e endpoint.Endpoint) device.HostRoute {
	r := device.HostRoute{HostName: e.Device.HostName, MAC: e.Device.MAC, IPv4: e.IPv4, IPv6: e.IPv6}
	if e.IPv4.IsValid() {
		r.GatewayIPv4 = d.gateway4
	}
	if e.IPv6.IsValid() {
		r.GatewayIPv6 = d.gateway6
	}
	return r
}
