// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"cilium.local/cilium/internal/addresses"
	"cilium.local/cilium/internal/agent/ipcache"
	"cilium.local/cilium/internal/clustermesh"
	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/nodes"
	"cilium.local/cilium/internal/reconcile"
	"cilium.local/cilium/internal/table"
)

// peers turns what the store says about other nodes and their workloads into wanted
// rows: tunnels, routes, and the identities of addresses.
//
// Nobody is believed beyond what is his: an address is a workload's only inside a range
// of the node that it is said to be on.
type peers struct {
	self         netip.Addr // this node's end of the tunnels
	overlay      int        // index of the tunnels' device; 0: there is none
	directRoutes bool
	gateway4     netip.Addr
	gateway6     netip.Addr
	ipcache      *ipcache.Cache
	log          *slog.Logger

	tunnels       *table.Table[uint16, bpfmap.Node]
	routes        *table.Table[netip.Prefix, device.NodeRoute]
	tunnelsWriter *reconcile.Reconciler[uint16, bpfmap.Node]
	routesWriter  *reconcile.Reconciler[netip.Prefix, device.NodeRoute]
	slots         *tunnelSlots

	mu        sync.Mutex
	nodes     map[nodes.Key]nodes.Node
	hosts     map[netip.Addr]nodes.Key             // who has an underlay address
	onHost    map[netip.Addr]map[claim]identity.ID // what is said to be where
	hostOf    map[claim]netip.Addr                 // of each of those claims
	believed  map[netip.Addr]claim
	refused   map[claim]string     // claims, and why
	unreached map[nodes.Key]string // nodes, and why
}

func (a *Agent) openPeers(context.Context) error {
	kernel := a.dp.Nodes()
	present, err := kernel.Dump()
	if err != nil {
		return err
	}
	n := a.cfg.Network
	p := &peers{
		self: a.cfg.Routing.underlay(), overlay: a.overlay,
		directRoutes: a.cfg.Routing.Mode == routingNative && a.cfg.Routing.DirectRoutes,
		gateway4:     gateway(n.IPv4Range), gateway6: gateway(n.IPv6Range), ipcache: a.rows.ipcache, log: a.log,
		tunnels: table.New[uint16, bpfmap.Node]("tunnels"),
		routes:  table.New[netip.Prefix, device.NodeRoute]("routes"),
		slots:   newTunnelSlots(kernel.Capacity(), present),
		nodes:   map[nodes.Key]nodes.Node{}, hosts: map[netip.Addr]nodes.Key{},
		onHost: map[netip.Addr]map[claim]identity.ID{}, hostOf: map[claim]netip.Addr{}, believed: map[netip.Addr]claim{},
		refused: map[claim]string{}, unreached: map[nodes.Key]string{},
	}
	p.tunnelsWriter = reconcile.New(p.tunnels, kernel, reconcile.Options[bpfmap.Node]{Log: a.log})
	p.routesWriter = reconcile.New(p.routes, device.NewNodeRoutes(), reconcile.Options[device.NodeRoute]{Log: a.log, CompareEvery: hostCompare})
	for _, prefix := range a.self().Ranges() {
		p.ipcache.Set(ipcache.Range, prefix, worldOf(prefix.Addr()))
	}
	a.peers = p
	a.registrar = nodes.NewRegistrar(nodes.Config{Store: a.store, Self: a.self(), Log: a.log})
	a.openHealth()
	a.directory = nodes.NewDirectory(a.self(), a.log, func(changes []nodes.Change) {
		p.nodesChanged(changes)
		a.prober.NodesChanged(changes)
	}, a.registrar.Seen)
	a.addresses = addresses.NewFollower(a.store, a.log)
	a.mesh = clustermesh.New(clustermesh.Config{
		Dir: a.cfg.Cluster.MeshDir, Cache: a.cfg.path("clusters"), Name: a.cfg.Cluster.Name, ID: a.cfg.Cluster.ID, Open: a.openCluster,
		Directory: a.directory, Addresses: p.addressesChanged, Forget: p.forgetCluster, Identities: a.identities.remoteChanged, Log: a.log,
	})
	a.identities.mesh = a.mesh
	a.rows.announce = addresses.NewAnnouncer(a.store, p.self, a.log)
	return nil
}

