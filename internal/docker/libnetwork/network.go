// SPDX-License-Identifier: Apache-2.0

package libnetwork

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
	"cilium.local/cilium/api/client/pending"
)

// Keys of Docker's options.
const (
	keyGeneric  = "com.docker.network.generic"
	keyInternal = "com.docker.network.internal"
	keyPortMap  = "com.docker.network.portmap"
)

type ipamData struct{ AddressSpace, Pool, Gateway string }

type networkRequest struct {
	NetworkID          string
	Options            map[string]json.RawMessage
	IPv4Data, IPv6Data []ipamData
}

// createNetwork only checks: a network is a name for a share of the node's flat
// address space.
func (d *Driver) createNetwork(ctx context.Context, req networkRequest) (any, error) {
	var options map[string]string
	if raw, ok := req.Options[keyGeneric]; ok {
		if err := json.Unmarshal(raw, &options); err != nil {
			return nil, fmt.Errorf("read the network's options: %w", err)
		}
	}
	for name := range options {
		return nil, fmt.Errorf("--opt %s: this driver has no options of its own; leave it out", name)
	}
	if bytes.Equal(req.Options[keyInternal], []byte("true")) {
		return nil, errors.New("--internal: who may reach whom is decided by policy here; leave it out")
	}
	all := slices.Concat(req.IPv4Data, req.IPv6Data)
	if len(all) > 2 || len(req.IPv4Data) > 1 {
		return nil, errors.New("a network has at most one subnet of each family: leave the others out")
	}
	for _, data := range all {
		if data.AddressSpace != localSpace && data.AddressSpace != globalSpace {
			return nil, errors.New("addresses of the network come from another driver: add --ipam-driver cilium")
		}
		if data.Pool == wholeRange {
			continue
		}
		pool, err := netip.ParsePrefix(data.Pool)
		if err != nil {
			return nil, fmt.Errorf("subnet of the network: %w", err)
		}
		f, err := d.family(ctx, pool.Addr().Is6())
		if err != nil {
			return nil, err
		}
		if _, err := within(data.Pool, "--subnet", f.nodes, "this node's range"); err != nil {
			return nil, err
		}
	}
	return empty{}, nil
}

type endpointRequest struct {
	NetworkID, EndpointID string
	SandboxKey            string // in Join
	Interface             struct{ Address, AddressIPv6, MacAddress string }
	Options               map[string]json.RawMessage
}

func reference(endpoint string) string { return "docker-endpoint:" + endpoint }

// createEndpoint makes a closed endpoint: Docker does not tell labels here.
func (d *Driver) createEndpoint(ctx context.Context, req endpointRequest) (any, error) {
	if err := refusePorts(req.Options); err != nil {
		return nil, err
	}
	ipv4, err := address(req.Interface.Address)
	if err != nil {
		return nil, err
	}
	ipv6, err := address(req.Interface.AddressIPv6)
	if err != nil {
		return nil, err
	}
	if ipv4 == "" && ipv6 == "" {
		return nil, errors.New("the endpoint has no address: make the network with --ipam-driver cilium")
	}
	d.replay(ctx)
	change := &api.EndpointChangeRequest{
		DockerEndpointID: req.EndpointID, DockerNetworkID: req.NetworkID,
		Mac: req.Interface.MacAddress, Addressing: &api.AddressPair{IPv4: ipv4, IPv6: ipv6},
		ContainerInterfacePrefix: interfacePrefix,
	}
	_, err = d.agent.EndpointPut(ctx, change)
	if client.IsCode(err, http.StatusConflict) && d.exists(ctx, change) {
		err = nil // Docker repeats a call whose answer it did not get
	}
	if err != nil {
		return nil, err
	}
	// Addresses are Docker's already, so nothing is left to tell.
	return map[string]empty{"Interface": {}}, nil
}

// exists tells whether the agent has this very endpoint.
func (d *Driver) exists(ctx context.Context, want *api.EndpointChangeRequest) bool {
	have, err := d.agent.EndpointGet(ctx, reference(want.DockerEndpointID))
	if err != nil || have.Status == nil || have.Status.Networking == nil {
		return false
	}
	addresses := have.Status.Networking.Addressing
	return len(addresses) == 1 && addresses[0] == *want.Addressing
}

// refusePorts refuses to publish, instead of not doing it silently. Exposed
// ports are no more than a remark, so they are fine.
func refusePorts(options map[string]json.RawMessage) error {
	ports, err := publishedPorts(options)
	if err != nil || len(ports) == 0 {
		return err
	}
	wanted := make([]string, len(ports))
	for i, p := range ports {
		wanted[i] = fmt.Sprintf("%d:%d", p.HostPort, p.Port)
	}
	return fmt.Errorf("published ports (-p %s) are not available on a cilium network: "+
		"leave them out and use the container's own address, or run the container on a bridge and connect it to this network then",
		strings.Join(wanted, " -p "))
}

type publishedPort struct {
	Port, HostPort uint16
	Proto          uint8
}

