// SPDX-License-Identifier: Apache-2.0

package driver

import "encoding/json"

// The bodies of libnetwork's remote driver protocol, as Docker sends and reads
// them: only what we use of each.

type activateReply struct {
	Implements []string
}

type failure struct {
	Err string
}

type capabilityReply struct {
	Scope             string
	ConnectivityScope string
}

type createNetworkRequest struct {
	NetworkID string
	Options   map[string]json.RawMessage
	IPv4Data  []networkPool
	IPv6Data  []networkPool
}

type networkPool struct {
	Pool    string
	Gateway string
}

type createEndpointRequest struct {
	NetworkID  string
	EndpointID string
	Interface  *endpointInterface
	Options    map[string]json.RawMessage
}

type endpointInterface struct {
	Address     string
	AddressIPv6 string
	MacAddress  string
}

type createEndpointReply struct {
	Interface endpointInterface
}

// endpointRequest is the body of all calls about an endpoint that exists.
type endpointRequest struct {
	NetworkID  string
	EndpointID string
	Options    map[string]json.RawMessage
}

type infoReply struct {
	Value map[string]any
}

type joinReply struct {
	InterfaceName         interfaceName
	Gateway               string
	GatewayIPv6           string
	StaticRoutes          []staticRoute
	DisableGatewayService bool
}

type interfaceName struct {
	SrcName   string
	DstPrefix string
}

// Kinds of static routes.
const (
	routeNextHop   = 0
	routeConnected = 1
)

type staticRoute struct {
	Destination string
	RouteType   int
	NextHop     string
}

type spacesReply struct {
	LocalDefaultAddressSpace  string
	GlobalDefaultAddressSpace string
}

type poolRequest struct {
	Pool    string
	SubPool string
	V6      bool
}

type poolReply struct {
	PoolID string
	Pool   string
	Data   map[string]string
}

type addressRequest struct {
	PoolID  string
	Address string
	Options map[string]string
}

type addressReply struct {
	Address string
	Data    map[string]string
}
