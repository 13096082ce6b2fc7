// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
)

// Pool identifiers; the subnet of a pool follows, so that nothing has to be
// remembered about it.
const (
	poolIPv4 = "CiliumPoolv4"
	poolIPv6 = "CiliumPoolv6"
)

// owner holds addresses between Docker's request and the endpoint that gets them.
const owner = "docker"

func (d *Driver) ipamRoutes(mux *http.ServeMux) {
	route(d, mux, "IpamDriver.GetCapabilities", func(context.Context, struct{}) (any, error) {
		return map[string]bool{"RequiresMACAddress": false, "RequiresRequestReplay": false}, nil
	})
	route(d, mux, "IpamDriver.GetDefaultAddressSpaces", func(context.Context, struct{}) (any, error) {
		return spacesReply{LocalDefaultAddressSpace: "CiliumLocal", GlobalDefaultAddressSpace: "CiliumGlobal"}, nil
	})
	route(d, mux, "IpamDriver.RequestPool", d.requestPool)
	route(d, mux, "IpamDriver.ReleasePool", func(context.Context, struct{}) (any, error) { return struct{}{}, nil })
	route(d, mux, "IpamDriver.RequestAddress", d.requestAddress)
	route(d, mux, "IpamDriver.ReleaseAddress", d.releaseAddress)
}

// nodeRange is what the node has of one family.
type nodeRange struct {
	prefix  netip.Prefix
	gateway netip.Addr
}

// nodeRanges are the node's ranges by family.
type nodeRanges struct{ ipv4, ipv6 nodeRange }

// addressing asks the agent for the node's ranges and gateways.
func (d *Driver) addressing(ctx context.Context) (nodeRanges, error) {
	config, err := d.agent.Config(ctx)
	if err != nil {
		return nodeRanges{}, err
	}
	var ranges nodeRanges
	if config.Status == nil || config.Status.Addressing == nil {
		return ranges, errors.New("the agent does not tell the node's ranges; is it of the same version?")
	}
	for element, to := range map[*api.NodeAddressingElement]*nodeRange{
		config.Status.Addressing.IPv4: &ranges.ipv4, config.Status.Addressing.IPv6: &ranges.ipv6,
	} {
		if element == nil || !element.Enabled {
			continue
		}
		if to.prefix, err = netip.ParsePrefix(element.AllocRange); err != nil {
			return ranges, fmt.Errorf("range of the node: %w", err)
		}
		if to.gateway, err = netip.ParseAddr(element.IP); err != nil {
			return ranges, fmt.Errorf("gateway of the node: %w", err)
		}
	}
	return ranges, nil
}

// within finds the range of the node that holds the subnet.
func (n nodeRanges) within(subnet netip.Prefix) (nodeRange, error) {
	r := n.of(subnet.Addr().Is6())
	if !r.prefix.IsValid() {
		return r, fmt.Errorf("subnet %s: this node has no addresses of that family", subnet)
	}
	if subnet.Bits() < r.prefix.Bits() || !r.prefix.Contains(subnet.Addr()) {
		return r, fmt.Errorf("subnet %s is not within %s, the range of this node", subnet, r.prefix)
	}
	return r, nil
}

func (n nodeRanges) of(ipv6 bool) nodeRange {
	if ipv6 {
		return n.ipv6
	}
	return n.ipv4
}

func (d *Driver) requestPool(ctx context.Context, r poolRequest) (any, error) {
	ranges, err := d.addressing(ctx)
	if err != nil {
		return nil, err
	}
	subnet := ranges.of(r.V6).prefix
	if text := firstOf(r.SubPool, r.Pool); text != "" {
		wanted, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("subnet %q: %w", text, err)
		}
		subnet = wanted.Masked()
	}
	if !subnet.IsValid() {
		return nil, errors.New("this node has no addresses of that family; see --ipv4-range and --ipv6-range of the agent")
	}
	if _, err := ranges.within(subnet); err != nil {
		return nil, err
	}
	kind := poolIPv4
	if subnet.Addr().Is6() {
		kind = poolIPv6
	}
	return poolReply{PoolID: kind + "/" + subnet.String(), Pool: subnet.String(), Data: map[string]string{}}, nil
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// requestType says in the options what an address is for.
const (
	requestType    = "RequestAddressType"
	requestGateway = "com.docker.network.gateway"
)