func publishedPorts(options map[string]json.RawMessage) ([]publishedPort, error) {
	raw, ok := options[keyPortMap]
	if !ok {
		return nil, nil
	}
	var ports []publishedPort
	if err := json.Unmarshal(raw, &ports); err != nil {
		return nil, fmt.Errorf("read the published ports: %w", err)
	}
	return ports, nil
}

// address strips the prefix length that Docker sends along.
func address(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return "", fmt.Errorf("address of the endpoint: %w", err)
	}
	return prefix.Addr().String(), nil
}

// deleteEndpoint removes the endpoint, later when the agent is away. An unknown
// one is no error.
func (d *Driver) deleteEndpoint(ctx context.Context, req endpointRequest) (any, error) {
	d.forget(req.EndpointID)
	kept, err := d.queue.DoOrKeep(ctx, d.agent, pending.Deletion{Endpoint: reference(req.EndpointID)})
	if kept {
		d.log.Warn("the agent is away: the endpoint is removed once it is here", "endpoint", req.EndpointID)
	}
	return empty{}, err
}

// interfacePrefix is what Docker puts a number after, inside the container.
const interfacePrefix = "eth"

// routeConnected is the kind of a static route without next hop.
const routeConnected = 1

type staticRoute struct {
	Destination string
	RouteType   int
	NextHop     string
}

type joinReply struct {
	InterfaceName         struct{ SrcName, DstPrefix string }
	Gateway               string
	GatewayIPv6           string
	StaticRoutes          []staticRoute
	DisableGatewayService bool
}

// join tells which interface Docker moves into the container, and how it reaches
// the gateway there.
//
// The default route is Docker's to set, by way of Gateway, and not a static
// route: it has one for one of a container's networks, chooses another when that
// network goes, and fails on a static one that is there already or that covers
// an address of another network.
func (d *Driver) join(ctx context.Context, req endpointRequest) (any, error) {
	ep, err := d.agent.EndpointGet(ctx, reference(req.EndpointID))
	if err != nil {
		return nil, err
	}
	if ep.Status == nil || ep.Status.Networking == nil || ep.Status.Networking.PeerInterfaceName == "" {
		return nil, fmt.Errorf("endpoint %d has no interface to move into a container", ep.ID)
	}
	n := ep.Status.Networking
	// The gateway service would connect the container to a bridge as well.
	reply := joinReply{DisableGatewayService: true}
	reply.InterfaceName.SrcName, reply.InterfaceName.DstPrefix = n.PeerInterfaceName, interfacePrefix
	if n.Gateway == nil {
		return reply, nil
	}
	if err := d.addRoutes(&reply, n.Gateway, req); err != nil {
		return nil, err
	}
	// The options have the ports of the whole container. Ours were refused, so
	// these are another network's: Docker publishes on the network of the default
	// route only, which must stay that one.
	ports, err := publishedPorts(req.Options)
	if len(ports) > 0 {
		reply.Gateway, reply.GatewayIPv6 = "", ""
	}
	return reply, err
}

// widest is the highest number of an endpoint that gets a route. Wider ones
// would cover addresses of other containers.
const widest = 1

// addRoutes adds the routes by which an endpoint reaches the gateway. A
// container's second endpoint has the same gateway, and the same route twice is
// an error, so that one gets a route that is one bit wider, which counts when
// the first endpoint goes. It must not be narrower, or Docker would not find the
// default route that it wants to replace. A third one has none, and is no
// candidate for the default route.
func (d *Driver) addRoutes(reply *joinReply, gateway *api.AddressPair, req endpointRequest) error {
	families := map[string]string{}
	for name, text := range map[string]string{"ipv4": gateway.IPv4, "ipv6": gateway.IPv6} {
		if text != "" {
			families[name] = text
		}
	}
	numbers, err := d.book.join(req.SandboxKey, req.EndpointID, slices.Sorted(maps.Keys(families))...)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(families)) {
		addr, err := netip.ParseAddr(families[name])
		if err != nil {
			return fmt.Errorf("gateway from the agent: %w", err)
		}
		if numbers[name] > widest {
			continue
		}
		to := netip.PrefixFrom(addr, addr.BitLen()-numbers[name]).Masked()
		reply.StaticRoutes = append(reply.StaticRoutes, staticRoute{Destination: to.String(), RouteType: routeConnected})
		if addr.Is4() {
			reply.Gateway = addr.String()
		} else {
			reply.GatewayIPv6 = addr.String()
		}
	}
	return nil
}

// leave has nothing to undo but the note of who shares a container: Docker
// itself takes the interface out again.
func (d *Driver) leave(_ context.Context, req endpointRequest) (any, error) {
	d.forget(req.EndpointID)
	return empty{}, nil
}

func (d *Driver) forget(endpoint string) {
	if err := d.book.leave(endpoint); err != nil {
		d.log.Warn("endpoint is not forgotten", "endpoint", endpoint, "error", err)
	}
}
