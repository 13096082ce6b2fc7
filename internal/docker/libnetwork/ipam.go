// SPDX-License-Identifier: Apache-2.0

package libnetwork

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"cilium.local/cilium/api/client"
	"cilium.local/cilium/api/client/pending"
)

// owner is who holds addresses in the agent's book.
const owner = "docker"

// Keys of Docker's options.
const (
	keyGateway     = "com.docker.network.gateway"
	keyAddressType = "RequestAddressType"
)

type poolRequest struct {
	AddressSpace, Pool, SubPool string
	Options                     map[string]string
	V6                          bool
}

type poolReply struct {
	PoolID, Pool string
	Data         map[string]string
}

// wholeRange is what Docker is told as the subnet of an IPv4 network without
// one. It asks again, for ever, while the answer overlaps with one of the host's
// routes, as the node's range does; this overlaps with none.
const wholeRange = "0.0.0.0/32"

// requestPool answers with the node's range, or a part of it.
func (d *Driver) requestPool(ctx context.Context, req poolRequest) (any, error) {
	if req.AddressSpace != localSpace && req.AddressSpace != globalSpace {
		return nil, fmt.Errorf("address space %q is not ours: leave it out", req.AddressSpace)
	}
	for name := range req.Options {
		return nil, fmt.Errorf("--ipam-opt %s: this driver has no options of its own; leave it out", name)
	}
	f, err := d.family(ctx, req.V6)
	if err != nil {
		return nil, err
	}
	p, subnet := pool{v6: req.V6}, f.nodes
	gateway := map[string]string{keyGateway: host(f.gateway)}
	if req.Pool == "" && req.SubPool == "" && !req.V6 {
		return poolReply{PoolID: p.String(), Pool: wholeRange, Data: gateway}, nil
	}
	if req.Pool != "" {
		if subnet, err = within(req.Pool, "--subnet", f.nodes, "this node's range"); err != nil {
			return nil, err
		}
	}
	if req.SubPool != "" {
		if p.chose, err = within(req.SubPool, "--ip-range", subnet, "the network's subnet"); err != nil {
			return nil, err
		}
	}
	if subnet != f.nodes || p.chose.IsValid() {
		p.subnet = subnet
	}
	reply := poolReply{PoolID: p.String(), Pool: subnet.String(), Data: gateway}
	if req.Pool != "" {
		reply.Pool = req.Pool // as its user wrote it
	}
	return reply, nil
}

// host writes an address as a prefix of its full length.
func host(addr netip.Addr) string { return netip.PrefixFrom(addr, addr.BitLen()).String() }

type addressRequest struct {
	PoolID, Address string
	Options         map[string]string
}

type addressReply struct {
	Address string
	Data    map[string]string `json:",omitempty"`
}

// requestAddress reserves an address until Docker gives it back.
func (d *Driver) requestAddress(ctx context.Context, req addressRequest) (any, error) {
	p, err := parsePool(req.PoolID)
	if err != nil {
		return nil, err
	}
	if req.Options[keyAddressType] == keyGateway {
		return d.requestGateway(ctx, p, req.Address)
	}
	d.replay(ctx) // the address may be one that waits to be given back
	if req.Address != "" {
		return d.requestOne(ctx, p, req.Address)
	}
	if p.subnet.IsValid() {
		return d.requestFrom(ctx, p)
	}
	name := "ipv4"
	if p.v6 {
		name = "ipv6"
	}
	reserved, err := d.agent.IPAMAllocate(ctx, name, owner)
	if err != nil {
		return nil, err
	}
	addr, err := netip.ParseAddr(reserved.Address.IPv4 + reserved.Address.IPv6)
	if err != nil {
		return nil, fmt.Errorf("address from the agent: %w", err)
	}
	return addressReply{Address: host(addr)}, nil
}