func (d *Driver) requestAddress(ctx context.Context, r addressRequest) (any, error) {
	subnet, err := poolSubnet(r.PoolID)
	if err != nil {
		return nil, err
	}
	ranges, err := d.addressing(ctx)
	if err != nil {
		return nil, err
	}
	node, err := ranges.within(subnet)
	if err != nil {
		return nil, err
	}
	wanted, err := parseWanted(r.Address)
	if err != nil {
		return nil, err
	}
	if r.Options[requestType] == requestGateway {
		if wanted.IsValid() && wanted != node.gateway {
			return nil, fmt.Errorf("gateway %s: the gateway of this node is %s; leave --gateway out", wanted, node.gateway)
		}
		return fullLength(node.gateway), nil
	}
	if wanted.IsValid() && !subnet.Contains(wanted) {
		return nil, fmt.Errorf("address %s is not within %s, the subnet of the network", wanted, subnet)
	}
	ip, err := d.reserve(ctx, subnet, node.prefix, wanted)
	if err != nil {
		return nil, err
	}
	return fullLength(ip), nil
}

func poolSubnet(poolID string) (netip.Prefix, error) {
	_, text, _ := strings.Cut(poolID, "/")
	subnet, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("pool %q is not one of ours", poolID)
	}
	return subnet, nil
}

func parseWanted(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("address %q: %w", text, err)
	}
	return ip.Unmap(), nil
}

func fullLength(ip netip.Addr) addressReply {
	return addressReply{Address: netip.PrefixFrom(ip, ip.BitLen()).String(), Data: map[string]string{}}
}

// reserve takes the wanted address, or any of the subnet.
func (d *Driver) reserve(ctx context.Context, subnet, whole netip.Prefix, wanted netip.Addr) (netip.Addr, error) {
	if wanted.IsValid() {
		return wanted, d.agent.IPAMAllocateIP(ctx, wanted.String(), owner)
	}
	if subnet == whole {
		return d.reserveAny(ctx, subnet.Addr().Is6())
	}
	return d.reserveWithin(ctx, subnet)
}

func (d *Driver) reserveAny(ctx context.Context, ipv6 bool) (netip.Addr, error) {
	family := "ipv4"
	if ipv6 {
		family = "ipv6"
	}
	reply, err := d.agent.IPAMAllocate(ctx, family, owner)
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.ParseAddr(firstOf(reply.Address.IPv4, reply.Address.IPv6))
}

// maxTries bounds the search in a subnet that is smaller than the node's range.
const maxTries = 256

// reserveWithin tries addresses of the subnet from a random one on, because the
// agent chooses from the whole range only.
func (d *Driver) reserveWithin(ctx context.Context, subnet netip.Prefix) (netip.Addr, error) {
	ip := randomIn(subnet)
	for range maxTries {
		err := d.agent.IPAMAllocateIP(ctx, ip.String(), owner)
		if err == nil {
			return ip, nil
		}
		// Taken, or one that is never given out: the next.
		if !client.IsCode(err, http.StatusConflict) && !client.IsCode(err, http.StatusBadRequest) {
			return netip.Addr{}, err
		}
		if ip = ip.Next(); !subnet.Contains(ip) {
			ip = subnet.Masked().Addr()
		}
	}
	return netip.Addr{}, fmt.Errorf("subnet %s: no free address found in %d tries", subnet, maxTries)
}

func randomIn(subnet netip.Prefix) netip.Addr {
	bytes := subnet.Masked().Addr().AsSlice()
	for bit := subnet.Bits(); bit < len(bytes)*8; bit++ {
		if rand.IntN(2) == 1 { //nolint:gosec // only spreads the search
			bytes[bit/8] |= 0x80 >> (bit % 8)
		}
	}
	ip, _ := netip.AddrFromSlice(bytes)
	return ip
}

// releaseAddress gives an address back. The gateway's is never taken, and one
// that is not reserved any more is no error.
func (d *Driver) releaseAddress(ctx context.Context, r addressRequest) (any, error) {
	ip, err := parseWanted(strings.TrimSuffix(strings.TrimSuffix(r.Address, "/32"), "/128"))
	if err != nil {
		return nil, err
	}
	ranges, err := d.addressing(ctx)
	if err != nil {
		return nil, err
	}
	if ip == ranges.of(ip.Is6()).gateway {
		return struct{}{}, nil
	}
	return struct{}{}, notGone(d.agent.IPAMRelease(ctx, ip.String()))
}
