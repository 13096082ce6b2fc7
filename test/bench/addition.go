// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/test/bench/report"
	"cilium.local/cilium/test/bench/stats"
	"cilium.local/cilium/test/lab"
)

const (
	sectionControl  = "Control plane, the agent with its own store unless said otherwise"
	millisecond     = 1e3 // of microseconds
	burstContainers = 100
)

// milliseconds are for the report.
func milliseconds(all []time.Duration) []float64 {
	values := make([]float64, 0, len(all))
	for _, d := range all {
		values = append(values, float64(d.Microseconds())/millisecond)
	}
	return values
}

// quantiles adds the median and the p99 of a time to the report.
func (b *bench) quantiles(name string, took []time.Duration, p50, p99 stats.Goal) {
	values := milliseconds(took)
	b.Add(
		report.Single(sectionControl, name+", p50", "ms", stats.BootstrapMedian(values), len(values), p50),
		report.Single(sectionControl, name+", p99", "ms", stats.BootstrapQuantile(values, 0.99), len(values), p99))
}

// additions measures CNI ADD as a runtime sees it: the whole run of the plugin,
// one container after the other. The baseline takes turns with it: a plain veth
// pair with the same addresses and routes, from within this process.
func (b *bench) additions(ctx context.Context, node *lab.Node) error {
	b.progress("CNI ADD, %d times", b.size.additions)
	var took, plain []time.Duration
	for i := range b.size.additions {
		d, err := addition(ctx, node, i)
		if err != nil {
			return err
		}
		took = append(took, d)
		if d, err = plainPair(node, uint16(40000+i)); err != nil {
			return err
		}
		plain = append(plain, d)
	}
	b.quantiles("CNI ADD, one after the other", took, stats.AtMost(25), stats.AtMost(80))
	b.Add(report.Paired(sectionControl, "CNI ADD beside a plain pair made by a program that runs", "ms", "plain veth pair",
		milliseconds(took), milliseconds(plain), stats.Goal{}))
	return nil
}

func addition(ctx context.Context, node *lab.Node, i int) (time.Duration, error) {
	c, err := node.NewContainer(fmt.Sprintf("bench-addition-%d", i))
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	err = c.Add(ctx, "role=bench")
	took := time.Since(begin)
	if err != nil {
		return 0, err
	}
	return took, c.Remove(ctx)
}

// plainPair is what any plugin has to do at least.
func plainPair(node *lab.Node, id uint16) (time.Duration, error) {
	ns, err := lab.NewNamespace("plain")
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	mac := device.RandomMAC()
	spec := device.PairSpec{
		Endpoint: id, HostName: device.HostName(id), PeerName: device.PeerName(id),
		HostMAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, PeerMAC: mac, MTU: deviceMTU, IPv6: true, PeerNetns: ns.Path(),
	}
	iface := device.Interface{
		Name: "eth0", MAC: mac, MTU: deviceMTU,
		IPv4: netip.MustParseAddr("10.15.255.250"), GatewayIPv4: netip.MustParseAddr("10.15.0.1"),
		IPv6: netip.MustParseAddr("f00d::a0f:0:ffff:250"), GatewayIPv6: netip.MustParseAddr("f00d::a0f:0:0:1"),
	}
	begin := time.Now()
	err = node.Do(func() error {
		if _, _, err := device.CreatePair(spec); err != nil {
			return err
		}
		return device.MoveAndConfigure(spec.PeerName, ns.Path(), iface)
	})
	if err != nil {
		return 0, err
	}
	took := time.Since(begin)
	return took, node.Do(func() error { return device.Delete(spec.HostName) })
}

// bursts asks for many containers at once and measures until the last is connected.
func (b *bench) bursts(ctx context.Context, node *lab.Node) error {
	var took []time.Duration
	for i := range b.size.bursts {
		b.progress("CNI ADD, %d at once, %d of %d", burstContainers, i+1, b.size.bursts)
		begin := time.Now()
		all, err := addContainers(ctx, node, fmt.Sprintf("bench-burst-%d", i), burstContainers, burstContainers)
		d := time.Since(begin)
		if err := errors.Join(err, removeContainers(ctx, all)); err != nil {
			return err
		}
		took = append(took, d)
	}
	values := milliseconds(took)
	for i := range values {
		values[i] /= 1000
	}
	b.Add(report.Single(sectionControl, fmt.Sprintf("CNI ADD, %d at once, the last one ready", burstContainers), "s",
		stats.BootstrapMedian(values), len(values), stats.AtMost(4)))
	return nil
}

// addContainers adds so many servers, some at once, each with an identity of its
// own. Those that were made are returned with an error, too.
func addContainers(ctx context.Context, node *lab.Node, name string, count, atOnce int) ([]*lab.Container, error) {
	made := make([]*lab.Container, count)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range count {
		group.Go(func() (err error) {
			made[i], err = node.Container(ctx, fmt.Sprintf("%s-%d", name, i), "role=server", fmt.Sprintf("copy=%s-%d", name, i))
			return err
		})
	}
	err := group.Wait()
	all := made[:0]
	for _, c := range made {
		if c != nil {
			all = append(all, c)
		}
	}
	return all, err
}

func removeContainers(ctx context.Context, all []*lab.Container) error {
	const atOnce = 8
	group := errgroup.Group{}
	group.SetLimit(atOnce)
	for _, c := range all {
		group.Go(func() error { return c.Remove(ctx) })
	}
	return group.Wait()
}
