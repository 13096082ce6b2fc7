// SPDX-License-Identifier: Apache-2.0

package libnetwork

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"cilium.local/cilium/api"
)

// The names that Docker and its users see.
const (
	localSpace  = "CiliumLocal"
	globalSpace = "CiliumGlobal"
	poolV4      = "CiliumPoolv4"
	poolV6      = "CiliumPoolv6"
)

// family is the node's share of one address family.
type family struct {
	name    string // as the API names it
	pool    string
	nodes   netip.Prefix // range of the node
	gateway netip.Addr
}

// families asks the agent for the node's ranges; a family that the node does
// not have is left out.
func (d *Driver) families(ctx context.Context) ([]family, error) {
	config, err := d.agent.Config(ctx)
	if err != nil {
		return nil, err
	}
	if config.Status == nil || config.Status.Addressing == nil {
		return nil, fmt.Errorf("the agent at %s does not tell the node's ranges: is it another version?", d.agent.Socket())
	}
	var all []family
	for _, f := range []struct {
		name, pool string
		share      *api.NodeAddressingElement
	}{
		{"ipv4", poolV4, config.Status.Addressing.IPv4},
		{"ipv6", poolV6, config.Status.Addressing.IPv6},
	} {
		if f.share == nil || !f.share.Enabled {
			continue
		}
		nodes, err := netip.ParsePrefix(f.share.AllocRange)
		if err != nil {
			return nil, fmt.Errorf("range of the node as the agent tells it: %w", err)
		}
		gateway, err := netip.ParseAddr(f.share.IP)
		if err != nil {
			return nil, fmt.Errorf("gateway of the node as the agent tells it: %w", err)
		}
		all = append(all, family{f.name, f.pool, nodes.Masked(), gateway})
	}
	return all, nil
}

func (d *Driver) family(ctx context.Context, v6 bool) (family, error) {
	all, err := d.families(ctx)
	if err != nil {
		return family{}, err
	}
	for _, f := range all {
		if f.nodes.Addr().Is6() == v6 {
			return f, nil
		}
	}
	name := map[bool]string{false: "IPv4", true: "IPv6"}[v6]
	return family{}, fmt.Errorf("this node has no %s range: start cilium-agent with one, or make the network without", name)
}

// pool is what Docker knows by a pool's name: the network's subnet, and the part
// of it from which addresses are chosen. Both are invalid when they are the
// node's whole range. The name says all, since Docker keeps it for us.
type pool struct {
	v6            bool
	subnet, chose netip.Prefix
}

func (p pool) String() string {
	name := poolV4
	if p.v6 {
		name = poolV6
	}
	if p.subnet.IsValid() {
		name += "," + p.subnet.String()
	}
	if p.chose.IsValid() {
		name += "," + p.chose.String()
	}
	return name
}

func parsePool(name string) (pool, error) {
	parts := strings.Split(name, ",")
	p := pool{v6: parts[0] == poolV6}
	if len(parts) > 3 || parts[0] != poolV4 && parts[0] != poolV6 {
		return p, fmt.Errorf("pool %q is not ours", name)
	}
	var err error
	if len(parts) > 1 {
		if p.subnet, err = netip.ParsePrefix(parts[1]); err != nil {
			return p, fmt.Errorf("pool %q: %w", name, err)
		}
	}
	if len(parts) > 2 {
		if p.chose, err = netip.ParsePrefix(parts[2]); err != nil {
			return p, fmt.Errorf("pool %q: %w", name, err)
		}
	}
	return p, nil
}

// within reads a subnet of the user's and checks that outer contains it.
func within(text, option string, outer netip.Prefix, whose string) (netip.Prefix, error) {
	inner, err := netip.ParsePrefix(text)
	if err != nil {
		return inner, fmt.Errorf("%s %s: %w: use ADDRESS/BITS inside %s %s", option, text, err, whose, outer)
	}
	inner = inner.Masked()
	if inner.Addr().Is6() != outer.Addr().Is6() || inner.Bits() < outer.Bits() || !outer.Contains(inner.Addr()) {
		return inner, fmt.Errorf("%s %s is outside %s %s: choose one inside it", option, text, whose, outer)
	}
	return inner, nil
}

// candidates is a walk over all addresses of a prefix, from a random one on.
type candidates struct {
	base          netip.Addr
	mask, at      uint64 // host part; more than 63 bits of it are never needed
	left          uint64
	last          uint64 // the first, 0, and this one are left out
	withoutBounds bool
}

func newCandidates(p netip.Prefix, limit uint64) *candidates {
	bits := min(p.Addr().BitLen()-p.Bits(), 63)
	size := uint64(1) << bits
	return &candidates{
		base: p.Masked().Addr(), mask: size - 1, at: rand.Uint64() & (size - 1), //nolint:gosec // no secret
		left: min(size, limit), last: size - 1, withoutBounds: size <= 2,
	}
}

// next returns the next address, or false at the end.
func (c *candidates) next() (netip.Addr, bool) {
	for c.left > 0 {
		host := c.at
		c.at, c.left = (c.at+1)&c.mask, c.left-1
		if c.withoutBounds || host != 0 && host != c.last {
			return plus(c.base, host), true
		}
	}
	return netip.Addr{}, false
}

// plus adds a host part to an address whose host part is zero.
func plus(base netip.Addr, host uint64) netip.Addr {
	if base.Is4() {
		b := base.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|uint32(host)) //nolint:gosec // at most 32 bits
		return netip.AddrFrom4(b)
	}
	b := base.As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])|host)
	return netip.AddrFrom16(b)
}
