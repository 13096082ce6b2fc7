// SPDX-License-Identifier: Apache-2.0

// Package endpoint keeps the workloads of this node: one Endpoint value per
// workload, and the Manager that leads it from creation to removal.
//
// The Manager owns the order of the steps and nothing else. Addresses,
// identities, policies, devices and the kernel are collaborators behind small
// interfaces, so that a step that fails is undone in reverse, and so that the
// order can be tested without a kernel. The order guarantees that no workload
// can send or receive before the policy of its identity is in the kernel.
//
// Endpoint values are copies: what a caller gets never changes under it.
package endpoint

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
)

// External names the workload in the system that asked for it. Every field is
// optional; those that are set are unique on the node.
type External struct {
	ContainerID      string `json:"container-id,omitempty"`
	ContainerName    string `json:"container-name,omitempty"`
	DockerEndpointID string `json:"docker-endpoint-id,omitempty"`
	DockerNetworkID  string `json:"docker-network-id,omitempty"`
	PodName          string `json:"pod-name,omitempty"`
	PodNamespace     string `json:"pod-namespace,omitempty"`
}

// Device describes the veth pair of an endpoint. NetNS and ContainerIfName are
// empty when the requester moves and configures the container end itself.
type Device struct {
	HostName        string
	PeerName        string
	IfIndex         int
	HostMAC, MAC    net.HardwareAddr
	MTU             int
	NetNS           string
	ContainerIfName string
}

// Endpoint is one workload of this node.
type Endpoint struct {
	ID       uint16
	External External
	// Labels are all labels that the requester told, LabelsKnown whether it told
	// them at all; UserLabels are those that a person added. IdentityLabels are those that Identity stands for; they lag
	// behind while the store is away.
	Labels         label.Set
	LabelsKnown    bool
	UserLabels     label.Set
	IdentityLabels label.Set
	Identity       identity.ID
	PolicyID       uint32
	PolicyRevision uint64
	IPv4, IPv6     netip.Addr
	Device         Device
	Traced         bool // report each of its packets, for debugging
	State          State
	Log            []StatusChange
	Created        time.Time
}

// Spec is what a requester wants. A zero ID takes a free one; without any
// address the node chooses one of each family, with one only that family is used.
type Spec struct {
	ID              uint16
	External        External
	Labels          label.Set
	LabelsKnown     bool // false: closed, with identity init, until SetLabels
	IPv4, IPv6      netip.Addr
	NetNS           string
	ContainerIfName string
	MAC             net.HardwareAddr
}

// Addresses returns the addresses the endpoint has, IPv4 first.
func (e *Endpoint) Addresses() []netip.Addr {
	var all []netip.Addr
	for _, a := range []netip.Addr{e.IPv4, e.IPv6} {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

// Owner is the name under which the endpoint holds addresses.
func (e *Endpoint) Owner() string { return ownerName(e.ID) }

func ownerName(id uint16) string { return "endpoint " + strconv.Itoa(int(id)) }

func (e *Endpoint) clone() Endpoint {
	c := *e
	c.Log = slices.Clone(e.Log)
	return c
}

// HealthStatus is the condition of one aspect of an endpoint.
type HealthStatus string

// The conditions that Health reports.
const (
	HealthOK        HealthStatus = "OK"
	HealthBootstrap HealthStatus = "Bootstrap"
	HealthPending   HealthStatus = "Pending"
	HealthWarning   HealthStatus = "Warning"
	HealthFailure   HealthStatus = "Failure"
	HealthDisabled  HealthStatus = "Disabled"
)

// Health is what `endpoint health` shows. Connected tells whether the device
// exists.
type Health struct {
	Overall, BPF, Policy HealthStatus
	Connected            bool
}

// Health follows from the state; wantRevision is the policy revision of the node.
func (e *Endpoint) Health(wantRevision uint64) Health {
	h := Health{Overall: HealthOK, BPF: HealthOK, Policy: HealthOK, Connected: e.Device.IfIndex != 0}
	switch e.State {
	case StateCreating, StateRestoring:
		h.Overall, h.BPF, h.Policy = HealthBootstrap, HealthBootstrap, HealthBootstrap
	case StateWaitingForIdentity:
		h.Overall, h.Policy = HealthPending, HealthPending
	case StateNotReady:
		h.Overall, h.Policy = HealthFailure, HealthFailure
	case StateDisconnecting, StateDisconnected:
		h.Overall, h.BPF, h.Policy = HealthDisabled, HealthDisabled, HealthDisabled
	default:
		if e.PolicyRevision < wantRevision {
			h.Overall, h.Policy = HealthPending, HealthPending
		}
	}
	return h
}
