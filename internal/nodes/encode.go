// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
)

// The kinds of addresses that a node has.
const (
	internalIP = "InternalIP"       // in the network between the nodes
	gatewayIP  = "CiliumInternalIP" // in the node's range
)

// maxValue bounds what is read of a node, in bytes.
const maxValue = 64 << 10

// record is a node as it stands in the store.
type record struct {
	Name          string
	Cluster       string
	ClusterID     uint8
	IPAddresses   []recordAddress
	IPv4AllocCIDR *recordRange      `json:",omitempty"`
	IPv6AllocCIDR *recordRange      `json:",omitempty"`
	Labels        map[string]string `json:",omitempty"`
	BootID        string            `json:",omitempty"`
	HealthPort    uint16            `json:",omitempty"`
}

type recordAddress struct {
	Type string
	IP   netip.Addr
}

// recordRange is a prefix; the mask is written as bytes.
type recordRange struct {
	IP   netip.Addr
	Mask []byte
}

func rangeOf(p netip.Prefix) *recordRange {
	if !p.IsValid() {
		return nil
	}
	return &recordRange{p.Masked().Addr(), net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (r *recordRange) prefix(ipv4 bool) (netip.Prefix, error) {
	if r == nil {
		return netip.Prefix{}, nil
	}
	ones, bits := net.IPMask(r.Mask).Size()
	if bits != r.IP.BitLen() || r.IP.Is4() != ipv4 || ones == 0 {
		return netip.Prefix{}, fmt.Errorf("%s with the mask %x is no range of that family", r.IP, r.Mask)
	}
	p := netip.PrefixFrom(r.IP, ones)
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits behind its mask", p)
	}
	return p, nil
}

// Encode returns what stands in the store about a node, and under which key.
func Encode(n Node) (key, value string, err error) {
	r := record{
		Name: n.Name, Cluster: n.Cluster, ClusterID: n.ClusterID,
		IPv4AllocCIDR: rangeOf(n.IPv4Range), IPv6AllocCIDR: rangeOf(n.IPv6Range),
		Labels: n.Labels, BootID: n.Instance, HealthPort: n.HealthPort,
	}
	for _, a := range []recordAddress{{internalIP, n.IPv4}, {internalIP, n.IPv6}, {gatewayIP, n.GatewayIPv4}, {gatewayIP, n.GatewayIPv6}} {
		if a.IP.IsValid() {
			r.IPAddresses = append(r.IPAddresses, a)
		}
	}
	text, err := json.Marshal(r)
	return n.Key().InStore(), string(text), err
}

// decode reads a node. Errors name the key, and the field that is wrong.
func decode(key, value string) (n Node, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s in the key-value store: %w: remove the key, or restart the agent that wrote it", key, err)
		}
	}()
	if len(value) > maxValue {
		return n, fmt.Errorf("%d bytes are too many", len(value))
	}
	var r record
	if err := json.Unmarshal([]byte(value), &r); err != nil {
		return n, err
	}
	n = Node{
		Name: r.Name, Cluster: r.Cluster, ClusterID: r.ClusterID, Labels: r.Labels, Instance: r.BootID, HealthPort: r.HealthPort,
	}
	if n.Key().InStore() != key {
		return n, fmt.Errorf("field Name or Cluster: it names another node, %s", n.Key())
	}
	if n.IPv4Range, err = r.IPv4AllocCIDR.prefix(true); err != nil {
		return n, fmt.Errorf("field IPv4AllocCIDR: %w", err)
	}
	if n.IPv6Range, err = r.IPv6AllocCIDR.prefix(false); err != nil {
		return n, fmt.Errorf("field IPv6AllocCIDR: %w", err)
	}
	for _, a := range r.IPAddresses {
		if err := n.setAddress(a); err != nil {
			return n, fmt.Errorf("field IPAddresses: %w", err)
		}
	}
	return n, nil
}

// setAddress takes an address over. Kinds that are not known are for others to know.
func (n *Node) setAddress(a recordAddress) error {
	if !a.IP.IsGlobalUnicast() {
		return fmt.Errorf("%s is no address of a node", a.IP)
	}
	if a.Type == gatewayIP && !n.Owns(a.IP) {
		return fmt.Errorf("%s is outside of the node's ranges", a.IP)
	}
	switch {
	case a.Type == internalIP && a.IP.Is4():
		n.IPv4 = a.IP
	case a.Type == internalIP:
		n.IPv6 = a.IP
	case a.Type == gatewayIP && a.IP.Is4():
		n.GatewayIPv4 = a.IP
	case a.Type == gatewayIP:
		n.GatewayIPv6 = a.IP
	}
	return nil
}
