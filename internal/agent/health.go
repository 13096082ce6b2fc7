// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/health"
	"cilium.local/cilium/internal/metrics"
	"cilium.local/cilium/internal/nodes"
)

// healthPort is where this node answers the others; 0 if it does not, or has none.
func (a *Agent) healthPort() uint16 {
	if a.cfg.Routing.Mode == routingNone {
		return 0
	}
	return a.cfg.Health.Port
}

func (a *Agent) openHealth() {
	n := a.cfg.Network
	a.prober = health.New(health.Config{
		Interval: a.cfg.Health.Interval, IPv4Gateways: n.IPv4Range.IsValid(), IPv6Gateways: n.IPv6Range.IsValid(),
	})
}

// runHealth answers the other nodes, and asks them.
func (a *Agent) runHealth(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if port := a.healthPort(); port != 0 {
		r := &health.Responder{Node: a.self().Key(), Addrs: a.self().Underlay(), Port: port, Log: a.log}
		group.Go(func() error { return r.Run(ctx) })
	}
	if a.cfg.Health.Interval != 0 {
		group.Go(func() error { return a.prober.Run(ctx) })
	}
	return group.Wait()
}

// nodesHealth is what came of asking those nodes that were asked, for metrics.
func (a *Agent) nodesHealth() []metrics.NodeHealth {
	var list []metrics.NodeHealth
	for _, r := range a.prober.Results() {
		if len(r.Probes) == 0 {
			continue
		}
		h := metrics.NodeHealth{
			SourceCluster: a.cfg.Cluster.Name, Source: a.cfg.NodeName,
			Cluster: r.Node.Cluster, Name: r.Node.Name, Reached: r.Reached(),
		}
		for _, p := range r.Probes {
			if p.Err == nil {
				h.Latencies = append(h.Latencies, metrics.NodeLatency{
					IP: p.Addr.String(), Protocol: string(p.Protocol), Latency: p.Latency, Secondary: isSecondary(p.Addr, r.Node), Gateway: p.Gateway,
				})
			}
		}
		list = append(list, h)
	}
	return list
}

// isSecondary says that a node has an IPv4 address beside this one.
func isSecondary(addr netip.Addr, n nodes.Node) bool { return addr.Is6() && n.IPv4.IsValid() }

func healthModels(probes []health.Probe) []api.NodeProbe {
	var list []api.NodeProbe
	for _, p := range probes {
		m := api.NodeProbe{Protocol: string(p.Protocol), IP: p.Addr.String(), Latency: int64(p.Latency), Asked: p.At}
		if p.Err != nil {
			m.Error = p.Err.Error()
		}
		if !p.Reached.IsZero() {
			reached := p.Reached
			m.Reached = &reached
		}
		list = append(list, m)
	}
	return list
}
