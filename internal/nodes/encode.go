// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"encoding/json"
	"fmt"
	"net/netip"
)

// The kinds of addresses that a node has.
const (
	internalIP = "InternalIP"       // in the network between the nodes
	gatewayIP  = "CiliumInternalIP" // in the node's range
)

// record is a node as it stands in the store.
type record struct {
	Name          string
	Cluster       string
	ClusterID     uint8
	IPAddresses   []recordAddress
	IPv4AllocCIDR netip.Prefix      `json:",omitzero"`
	IPv6AllocCIDR netip.Prefix      `json:",omitzero"`
	Labels        map[string]string `json:",omitempty"`
	BootID        string            `json:",omitempty"`
	HealthPort    uint16            `json:",omitempty"`
}

type recordAddress struct {
	Type string
	IP   netip.Addr
}

// Encode returns what stands in the store about a node, and under which key.
func Encode(n Node) (key, value string, err error) {
	r := record{
		Name: n.Name, Cluster: n.Cluster, ClusterID: n.ClusterID, IPv4AllocCIDR: n.IPv4Range, IPv6AllocCIDR: n.IPv6Range,
		Labels: n.Labels, BootID: n.Instance, HealthPort: n.HealthPort,
	}
	for _, a := range []recordAddress{{internalIP, n.IPv4}, {internalIP, n.IPv6}, {gatewayIP, n.GatewayIPv4}, {gatewayIP, n.GatewayIPv6}} {
		if a.IP.IsValid() {
			r.IPAddresses = append(r.IPAddresses, a)
		}
	}
	text, err := json.Marshal(r)
	return prefix + n.Key().String(), string(text), err
}

func decode(key, value string) (Node, error) {
	var r record
	if err := json.Unmarshal([]byte(value), &r); err != nil {
		return Node{}, fmt.Errorf("%s: %w", key, err)
	}
	n := Node{
		Name: r.Name, Cluster: r.Cluster, ClusterID: r.ClusterID, IPv4Range: r.IPv4AllocCIDR, IPv6Range: r.IPv6AllocCIDR,
		Labels: r.Labels, Instance: r.BootID, HealthPort: r.HealthPort,
	}
	if prefix+n.Key().String() != key {
		return Node{}, fmt.Errorf("%s: it names another node, %s", key, n.Key())
	}
	for _, a := range r.IPAddresses {
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
	}
	return n, nil
}
