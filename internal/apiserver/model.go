// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"strconv"

	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/netip"
	"slices"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
)

// endpointModel describes an endpoint in the API's words.
func (s *Server) endpointModel(e *endpoint.Endpoint) *api.Endpoint {
	return &api.Endpoint{
		ID:   e.ID,
		Spec: endpointConfiguration(e),
		Status: &api.EndpointStatus{
			ExternalIdentifiers: &api.EndpointIdentifiers{
				ContainerID: e.External.ContainerID, ContainerName: e.External.ContainerName,
				DockerEndpointID: e.External.DockerEndpointID, DockerNetworkID: e.External.DockerNetworkID,
				PodName: podName(e.External),
			},
			Identity:   identityModel(identity.Identity{ID: e.Identity, Labels: e.IdentityLabels}),
			Labels:     labelStatus(e),
			Realized:   endpointConfiguration(e),
			Networking: s.networking(e),
			Policy:     s.policyStatus(e),
			Log:        logModel(e),
			State:      string(e.State),
			Health:     s.healthModel(e),
		},
	}
}

func podName(x endpoint.External) string {
	if x.PodName == "" {
		return ""
	}
	return x.PodNamespace + "/" + x.PodName
}

func endpointConfiguration(e *endpoint.Endpoint) *api.EndpointConfigurationSpec {
	return &api.EndpointConfigurationSpec{
		LabelConfiguration: labelSpec(e),
		Options:            api.ConfigurationMap{tracePackets: strconv.FormatBool(e.Traced)},
	}
}

func labelSpec(e *endpoint.Endpoint) *api.LabelConfigurationSpec {
	return &api.LabelConfigurationSpec{User: e.Labels.Strings()}
}

// labelStatus sorts the labels into those of the identity and the rest.
func labelStatus(e *endpoint.Endpoint) *api.LabelConfigurationStatus {
	status := &api.LabelConfigurationStatus{
		Realized:         labelSpec(e),
		SecurityRelevant: e.IdentityLabels.Strings(),
	}
	for _, l := range e.Labels {
		if !slices.Contains(e.IdentityLabels, l) {
			status.Disabled = append(status.Disabled, l.String())
		}
	}
	return status
}

func (s *Server) networking(e *endpoint.Endpoint) *api.EndpointNetworking {
	host := s.agent.Node.Addressing()
	n := &api.EndpointNetworking{
		Addressing:     []api.AddressPair{{IPv4: addrText(e.IPv4), IPv6: addrText(e.IPv6)}},
		HostAddressing: host,
		HostMac:        e.Device.HostMAC.String(),
		Mac:            e.Device.MAC.String(),
		InterfaceName:  e.Device.HostName,
		InterfaceIndex: e.Device.IfIndex,
		MTU:            e.Device.MTU,
		Gateway:        gateways(host, e),
	}
	if e.Device.NetNS == "" {
		n.PeerInterfaceName = e.Device.PeerName
	}
	return n
}

// gateways are the node's own addresses, of the families that the endpoint has.
func gateways(host *api.NodeAddressing, e *endpoint.Endpoint) *api.AddressPair {
	var pair api.AddressPair
	if host != nil && host.IPv4 != nil && e.IPv4.IsValid() {
		pair.IPv4 = host.IPv4.IP
	}
	if host != nil && host.IPv6 != nil && e.IPv6.IsValid() {
		pair.IPv6 = host.IPv6.IP
	}
	return &pair
}

func (s *Server) policyStatus(e *endpoint.Endpoint) *api.EndpointPolicyStatus {
	enforcement := s.agent.Policy.Enforcement(e.Identity)
	realized := &api.EndpointPolicy{
		PolicyRevision:           e.PolicyRevision,
		ID:                       uint32(e.Identity),
		PolicyEnabled:            enabledText(enforcement),
		Build:                    e.PolicyID,
		AllowedIngressIdentities: numbers(enforcement.AllowedIngress),
		AllowedEgressIdentities:  numbers(enforcement.AllowedEgress),
	}
	spec := *realized
	spec.PolicyRevision, _ = s.agent.Policy.Revision()
	return &api.EndpointPolicyStatus{Spec: &spec, Realized: realized}
}

func enabledText(e Enforcement) string {
	switch {
	case e.Ingress && e.Egress:
		return "both"
	case e.Ingress:
		return "ingress"
	case e.Egress:
		return "egress"
	}
	return "none"
}

func numbers(ids []identity.ID) []uint32 {
	list := make([]uint32, 0, len(ids))
	for _, id := range ids {
		list = append(list, uint32(id))
	}
	slices.Sort(list)
	return list
}

func (s *Server) healthModel(e *endpoint.Endpoint) *api.EndpointHealth {
	want, _ := s.agent.Policy.Revision()
	h := e.Health(want)
	return &api.EndpointHealth{
		OverallHealth: string(h.Overall), BPF: string(h.BPF), Policy: string(h.Policy), Connected: h.Connected,
	}
}

func logModel(e *endpoint.Endpoint) []api.EndpointStatusChange {
	lines := make([]api.EndpointStatusChange, 0, len(e.Log))
	for _, c := range e.Log {
		lines = append(lines, api.EndpointStatusChange{
			Timestamp: c.Time, Code: string(c.Code), Message: c.Message, State: string(c.State),
		})
	}
	return lines
}

func identityModel(id identity.Identity) *api.Identity {
	sum := sha256.Sum256([]byte(id.Labels.Key()))
	return &api.Identity{ID: uint32(id.ID), Labels: id.Labels.Strings(), LabelsSHA256: hex.EncodeToString(sum[:])}
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// queryLabels reads the label parameters of a query, of which there may be many, also
// several with one key.
func queryLabels(r *http.Request) (label.Set, error) {
	wanted, err := label.ParsePairs(r.URL.Query()["labels"])
	if err != nil {
		return nil, badRequest("labels", "%w", err)
	}
	return wanted, nil
}