// self is what this node says of itself to the others.
func (a *Agent) self() nodes.Node {
	n, r := a.cfg.Network, a.cfg.Routing
	return nodes.Node{
		Name: a.cfg.NodeName, Cluster: a.cfg.Cluster.Name, ClusterID: a.cfg.Cluster.ID, Instance: a.kept.Instance, IPv4: r.IPv4, IPv6: r.IPv6,
		GatewayIPv4: gateway(n.IPv4Range), GatewayIPv6: gateway(n.IPv6Range),
		IPv4Range: n.IPv4Range, IPv6Range: n.IPv6Range, Labels: a.cfg.Policy.NodeLabels, HealthPort: a.healthPort(),
	}
}

// followPeers follows other nodes and their workloads. Once both are known, what an
// earlier run has left of others goes; until then it stays in force, so that a store
// that is away costs nobody a connection.
func (a *Agent) followPeers(ctx context.Context) error {
	known := make(chan struct{})
	var answers atomic.Int32
	answered := func() {
		if answers.Add(1) == 2 {
			close(known)
		}
	}
	nodesKnown, addressesKnown := sync.OnceFunc(answered), sync.OnceFunc(answered)
	self := a.self()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.peers.run(ctx) })
	group.Go(func() error { return a.mesh.Run(ctx) })
	group.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-a.store.Answered():
		}
		return a.registrar.Run(ctx, a.confirmSelf)
	})
	group.Go(func() error {
		return a.directory.Follow(ctx, a.store, self.Cluster, self.ClusterID, nodesKnown)
	})
	group.Go(func() error {
		return a.addresses.Run(ctx, func(present []addresses.Row, gone []netip.Addr) {
			a.peers.addressesChanged(self.Cluster, self.ClusterID, present, gone)
			addressesKnown()
		})
	})
	group.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-known:
		}
		if err := a.mesh.Wait(ctx); err != nil {
			return err // ctx has ended
		}
		a.peers.complete()
		a.rows.completeAddresses()
		a.reportPeers(ctx)
		return nil
	})
	return group.Wait()
}

// reportPeers says when the kernel has all that was known of other nodes at the start.
func (a *Agent) reportPeers(ctx context.Context) {
	err := errors.Join(
		a.peers.tunnelsWriter.Wait(ctx, a.peers.tunnels.Revision()),
		a.peers.routesWriter.Wait(ctx, a.peers.routes.Revision()),
		a.rows.addressesWriter.Wait(ctx, a.rows.addresses.Revision()))
	if ctx.Err() != nil {
		return
	}
	a.log.Info("other nodes are known", "nodes", len(a.peers.all()), "addresses", a.rows.addresses.Len(),
		"after", time.Since(a.started), "error", err)
}

// complete says that all nodes that should be there are known. Tunnels of an earlier
// run to others go.
func (p *peers) complete() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for end, slot := range p.slots.of {
		if _, _, wanted := p.tunnels.Get(slot); !wanted {
			p.slots.release(end)
		}
	}
	p.tunnels.MarkComplete()
	p.routes.MarkComplete()
}

// run writes wanted rows until the context ends.
func (p *peers) run(ctx context.Context) error {
	var routes error
	var running sync.WaitGroup
	running.Go(func() { routes = p.routesWriter.Run(ctx) })
	err := p.tunnelsWriter.Run(ctx)
	running.Wait()
	return errors.Join(err, routes)
}

// status tells how the kernel stands against what is wanted of other nodes.
func (p *peers) status() []reconcile.Status {
	return []reconcile.Status{p.tunnelsWriter.Status(), p.routesWriter.Status()}
}

