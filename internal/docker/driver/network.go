// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"cilium.local/cilium/api"
)

// createNetwork has nothing to make: all networks share the node's address
// space, and policy separates workloads. It refuses what was not asked of our
// address management, because such addresses have no route here.
func (d *Driver) createNetwork(ctx context.Context, r createNetworkRequest) (any, error) {
	node, err := d.addressing(ctx)
	if err != nil {
		return nil, err
	}
	for _, pool := range append(r.IPv4Data, r.IPv6Data...) {
		if pool.Pool == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(pool.Pool)
		if err != nil {
			return nil, fmt.Errorf("subnet %q: %w", pool.Pool, err)
		}
		if _, err := node.within(prefix); err != nil {
			return nil, fmt.Errorf("%w (create the network with --ipam-driver cilium)", err)
		}
	}
	return struct{}{}, nil
}

func (d *Driver) createEndpoint(ctx context.Context, r createEndpointRequest) (any, error) {
	if err := refusePublished(r.Options); err != nil {
		return nil, err
	}
	if r.Interface == nil {
		return nil, errors.New("Docker gave the endpoint no address (create the network with --ipam-driver cilium)") //nolint:revive,staticcheck // Docker is a name
	}
	addressing := &api.AddressPair{}
	for text, field := range map[string]*string{r.Interface.Address: &addressing.IPv4, r.Interface.AddressIPv6: &addressing.IPv6} {
		if text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", text, err)
		}
		*field = prefix.Addr().String()
	}
	ep, err := d.agent.EndpointPut(ctx, &api.EndpointChangeRequest{
		DockerEndpointID: r.EndpointID, DockerNetworkID: r.NetworkID,
		Addressing: addressing, Mac: r.Interface.MacAddress, State: "waiting-for-identity",
	})
	if err != nil {
		return nil, err
	}
	reply := createEndpointReply{}
	// Docker wants back only what it left open.
	if r.Interface.MacAddress == "" && ep.Status != nil && ep.Status.Networking != nil {
		reply.Interface.MacAddress = ep.Status.Networking.Mac
	}
	return reply, nil
}

func (d *Driver) deleteEndpoint(ctx context.Context, r endpointRequest) (any, error) {
	return struct{}{}, notGone(d.agent.EndpointDelete(ctx, reference(r.EndpointID)))
}

func reference(endpointID string) string { return "docker-endpoint:" + endpointID }

// join tells Docker which device to move into the container, and the routes to
// set there. Addresses have full length, so even the gateway needs a route. IPv4
// goes without Docker's own idea of a gateway, which would want it in the subnet.
func (d *Driver) join(ctx context.Context, r endpointRequest) (any, error) {
	ep, err := d.agent.EndpointGet(ctx, reference(r.EndpointID))
	if err != nil {
		return nil, err
	}
	if ep.Status == nil || ep.Status.Networking == nil || ep.Status.Networking.PeerInterfaceName == "" {
		return nil, fmt.Errorf("endpoint %s has no device to give to Docker; see: cilium endpoint log %d", r.EndpointID, ep.ID)
	}
	n := ep.Status.Networking
	reply := joinReply{
		InterfaceName:         interfaceName{SrcName: n.PeerInterfaceName, DstPrefix: "eth"},
		DisableGatewayService: true,
	}
	if n.Gateway == nil || len(n.Addressing) == 0 {
		return reply, nil
	}
	if n.Addressing[0].IPv4 != "" {
		reply.StaticRoutes = append(reply.StaticRoutes,
			staticRoute{Destination: n.Gateway.IPv4 + "/32", RouteType: routeConnected},
			staticRoute{Destination: "0.0.0.0/0", RouteType: routeNextHop, NextHop: n.Gateway.IPv4})
	}
	if n.Addressing[0].IPv6 != "" {
		reply.GatewayIPv6 = n.Gateway.IPv6
		reply.StaticRoutes = append(reply.StaticRoutes,
			staticRoute{Destination: n.Gateway.IPv6 + "/128", RouteType: routeConnected})
	}
	return reply, nil
}
