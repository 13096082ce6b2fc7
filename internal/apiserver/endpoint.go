// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/label"
)

func (s *Server) lookup(r *http.Request) (endpoint.Endpoint, error) {
	ref := strings.TrimPrefix(r.PathValue("id"), "cilium-local:")
	e, err := s.agent.Endpoints.Lookup(ref)
	if errors.Is(err, endpoint.ErrNotFound) {
		return e, fmt.Errorf("%w; cilium endpoint list shows those there are", err)
	}
	return e, err
}

// getEndpoints lists the endpoints that carry all labels of the query.
func (s *Server) getEndpoints(r *http.Request) (int, any, error) {
	wanted, err := queryLabels(r)
	if err != nil {
		return 0, nil, err
	}
	list := []*api.Endpoint{}
	for _, e := range s.agent.Endpoints.List() {
		if label.Pairs(append(slices.Clone(e.IdentityLabels), e.Labels...)...).Carries(wanted) {
			list = append(list, s.endpointModel(&e))
		}
	}
	return http.StatusOK, list, nil
}

func (s *Server) getEndpoint(r *http.Request) (int, any, error) {
	e, err := s.lookup(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, s.endpointModel(&e), nil
}

// putEndpoint creates an endpoint and answers when it is connected.
func (s *Server) putEndpoint(r *http.Request) (int, any, error) {
	var req api.EndpointChangeRequest
	if err := decode(r, &req); err != nil {
		return 0, nil, err
	}
	if err := applyPathID(&req, r.PathValue("id")); err != nil {
		return 0, nil, err
	}
	spec, err := endpointSpec(&req)
	if err != nil {
		return 0, nil, err
	}
	e, err := s.agent.Endpoints.Create(r.Context(), spec)
	if err != nil {
		return 0, nil, err
	}
	if err := s.agent.Endpoints.Note(e.ID, req.LabelsLeftOut); err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, s.endpointModel(&e), nil
}

// applyPathID takes the endpoint's number, or the name it is to have, from the path.
func applyPathID(req *api.EndpointChangeRequest, ref string) error {
	kind, value, prefixed := strings.Cut(ref, ":")
	switch {
	case prefixed && kind == "container-id" && (req.ContainerID == "" || req.ContainerID == value):
		req.ContainerID = value
		return nil
	case prefixed && kind == "docker-endpoint" && (req.DockerEndpointID == "" || req.DockerEndpointID == value):
		req.DockerEndpointID = value
		return nil
	case prefixed && kind == "cilium-local":
		ref = value
	case prefixed:
		return badRequest("id", "path names %q, but the request another: use a number, 0 for any, or the same container-id: or docker-endpoint:", ref)
	}
	id, err := strconv.ParseUint(ref, 10, 16)
	if err != nil {
		return badRequest("id", "endpoint id %q: use a number up to 65535, 0 for any that is free", ref)
	}
	if req.ID != 0 && id != 0 && uint64(req.ID) != id {
		return badRequest("id", "endpoint id %d in the path, %d in the request", id, req.ID)
	}
	if id != 0 {
		req.ID = uint16(id)
	}
	return nil
}

// maxNote bounds a line that goes into an endpoint's log.
const maxNote = 4096

// endpointSpec turns the request into the terms of the endpoint manager.
func endpointSpec(req *api.EndpointChangeRequest) (endpoint.Spec, error) {
	spec := endpoint.Spec{
		ID: req.ID,
		External: endpoint.External{
			ContainerID: req.ContainerID, ContainerName: req.ContainerName,
			DockerEndpointID: req.DockerEndpointID, DockerNetworkID: req.DockerNetworkID,
			PodName: req.K8sPodName, PodNamespace: req.K8sNamespace,
		},
		LabelsKnown:     req.Labels != nil,
		NetNS:           req.NetNS,
		ContainerIfName: req.InterfaceName,
	}
	if req.State != "" && !slices.Contains(endpoint.States, endpoint.State(req.State)) {
		return spec, badRequest("state", "endpoint state %q: leave it out, or use one of %v", req.State, endpoint.States)
	}
	if len(req.LabelsLeftOut) > maxNote {
		return spec, badRequest("labels-left-out", "labels-left-out is longer than %d bytes: shorten it", maxNote)
	}
	if req.NetNS != "" && req.InterfaceName == "" {
		return spec, badRequest("interface-name", "netns is given without interface-name: name the interface that the namespace is to have, such as eth0")
	}
	var err error
	if spec.Labels, err = parseLabels("labels", req.Labels); err != nil {
		return spec, err
	}
	if req.Mac != "" {
		if spec.MAC, err = net.ParseMAC(req.Mac); err != nil || len(spec.MAC) != 6 || spec.MAC[0]&1 != 0 {
			return spec, badRequest("mac", "mac %q: use six bytes of a unicast address, such as 02:42:0a:0f:00:05", req.Mac)
		}
	}
	if req.Addressing != nil {
		if spec.IPv4, err = parseAddr("addressing.ipv4", req.Addressing.IPv4, netip.Addr.Is4); err != nil {
			return spec, err
		}
		spec.IPv6, err = parseAddr("addressing.ipv6", req.Addressing.IPv6, netip.Addr.Is6)
	}
	return spec, err
}

// parseAddr reads an address of a family, or none from an empty text.
func parseAddr(field, text string, family func(netip.Addr) bool) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || !family(addr) || addr.Is4In6() || addr.Zone() != "" {
		return netip.Addr{}, badRequest(field, "%s %q is no address of that family: leave it out to get a free one", field, text)
	}
	return addr, nil
}