// nodesChanged takes over what is new of other nodes.
func (p *peers) nodesChanged(changes []nodes.Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tunnels := map[netip.Prefix]uint16{}
	touched := map[netip.Addr]bool{}
	for _, c := range changes {
		before, known := p.nodes[c.Node.Key()]
		if known && !c.Gone && before.SamePlace(c.Node) {
			p.nodes[c.Node.Key()] = c.Node
			continue
		}
		if known {
			p.forget(before, tunnels)
		}
		if !c.Gone {
			p.learn(c.Node, tunnels)
		}
		for _, n := range []nodes.Node{before, c.Node} {
			touched[n.IPv4], touched[n.IPv6] = true, true
		}
	}
	p.ipcache.SetTunnels(tunnels)
	for host := range touched {
		p.judge(host)
	}
}

// end is the address of a node in the network that this node's tunnels use.
func (p *peers) end(n nodes.Node) netip.Addr {
	if p.self.Is4() {
		return n.IPv4
	}
	return n.IPv6
}

// forget takes back all that a node's row said.
func (p *peers) forget(n nodes.Node, tunnels map[netip.Prefix]uint16) {
	delete(p.nodes, n.Key())
	delete(p.unreached, n.Key())
	for _, addr := range []netip.Addr{n.IPv4, n.IPv6} {
		if p.hosts[addr] == n.Key() {
			delete(p.hosts, addr)
		}
	}
	for _, prefix := range n.Ranges() {
		tunnels[prefix] = 0
		p.routes.Delete(prefix)
		p.ipcache.Unset(ipcache.Range, prefix)
	}
	for _, addr := range n.Addresses() {
		tunnels[whole(addr)] = 0
		p.ipcache.Unset(ipcache.KVStore, whole(addr))
	}
	if slot, ok := p.slots.release(p.end(n)); ok {
		p.tunnels.Delete(slot)
	}
}

func (p *peers) learn(n nodes.Node, tunnels map[netip.Prefix]uint16) {
	p.nodes[n.Key()] = n
	for _, addr := range []netip.Addr{n.IPv4, n.IPv6} {
		if addr.IsValid() {
			p.hosts[addr] = n.Key()
		}
	}
	slot := p.tunnel(n)
	for _, prefix := range n.Ranges() {
		if slot != 0 {
			tunnels[prefix] = slot
			p.ipcache.Set(ipcache.Range, prefix, worldOf(prefix.Addr()))
		}
		if route, ok := p.route(n, prefix, slot); ok {
			p.routes.Upsert(prefix, route)
		}
	}
	for _, addr := range n.Addresses() {
		if slot != 0 {
			tunnels[whole(addr)] = slot
		}
		p.ipcache.Set(ipcache.KVStore, whole(addr), identity.RemoteNode)
	}
}

// tunnel gives the node a slot, 0 if it is reached without a tunnel or not at all.
func (p *peers) tunnel(n nodes.Node) uint16 {
	if p.overlay == 0 {
		return 0
	}
	if !p.self.IsValid() {
		p.unreached[n.Key()] = fmt.Sprintf("node %s is not reached: this node has no address yet", n.Key())
		return 0
	}
	end := p.end(n)
	if !end.IsValid() {
		p.unreached[n.Key()] = fmt.Sprintf("node %s is not reached: it has no address of the family of %s, which the tunnels use", n.Key(), p.self)
		return 0
	}
	slot, ok := p.slots.take(end)
	if !ok {
		p.unreached[n.Key()] = fmt.Sprintf("node %s is not reached: there is room for %d nodes (raise --nodes-max)", n.Key(), p.slots.capacity)
		return 0
	}
	p.tunnels.Upsert(slot, bpfmap.Node{To: end, From: p.self})
	return slot
}

// route is the way of what the host's stack sends into a node's range; false: there is
// none, or it is not the agent's business.
func (p *peers) route(n nodes.Node, prefix netip.Prefix, slot uint16) (device.NodeRoute, bool) {
	r := device.NodeRoute{Overlay: p.overlay, Source: p.gateway4}
	via := n.IPv4
	if prefix.Addr().Is6() {
		r.Source, via = p.gateway6, n.IPv6
	}
	if !r.Source.IsValid() {
		return r, false // no workload here could be meant
	}
	if p.overlay != 0 {
		return r, slot != 0
	}
	r.Via = via
	return r, p.directRoutes && via.IsValid()
}

