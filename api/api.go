// SPDX-License-Identifier: Apache-2.0

// Package api holds the models of the agent's REST API, one Go type for each
// schema of openapi.yaml, which is the source; a test compares the two. The
// models are for the wire: inside the agent other types carry the meaning.
//
// Fields without a value are left out of JSON unless their absence would mean
// something else.
package api

import (
	_ "embed" // for the API's own description
	"time"
)

// Document is the description of the API, openapi.yaml.
//
//go:embed openapi.yaml
var Document []byte

// Error is the body of every answer that is not a success.
type Error struct {
	// Error says what was wrong, with which object, and what to do.
	Error string `json:"error"`
	// Field names the part of the request that is at fault, when one is.
	Field string `json:"field,omitempty"`
	// Problems lists every mistake of a refused policy.
	Problems []PolicyProblem `json:"problems,omitempty"`
}

// Labels are label texts, "source:key=value".
type Labels []string

// AddressPair holds an address of each family; either may be empty.
type AddressPair struct {
	IPv4 string `json:"ipv4,omitempty"`
	IPv6 string `json:"ipv6,omitempty"`
}

// ConfigurationMap holds options by name.
type ConfigurationMap map[string]string

// Severity is how well a part of the agent does.
type Severity string

// The severities.
const (
	SeverityOk       Severity = "Ok"
	SeverityWarning  Severity = "Warning"
	SeverityFailure  Severity = "Failure"
	SeverityDisabled Severity = "Disabled"
)

// Status is the condition of one part of the agent.
type Status struct {
	State Severity `json:"state"`
	Msg   string   `json:"msg,omitempty"`
}

// StatusResponse is the condition of the agent: the answer of GET /healthz.
type StatusResponse struct {
	Cilium           *Status              `json:"cilium,omitempty"`
	KVStore          *Status              `json:"kvstore,omitempty"`
	ContainerRuntime *Status              `json:"container-runtime,omitempty"`
	Datapath         *Status              `json:"datapath,omitempty"`
	Policy           *Status              `json:"policy,omitempty"`
	Forwarding       *Status              `json:"forwarding,omitempty"`
	FlowLog          *Status              `json:"flow-log,omitempty"`
	IPAM             *IPAMStatus          `json:"ipam,omitempty"`
	NodeMonitor      *MonitorStatus       `json:"nodeMonitor,omitempty"`
	Cluster          *ClusterStatus       `json:"cluster,omitempty"`
	Controllers      []ControllerStatus   `json:"controllers,omitempty"`
	Endpoints        *EndpointStateCounts `json:"endpoints,omitempty"`
	Version          string               `json:"version,omitempty"`
	Started          *time.Time           `json:"started,omitempty"`
	Stale            map[string]string    `json:"stale,omitempty"`
}

// EndpointStateCounts counts the endpoints of the node, in all and by state.
type EndpointStateCounts struct {
	Total   int            `json:"total"`
	ByState map[string]int `json:"by-state,omitempty"`
}

// MonitorStatus describes the way of events from the kernel to readers.
type MonitorStatus struct {
	CPUs     int    `json:"cpus,omitempty"`
	NPages   int    `json:"npages,omitempty"`
	PageSize int    `json:"pagesize,omitempty"`
	Lost     uint64 `json:"lost"`
	Unknown  uint64 `json:"unknown"`
	// Readers is how many monitors listen now.
	Readers int `json:"readers"`
}

// ClusterStatus is what the agent knows of the cluster.
type ClusterStatus struct {
	Self  string        `json:"self,omitempty"`
	Nodes []NodeElement `json:"nodes,omitempty"`
	// Problems name what of other nodes is not in force, and why.
	Problems []string `json:"problems,omitempty"`
	// Joined are the other clusters.
	Joined []JoinedCluster `json:"joined,omitempty"`
}