func parseLabels(field string, texts api.Labels) (label.Set, error) {
	set, err := label.ParseSet(texts)
	if err != nil {
		return nil, badRequest(field, "%w", err)
	}
	return set, nil
}

// patchEndpoint changes what can change in an endpoint: its container and its labels.
func (s *Server) patchEndpoint(r *http.Request) (int, any, error) {
	e, err := s.lookup(r)
	if err != nil {
		return 0, nil, err
	}
	var req api.EndpointChangeRequest
	if err := decode(r, &req); err != nil {
		return 0, nil, err
	}
	if err := onlyLabels(&req, &e); err != nil {
		return 0, nil, err
	}
	labels := e.Labels
	if req.Labels != nil {
		if labels, err = parseLabels("labels", req.Labels); err != nil {
			return 0, nil, err
		}
	} else if !e.LabelsKnown {
		return 0, nil, badRequest("labels", "endpoint %d has no labels yet: give them too, [] if there are none", e.ID)
	}
	if req.ContainerID == "" && req.ContainerName == "" {
		err = s.agent.Endpoints.SetLabels(r.Context(), e.ID, labels)
	} else {
		err = s.agent.Endpoints.SetContainer(r.Context(), e.ID, req.ContainerID, req.ContainerName, labels)
	}
	if err != nil {
		return 0, nil, err
	}
	if e, err = s.agent.Endpoints.Lookup(strconv.Itoa(int(e.ID))); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, s.endpointModel(&e), nil
}

// onlyLabels refuses changes of what is fixed when an endpoint is made.
func onlyLabels(req *api.EndpointChangeRequest, e *endpoint.Endpoint) error {
	fixed := []struct {
		field   string
		changed bool
	}{
		{"id", req.ID != 0 && req.ID != e.ID},
		{"netns", req.NetNS != ""},
		{"interface-name", req.InterfaceName != ""},
		{"mac", req.Mac != ""},
		{"addressing", req.Addressing != nil},
		{"docker-endpoint-id", req.DockerEndpointID != "" && req.DockerEndpointID != e.External.DockerEndpointID},
		{"docker-network-id", req.DockerNetworkID != "" && req.DockerNetworkID != e.External.DockerNetworkID},
		{"k8s-pod-name", req.K8sPodName != "" && req.K8sPodName != e.External.PodName},
		{"k8s-namespace", req.K8sNamespace != "" && req.K8sNamespace != e.External.PodNamespace},
	}
	for _, f := range fixed {
		if f.changed {
			return badRequest(f.field, "%s of endpoint %d is fixed: delete the endpoint and make another", f.field, e.ID)
		}
	}
	return nil
}