func worldOf(addr netip.Addr) identity.ID {
	if addr.Is4() {
		return identity.WorldIPv4
	}
	return identity.WorldIPv6
}

// claim is what a cluster's store says of an address: others may say other things.
type claim struct {
	cluster string
	addr    netip.Addr
}

// addressesChanged takes over what is new of a cluster's workloads. The cluster's
// identities have its number in their upper bits.
func (p *peers) addressesChanged(cluster string, id uint8, present []addresses.Row, gone []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, addr := range gone {
		p.dropClaim(claim{cluster, addr})
	}
	for _, row := range present {
		c := claim{cluster, row.Addr}
		if row.Identity >= identity.MinAllocated && row.Identity>>16 != identity.ID(id) {
			p.dropClaim(c)
			p.refuse(c, fmt.Sprintf("it claims the identity %d, which is none of the cluster %d", row.Identity, id))
			continue
		}
		if before, ok := p.hostOf[c]; ok && before != row.Host {
			delete(p.onHost[before], c)
		}
		if p.onHost[row.Host] == nil {
			p.onHost[row.Host] = map[claim]identity.ID{}
		}
		p.onHost[row.Host][c] = row.Identity
		p.hostOf[c] = row.Host
		p.judgeClaim(row.Host, c, row.Identity)
	}
}

// forgetCluster drops all that a cluster has said of addresses.
func (p *peers) forgetCluster(cluster string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.hostOf {
		if c.cluster == cluster {
			p.dropClaim(c)
		}
	}
}

func (p *peers) dropClaim(c claim) {
	host, ok := p.hostOf[c]
	delete(p.refused, c)
	if !ok {
		return
	}
	delete(p.hostOf, c)
	if delete(p.onHost[host], c); len(p.onHost[host]) == 0 {
		delete(p.onHost, host)
	}
	p.disbelieve(c)
}

// judge looks anew at all that is said to be on a host.
func (p *peers) judge(host netip.Addr) {
	for c, id := range p.onHost[host] {
		p.judgeClaim(host, c, id)
	}
}

func (p *peers) judgeClaim(host netip.Addr, c claim, id identity.ID) {
	delete(p.refused, c)
	key, known := p.hosts[host]
	if known && key.Cluster == c.cluster && p.nodes[key].Owns(c.addr) {
		p.believed[c.addr] = c
		p.ipcache.Set(ipcache.KVStore, whole(c.addr), id)
		return
	}
	p.disbelieve(c)
	if known {
		p.refuse(c, fmt.Sprintf("it is outside of the ranges of node %s, which is said to have it", key))
	}
}

// disbelieve takes an address back, unless another cluster's claim on it is the right one.
func (p *peers) disbelieve(c claim) {
	if p.believed[c.addr] == c {
		delete(p.believed, c.addr)
		p.ipcache.Unset(ipcache.KVStore, whole(c.addr))
	}
}

func (p *peers) refuse(c claim, why string) {
	p.refused[c] = fmt.Sprintf("address %s of cluster %s is not believed: %s", c.addr, c.cluster, why)
	p.log.Warn("an address is not believed", "address", c.addr, "cluster", c.cluster, "reason", why)
}

// all returns the other nodes, by cluster and name.
func (p *peers) all() []nodes.Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.SortedFunc(maps.Values(p.nodes), func(a, b nodes.Node) int {
		return cmp.Or(strings.Compare(a.Cluster, b.Cluster), strings.Compare(a.Name, b.Name))
	})
}

// problems names what of other nodes is not in force, and why.
func (p *peers) problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append(slices.Sorted(maps.Values(p.unreached)), slices.Sorted(maps.Values(p.refused))...)
}

// tunnelTo returns the far end of a slot's tunnel, for people.
func (p *peers) tunnelTo(slot uint16) string {
	if node, _, ok := p.tunnels.Get(slot); ok {
		return node.To.String()
	}
	return fmt.Sprintf("slot %d", slot)
}