// JoinedCluster is what the agent knows of another cluster.
type JoinedCluster struct {
	Name       string `json:"name"`
	ID         uint8  `json:"id,omitempty"`
	Connected  bool   `json:"connected"`
	Identities int    `json:"identities"`
	Addresses  int    `json:"addresses"`
	Problem    string `json:"problem,omitempty"`
}

// NodeElement is one node of the cluster.
type NodeElement struct {
	Cluster            string                  `json:"cluster,omitempty"`
	Name               string                  `json:"name"`
	PrimaryAddress     *NodeAddressing         `json:"primary-address,omitempty"`
	SecondaryAddresses []NodeAddressingElement `json:"secondary-addresses,omitempty"`
	// Health is what the node has answered; it is missing until it was asked.
	Health []NodeProbe `json:"health,omitempty"`
}

// NodeProbe is one way to reach a node, as it was tried the last time.
type NodeProbe struct {
	Protocol string `json:"protocol"`
	IP       string `json:"ip"`
	// Latency is the time until the answer, in nanoseconds.
	Latency int64 `json:"latency"`
	// Error says why there was no answer.
	Error string    `json:"error,omitempty"`
	Asked time.Time `json:"asked"`
	// Reached is when there was an answer last; it is missing if there never was one.
	Reached *time.Time `json:"reached,omitempty"`
}

// NodeDeletion tells what became free with a node.
type NodeDeletion struct {
	Ranges []string `json:"ranges"`
}

// NodeAddressing is a node's share of addresses, by family.
type NodeAddressing struct {
	IPv6 *NodeAddressingElement `json:"ipv6,omitempty"`
	IPv4 *NodeAddressingElement `json:"ipv4,omitempty"`
}

// NodeAddressingElement is an address of a node with the range of its workloads.
type NodeAddressingElement struct {
	Enabled     bool   `json:"enabled"`
	IP          string `json:"ip,omitempty"`
	AllocRange  string `json:"alloc-range,omitempty"`
	AddressType string `json:"address-type,omitempty"`
}

// ControllerStatus tells about one background task of the agent.
type ControllerStatus struct {
	Name          string                   `json:"name"`
	UUID          string                   `json:"uuid,omitempty"`
	Configuration *ControllerConfiguration `json:"configuration,omitempty"`
	Status        *ControllerStatusStatus  `json:"status,omitempty"`
}

// ControllerConfiguration is how a background task is run; durations are as Go
// writes them.
type ControllerConfiguration struct {
	Interval       string `json:"interval,omitempty"`
	ErrorRetryBase string `json:"error-retry-base,omitempty"`
	ErrorRetry     bool   `json:"error-retry,omitempty"`
}

// ControllerStatusStatus counts how a background task fared.
type ControllerStatusStatus struct {
	SuccessCount            int64      `json:"success-count"`
	LastSuccessTimestamp    *time.Time `json:"last-success-timestamp,omitempty"`
	FailureCount            int64      `json:"failure-count"`
	LastFailureTimestamp    *time.Time `json:"last-failure-timestamp,omitempty"`
	ConsecutiveFailureCount int64      `json:"consecutive-failure-count"`
	LastFailureMsg          string     `json:"last-failure-msg,omitempty"`
}

// DaemonConfiguration is the answer of GET /config and, by its spec, the body of
// PATCH /config.
type DaemonConfiguration struct {
	Spec   *DaemonConfigurationSpec   `json:"spec,omitempty"`
	Status *DaemonConfigurationStatus `json:"status,omitempty"`
}

// DaemonConfigurationSpec is what can be changed while the agent runs.
type DaemonConfigurationSpec struct {
	Options           ConfigurationMap `json:"options,omitempty"`
	PolicyEnforcement string           `json:"policy-enforcement,omitempty"` // default, always or never
}

