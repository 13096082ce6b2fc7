// SPDX-License-Identifier: Apache-2.0

package api

import "time"

// Endpoint is a workload of the node: what is asked for it and what it is.
type Endpoint struct {
	ID     uint16                     `json:"id"`
	Spec   *EndpointConfigurationSpec `json:"spec,omitempty"`
	Status *EndpointStatus            `json:"status,omitempty"`
}

// EndpointChangeRequest asks for an endpoint. The id in the path may be 0, which
// takes a free one. Without addresses the node chooses one of each family.
type EndpointChangeRequest struct {
	ID               uint16 `json:"id,omitempty"`
	ContainerID      string `json:"container-id,omitempty"`
	ContainerName    string `json:"container-name,omitempty"`
	DockerEndpointID string `json:"docker-endpoint-id,omitempty"`
	DockerNetworkID  string `json:"docker-network-id,omitempty"`
	K8sPodName       string `json:"k8s-pod-name,omitempty"`
	K8sNamespace     string `json:"k8s-namespace,omitempty"`
	// Labels are all labels of the workload. Nil (no such member) says that they
	// are not known yet: the endpoint is closed until they are.
	Labels Labels `json:"labels"`
	// LabelsLeftOut says, for people, which of the workload's labels cannot be
	// written and so are not among Labels; it is shown in the endpoint's log.
	LabelsLeftOut string `json:"labels-left-out,omitempty"`
	// NetNS is the path of the network namespace in which the agent configures
	// the container end; empty leaves it to the caller, under the name that the
	// answer gives as peer-interface-name.
	NetNS string `json:"netns,omitempty"`
	// InterfaceName is the name of the container end inside NetNS.
	InterfaceName string `json:"interface-name,omitempty"`
	// ContainerInterfacePrefix is the name up to the number that the caller
	// appends when it moves the container end itself.
	ContainerInterfacePrefix string `json:"container-interface-prefix,omitempty"`
	Mac                      string `json:"mac,omitempty"` // of the container end

	Addressing *AddressPair `json:"addressing,omitempty"`
	// State is what clients of the 1.x API send; only its spelling is checked.
	State string `json:"state,omitempty"`
	// SyncBuildEndpoint is accepted for old clients: creation is always synchronous.
	SyncBuildEndpoint bool `json:"sync-build-endpoint,omitempty"`
}

// EndpointConfigurationSpec is what can be configured on an endpoint.
type EndpointConfigurationSpec struct {
	Options            ConfigurationMap        `json:"options,omitempty"`
	LabelConfiguration *LabelConfigurationSpec `json:"label-configuration,omitempty"`
}

// EndpointConfigurationStatus is how an endpoint is configured.
type EndpointConfigurationStatus struct {
	Realized  *EndpointConfigurationSpec `json:"realized,omitempty"`
	Immutable ConfigurationMap           `json:"immutable,omitempty"`
}

// LabelConfiguration is the labels of an endpoint: wanted and in force.
type LabelConfiguration struct {
	Spec   *LabelConfigurationSpec   `json:"spec,omitempty"`
	Status *LabelConfigurationStatus `json:"status,omitempty"`
}

// LabelConfigurationSpec holds the labels that a person gave an endpoint beside
// those of the workload.
type LabelConfigurationSpec struct {
	User Labels `json:"user"`
}

// LabelConfigurationStatus sorts the labels of an endpoint: those that make up
// the identity, and those that do not.
type LabelConfigurationStatus struct {
	Realized         *LabelConfigurationSpec `json:"realized,omitempty"`
	SecurityRelevant Labels                  `json:"security-relevant,omitempty"`
	Derived          Labels                  `json:"derived,omitempty"`
	Disabled         Labels                  `json:"disabled,omitempty"`
}

// EndpointStatus is what an endpoint is at the moment.
type EndpointStatus struct {
	ExternalIdentifiers *EndpointIdentifiers       `json:"external-identifiers,omitempty"`
	Identity            *Identity                  `json:"identity,omitempty"`
	Labels              *LabelConfigurationStatus  `json:"labels,omitempty"`
	Realized            *EndpointConfigurationSpec `json:"realized,omitempty"`
	Networking          *EndpointNetworking        `json:"networking,omitempty"`
	Policy              *EndpointPolicyStatus      `json:"policy,omitempty"`
	Log                 []EndpointStatusChange     `json:"log,omitempty"`
	State               string                     `json:"state"`
	Health              *EndpointHealth            `json:"health,omitempty"`
}

// EndpointIdentifiers names an endpoint in the systems that know it.
type EndpointIdentifiers struct {
	ContainerID      string `json:"container-id,omitempty"`
	ContainerName    string `json:"container-name,omitempty"`
	DockerEndpointID string `json:"docker-endpoint-id,omitempty"`
	DockerNetworkID  string `json:"docker-network-id,omitempty"`
	PodName          string `json:"pod-name,omitempty"` // namespace/name
}

// EndpointNetworking is how an endpoint is connected.
type EndpointNetworking struct {
	Addressing     []AddressPair   `json:"addressing,omitempty"`
	HostAddressing *NodeAddressing `json:"host-addressing,omitempty"`
	HostMac        string          `json:"host-mac,omitempty"`
	Mac            string          `json:"mac,omitempty"`
	InterfaceName  string          `json:"interface-name,omitempty"` // of the host end
	InterfaceIndex int             `json:"interface-index,omitempty"`
	// PeerInterfaceName is the container end's name in the node's namespace, for
	// callers that move it themselves; empty when the agent has moved it.
	PeerInterfaceName string       `json:"peer-interface-name,omitempty"`
	MTU               int          `json:"mtu,omitempty"`
	Gateway           *AddressPair `json:"gateway,omitempty"`
}

// EndpointPolicyStatus is the policy that is wanted and the one in the kernel.
type EndpointPolicyStatus struct {
	Spec     *EndpointPolicy `json:"spec,omitempty"`
	Realized *EndpointPolicy `json:"realized,omitempty"`
}

// EndpointPolicy is the policy of an endpoint.
type EndpointPolicy struct {
	PolicyRevision           uint64   `json:"policy-revision"`
	ID                       uint32   `json:"id"`             // identity it is for
	PolicyEnabled            string   `json:"policy-enabled"` // none, ingress, egress or both
	Build                    uint32   `json:"build,omitempty"`
	AllowedIngressIdentities []uint32 `json:"allowed-ingress-identities,omitempty"`
	AllowedEgressIdentities  []uint32 `json:"allowed-egress-identities,omitempty"`
}

// EndpointStatusChange is one line of an endpoint's log.
type EndpointStatusChange struct {
	Timestamp time.Time `json:"timestamp"`
	Code      string    `json:"code"` // ok or failed
	Message   string    `json:"message"`
	State     string    `json:"state"`
}

// EndpointHealth is the condition of an endpoint: OK, Bootstrap, Pending,
// Warning, Failure or Disabled for each part.
type EndpointHealth struct {
	OverallHealth string `json:"overallHealth"`
	BPF           string `json:"bpf"`
	Policy        string `json:"policy"`
	Connected     bool   `json:"connected"`
}
