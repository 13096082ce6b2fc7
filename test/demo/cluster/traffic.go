// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cilium.local/cilium/test/lab"
)

// serve answers TCP and UDP at the probes' port, as long as the namespace is there.
func serve(n *lab.Namespace) error {
	for _, addr := range []netip.Addr{n.IPv4, n.IPv6} {
		if _, err := n.ServeTCP(netip.AddrPortFrom(addr, lab.ProbePort)); err != nil {
			return err
		}
		if _, err := n.ServeUDP(netip.AddrPortFrom(addr, lab.ProbePort)); err != nil {
			return err
		}
	}
	return nil
}

// Limits of an answer that is expected, and of one that is not.
const (
	patience  = 3 * time.Second
	certainty = 500 * time.Millisecond
)

// asks has the clients of one label on some nodes ask app1 on every node, in both
// families, and checks that all are answered or none is.
func (d *demo) asks(client string, from []int, answered bool, probes ...lab.Probe) {
	for _, p := range probes {
		for _, ipv6 := range []bool{false, true} {
			good, all := d.count(p, client, from, ipv6, answered)
			family := map[bool]string{false: "IPv4", true: "IPv6"}[ipv6]
			if answered {
				d.Check(good == all, "%s asks app1, %s over %s: %d of %d answered", d.whose(client, from), p.Name, family, good, all)
			} else {
				d.Check(good == 0, "%s asks app1, %s over %s: %d of %d denied", d.whose(client, from), p.Name, family, all-good, all)
			}
		}
	}
}

func (d *demo) whose(client string, from []int) string {
	if len(from) == len(d.cluster.Nodes) {
		return client + " of each node"
	}
	text := client + " of"
	for _, i := range from {
		text += " " + d.cluster.Nodes[i].Name
	}
	return text
}

// count makes all attempts at once.
func (d *demo) count(p lab.Probe, client string, from []int, ipv6, answered bool) (good, all int) {
	limit := certainty
	if answered {
		limit = patience
	}
	ctx, cancel := context.WithTimeout(d.ctx, limit)
	defer cancel()
	var answers atomic.Int32
	var attempts sync.WaitGroup
	for _, i := range from {
		for _, server := range d.apps["app1"] {
			to := server.IPv4
			if ipv6 {
				to = server.IPv6
			}
			all++
			attempts.Go(func() {
				if p.Try(ctx, d.apps[client][i].Namespace, to) == nil {
					answers.Add(1)
				}
			})
		}
	}
	attempts.Wait()
	return int(answers.Load()), all
}

// everywhere is all nodes.
func (d *demo) everywhere() (list []int) {
	for i := range d.cluster.Nodes {
		list = append(list, i)
	}
	return list
}

// TCP and the other probes.
var tcp, others = lab.Probes[0], lab.Probes[1:]

// cases are those of the rules in app1.yaml.
func (d *demo) cases() {
	d.asks("app2", d.everywhere(), true, tcp)
	d.asks("app2", d.everywhere(), false, others...)
	d.asks("app3", d.everywhere(), false, lab.Probes...)
}

// onTheWire returns what passes between the nodes when app2 of the first asks app1 of the
// second.
func (d *demo) onTheWire() ([]lab.Frame, error) {
	ctx, cancel := context.WithTimeout(d.ctx, patience)
	defer cancel()
	return d.cluster.Wire.Capture(ctx, func() error {
		return tcp.Try(ctx, d.apps["app2"][0].Namespace, d.apps["app1"][1].IPv4)
	})
}