// DaemonConfigurationStatus is how the agent is configured now.
type DaemonConfigurationStatus struct {
	Realized             *DaemonConfigurationSpec `json:"realized,omitempty"`
	Immutable            ConfigurationMap         `json:"immutable,omitempty"`
	Addressing           *NodeAddressing          `json:"addressing,omitempty"`
	NodeMonitor          *MonitorStatus           `json:"nodeMonitor,omitempty"`
	KVStoreConfiguration *KVStoreConfiguration    `json:"kvstoreConfiguration,omitempty"`
	DeviceMTU            int                      `json:"deviceMTU,omitempty"`
	RouteMTU             int                      `json:"routeMTU,omitempty"`
	DatapathMode         string                   `json:"datapathMode,omitempty"` // veth
}

// KVStoreConfiguration names the key-value store in use.
type KVStoreConfiguration struct {
	Type    string            `json:"type"`
	Options map[string]string `json:"options,omitempty"`
}

// IPAMStatus lists the addresses that are in use.
type IPAMStatus struct {
	Allocations map[string]string `json:"allocations,omitempty"` // address to owner
	IPv4        []string          `json:"ipv4,omitempty"`
	IPv6        []string          `json:"ipv6,omitempty"`
	IPv4Range   string            `json:"ipv4-range,omitempty"`
	IPv6Range   string            `json:"ipv6-range,omitempty"`
}

// IPAMResponse is a new allocation, with the node's own addresses.
type IPAMResponse struct {
	Address        AddressPair    `json:"address"`
	HostAddressing NodeAddressing `json:"host-addressing"`
}

// Identity is a numeric identity with its labels.
type Identity struct {
	ID           uint32 `json:"id"`
	Labels       Labels `json:"labels,omitempty"`
	LabelsSHA256 string `json:"labelsSHA256,omitempty"`
}

// Metric is one sample of a metric. A histogram is given by the samples NAME_sum
// and NAME_count.
type Metric struct {
	Name   string            `json:"name"`
	Value  float64           `json:"value"`
	Labels map[string]string `json:"labels,omitempty"`
}

// DebugInfo is everything the agent tells for a bug report.
type DebugInfo struct {
	CiliumVersion        string            `json:"cilium-version,omitempty"`
	KernelVersion        string            `json:"kernel-version,omitempty"`
	CiliumStatus         *StatusResponse   `json:"cilium-status,omitempty"`
	EndpointList         []Endpoint        `json:"endpoint-list,omitempty"`
	IdentityList         []Identity        `json:"identity-list,omitempty"`
	Policy               *Policy           `json:"policy,omitempty"`
	CiliumMemoryMap      string            `json:"cilium-memory-map,omitempty"`
	EnvironmentVariables []string          `json:"environment-variables,omitempty"`
	Subsystem            map[string]string `json:"subsystem,omitempty"`
	Tables               []Table           `json:"tables,omitempty"`
}

// BPFMapList names the maps of the data plane.
type BPFMapList struct {
	Maps []BPFMap `json:"maps"`
}

// BPFMap is one map of the data plane. A list of maps leaves the cache out.
type BPFMap struct {
	Path    string        `json:"path"` // name, as in GET /map/{name}
	Entries int           `json:"entries,omitempty"`
	Cache   []BPFMapEntry `json:"cache,omitempty"`
}

// BPFMapEntry is one row as the kernel has it.
type BPFMapEntry struct {
	Key           string `json:"key"`
	Value         string `json:"value,omitempty"`
	DesiredAction string `json:"desired-action,omitempty"` // ok, insert or delete
	LastError     string `json:"last-error,omitempty"`
}

// Table is one table of the agent or the kernel, as text. Every row has one cell
// for each column; the first Keys columns name the row.
type Table struct {
	Name    string     `json:"name"`
	Kernel  bool       `json:"kernel,omitempty"` // rows come from a BPF map
	Columns []string   `json:"columns"`
	Keys    int        `json:"keys,omitempty"`
	Rows    [][]string `json:"rows"`
}

// TableList names the tables; their rows are left out.
type TableList struct {
	Tables []Table `json:"tables"`
}

// KeyValue is one key of the key-value store.
type KeyValue struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Deleted counts what a request removed.
type Deleted struct {
	Deleted int `json:"deleted"`
}