// requestGateway answers with the node's gateway, which is nobody's to choose.
func (d *Driver) requestGateway(ctx context.Context, p pool, wanted string) (any, error) {
	f, err := d.family(ctx, p.v6)
	if err != nil {
		return nil, err
	}
	if addr, err := netip.ParseAddr(wanted); wanted != "" && (err != nil || addr != f.gateway) {
		return nil, fmt.Errorf("--gateway %s: the gateway of this node is %s; leave --gateway out", wanted, f.gateway)
	}
	return addressReply{Address: host(f.gateway)}, nil
}

// requestOne reserves the address that a user asked for.
func (d *Driver) requestOne(ctx context.Context, p pool, wanted string) (any, error) {
	addr, err := netip.ParseAddr(wanted)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", wanted, err)
	}
	addr = addr.Unmap()
	if p.subnet.IsValid() && !p.subnet.Contains(addr) {
		return nil, fmt.Errorf("address %s is outside the network's subnet %s: choose one inside it", addr, p.subnet)
	}
	err = d.agent.IPAMAllocateIP(ctx, addr.String(), owner)
	if client.IsCode(err, http.StatusConflict) {
		return nil, fmt.Errorf("address %s is taken: it belongs to %s; choose another", addr, d.holder(ctx, addr))
	}
	if err != nil {
		return nil, err
	}
	return addressReply{Address: host(addr)}, nil
}

// holder names who has an address, as far as that is known.
func (d *Driver) holder(ctx context.Context, addr netip.Addr) string {
	kind := "ipv4:"
	if addr.Is6() {
		kind = "ipv6:"
	}
	ep, err := d.agent.EndpointGet(ctx, kind+addr.String())
	switch {
	case err != nil || ep.Status == nil:
		return "a container that is about to start, or to Docker's own use"
	case ep.Status.ExternalIdentifiers != nil && ep.Status.ExternalIdentifiers.ContainerName != "":
		return fmt.Sprintf("container %s (endpoint %d)", ep.Status.ExternalIdentifiers.ContainerName, ep.ID)
	}
	return fmt.Sprintf("endpoint %d", ep.ID)
}

// attempts bounds how many candidates may get lost to others meanwhile.
const attempts = 64

// requestFrom reserves a free address of a subnet that is only a part of the
// node's range. The agent chooses from the whole range only, so the choice is
// made here, and the agent has the last word on it.
func (d *Driver) requestFrom(ctx context.Context, p pool) (any, error) {
	from := p.subnet
	if p.chose.IsValid() {
		from = p.chose
	}
	status, err := d.agent.Healthz(ctx)
	if err != nil {
		return nil, err
	}
	taken := map[string]string{}
	if status.IPAM != nil {
		taken = status.IPAM.Allocations
	}
	var refused error
	lost := 0
	walk := newCandidates(from, uint64(len(taken))+attempts)
	for addr, ok := walk.next(); ok && lost < attempts; addr, ok = walk.next() {
		if _, used := taken[addr.String()]; used {
			continue
		}
		err := d.agent.IPAMAllocateIP(ctx, addr.String(), owner)
		if err == nil {
			return addressReply{Address: host(addr)}, nil
		}
		if !client.IsCode(err, http.StatusConflict) && !client.IsCode(err, http.StatusBadRequest) {
			return nil, err
		}
		lost, refused = lost+1, err
	}
	if refused != nil {
		return nil, fmt.Errorf("no free address in %s: %w", from, refused)
	}
	return nil, fmt.Errorf("no free address is left in %s: remove containers, or make the network with a larger --subnet", from)
}

// releaseAddress gives an address back, later when the agent is away.
func (d *Driver) releaseAddress(ctx context.Context, req addressRequest) (any, error) {
	text, _, _ := strings.Cut(req.Address, "/")
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", req.Address, err)
	}
	kept, err := d.queue.DoOrKeep(ctx, d.agent, pending.Deletion{Address: addr.Unmap().String()})
	if kept {
		d.log.Warn("the agent is away: the address is given back once it is here", "address", addr)
	}
	return empty{}, err
}