// deleteEndpoint answers 206 when the endpoint is gone but a step failed.
func (s *Server) deleteEndpoint(r *http.Request) (int, any, error) {
	e, err := s.lookup(r)
	if err != nil {
		return 0, nil, err
	}
	err = s.agent.Endpoints.Delete(r.Context(), e.ID)
	switch {
	case err == nil:
		return http.StatusOK, nil, nil
	case isAny(err, endpoint.ErrNotFound):
		return 0, nil, err
	}
	s.log.Warn("endpoint deleted with errors", "endpoint", e.ID, "error", err)
	return http.StatusPartialContent, &api.Error{Error: err.Error()}, nil
}

func (s *Server) getEndpointConfig(r *http.Request) (int, any, error) {
	e, err := s.lookup(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.EndpointConfigurationStatus{
		Realized: endpointConfiguration(&e),
		Immutable: api.ConfigurationMap{
			"mtu": strconv.Itoa(e.Device.MTU), "interface": e.Device.HostName, "policy-map": strconv.Itoa(int(e.PolicyID)),
		},
	}, nil
}

// tracePackets is the option of endpoints that has each of their packets reported.
const tracePackets = "TracePackets"

// patchEndpointConfig sets the labels and the option.
func (s *Server) patchEndpointConfig(r *http.Request) (int, any, error) {
	e, err := s.lookup(r)
	if err != nil {
		return 0, nil, err
	}
	var spec api.EndpointConfigurationSpec
	if err := decode(r, &spec); err != nil {
		return 0, nil, err
	}
	traced := e.Traced
	for name, value := range spec.Options {
		if name != tracePackets {
			return 0, nil, badRequest("options", "endpoint option %q: endpoints have %s=true or false; cilium config shows the options of the node", name, tracePackets)
		}
		if traced, err = strconv.ParseBool(value); err != nil {
			return 0, nil, badRequest("options", "%s=%q: use true or false", name, value)
		}
	}
	if err := s.agent.Endpoints.SetTraced(r.Context(), e.ID, traced); err != nil {
		return 0, nil, err
	}
	if spec.LabelConfiguration != nil {
		if err := s.setLabels(r, &e, spec.LabelConfiguration); err != nil {
			return 0, nil, err
		}
	}
	return http.StatusOK, nil, nil
}

func (s *Server) getEndpointLabels(r *http.Request) (int, any, error) {
	e, err := s.lookup(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, &api.LabelConfiguration{Spec: labelSpec(&e), Status: labelStatus(&e)}, nil
}

func (s *Server) patchEndpointLabels(r *http.Request) (int, any, error) {
	e, err := s.lookup(r)
	if err != nil {
		return 0, nil, err
	}
	var spec api.LabelConfigurationSpec
	if err := decode(r, &spec); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, nil, s.setLabels(r, &e, &spec)
}

func (s *Server) setLabels(r *http.Request, e *endpoint.Endpoint, spec *api.LabelConfigurationSpec) error {
	if spec.User == nil {
		return badRequest("user", "member user is missing: give all labels the endpoint is to have, [] for none")
	}
	labels, err := parseLabels("user", spec.User)
	if err != nil {
		return err
	}
	return s.agent.Endpoints.SetLabels(r.Context(), e.ID, labels)
}

func (s *Server) getEndpointLog(r *http.Request) (int, any, error) {
	e, err := s.lookup(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, logModel(&e), nil
}

func (s *Server) getEndpointHealth(r *http.Request) (int, any, error) {
	e, err := s.lookup(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, s.healthModel(&e), nil
}
