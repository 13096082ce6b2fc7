// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"time"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/metrics"
	"cilium.local/cilium/internal/observe"
)

// Errors by which the agent chooses the status code of an answer; it wraps them.
// Those of package endpoint count likewise. Any other error is a failure of the
// agent itself.
var (
	ErrNotFound    = errors.New("not found")
	ErrInvalid     = errors.New("invalid request")
	ErrConflict    = errors.New("conflict")
	ErrUnavailable = errors.New("unavailable") // of the key-value store
	ErrExhausted   = errors.New("exhausted")   // no free address is left
	ErrNoFamily    = errors.New("address family is off")
)

// Agent is what the handlers need from the running agent. Every field must be
// set, and safe for concurrent use.
type Agent struct {
	Node       Node
	Endpoints  Endpoints
	Identities Identities
	Addresses  Addresses
	Policy     Policy
	Events     Events
	Tables     Tables
	Store      Store
	// Samples returns all metrics.
	Samples func() ([]metrics.Sample, error)
	// Observe is told about each answered request, under its route's pattern. It
	// may be nil.
	Observe func(method, pattern string, code int, took time.Duration)
}

// Node tells about the agent as a whole. It speaks the API's words, because
// nothing else in the agent needs these facts together.
type Node interface {
	// Status returns the condition of every part. Cilium is Failure when any
	// part that workloads depend on has failed.
	Status(ctx context.Context) *api.StatusResponse
	// Configuration returns how the agent is configured.
	Configuration() *api.DaemonConfiguration
	// Configure changes what can be changed while running, and fails with
	// ErrInvalid for options that it does not know.
	Configure(ctx context.Context, spec *api.DaemonConfigurationSpec) error
	// Addressing returns the node's own addresses and ranges, which workloads use
	// as gateways.
	Addressing() *api.NodeAddressing
	// Nodes returns the known nodes, this one included.
	Nodes() []api.NodeElement
	// DeleteNode gives back the ranges that a node has claimed. A node that is
	// registered is ErrConflict, with force only if its agent answers; one that has
	// none is ErrNotFound.
	DeleteNode(ctx context.Context, name string, force bool) (*api.NodeDeletion, error)
}

// Endpoints are the workloads of the node; endpoint.Manager implements it.
type Endpoints interface {
	List() []endpoint.Endpoint
	Lookup(ref string) (endpoint.Endpoint, error)
	Create(ctx context.Context, spec endpoint.Spec) (endpoint.Endpoint, error)
	Delete(ctx context.Context, id uint16) error
	SetLabels(ctx context.Context, id uint16, labels label.Set) error
	// SetTraced has each packet of an endpoint reported, or no longer.
	SetTraced(ctx context.Context, id uint16, traced bool) error
	SetContainer(ctx context.Context, id uint16, containerID, name string, labels label.Set) error
	// Note warns of something about an endpoint; an empty message says nothing.
	Note(id uint16, message string) error
}

// Identities are the identities that the node knows.
type Identities interface {
	// Identities returns the reserved and the allocated ones, in any order.
	Identities() []identity.Identity
	Lookup(id identity.ID) (identity.Identity, bool)
}

// Addresses reserves addresses for callers of the IPAM API. A taken address is
// ErrConflict, a foreign one ErrInvalid, an unknown one ErrNotFound, a full
// range ErrExhausted, a family that the node does not have ErrNoFamily.
type Addresses interface {
	// Reserve takes a free address of a family, "ipv4" or "ipv6".
	Reserve(family, owner string) (netip.Addr, error)
	ReserveAddr(addr netip.Addr, owner string) error
	ReleaseReserved(addr netip.Addr) error
}

// Document is one policy file as it came: JSON or YAML text under the name that
// error messages give.
type Document struct {
	Name string
	Text []byte
}

// RuleSet is a set of rules at a revision.
type RuleSet struct {
	Revision uint64 // of the repository
	Realized uint64 // that the kernel enforces
	Rules    int
	JSON     []byte // canonical array of the rules
}

// Import is the outcome of an import.
type Import struct {
	RuleSet
	Duplicates []string // rules that were there already
	Replaced   []string // rules that went, for those with the same labels
	Warnings   []string // what is accepted, but may not be meant
}

// Party is one side of a traced packet: the one field that is set names it.
type Party struct {
	Labels   label.Set
	Identity identity.ID
	Addr     netip.Addr
	Endpoint uint16
}

// TraceQuery asks how a packet from one party to the other would fare. Without
// ports any port is meant; several give a decision each.
type TraceQuery struct {
	From, To Party
	Ports    []api.Port
	Verbose  bool
}

// Trace is the answer: Log reads as transcript and ends with the final verdict;
// Detail is the same as a JSON object.
type Trace struct {
	Allowed bool
	Log     string
	Detail  json.RawMessage
}

// Enforcement is how an identity stands under policy.
type Enforcement struct {
	Ingress, Egress bool // whether the direction is under enforcement
	// Peers that some entry allows; identity.Unknown stands for any peer.
	AllowedIngress, AllowedEgress []identity.ID
}

// Policy is the rule repository with its enforcement.
type Policy interface {
	// Import parses, checks, enforces and keeps the rules of all documents, or
	// none. It returns once they are in the kernel. A document that is refused
	// is ErrInvalid, best a *PolicyError that lists the mistakes.
	Import(ctx context.Context, documents []Document, replace bool) (Import, error)
	// DryRun checks an import in the same way, also whether it would fit, and answers
	// as if it were done. It changes nothing.
	DryRun(documents []Document, replace bool) (Import, error)
	// Simulate tries the rules, as they would be after an import of the documents, on
	// the flows that were recorded since so long; there may be no documents.
	Simulate(documents []Document, replace bool, since time.Duration) (*api.PolicySimulation, error)
	// Delete removes the rules that carry all the labels. Rules counts those
	// that were removed; none is ErrNotFound.
	Delete(ctx context.Context, labels label.Set) (RuleSet, error)
	// DeleteAll removes every rule; it is no error when there is none.
	DeleteAll(ctx context.Context) (RuleSet, error)
	// Revision returns that of the repository, and the one the kernel enforces.
	Revision() (repository, realized uint64)
	// Rules returns the rules that carry all the labels.
	Rules(labels label.Set) (RuleSet, error)
	Trace(query TraceQuery) (Trace, error)
	// Explain tells why a packet fared as it did: that of a remembered event, or
	// the last one that policy dropped on its way from or to an endpoint.
	// ErrNotFound if it is not remembered.
	Explain(event string, endpoint uint16) (*api.PolicyExplanation, error)
	// Lint finds what is hardly meant in the rules, as they would be after an import
	// of the documents; there may be none.
	Lint(documents []Document, replace bool) (*api.PolicyLint, error)
	// Hits returns what each rule decided so far.
	Hits() (*api.PolicyHits, error)
	// Enforcement returns the state of one identity in use, zero for others.
	Enforcement(id identity.ID) Enforcement
}

// Events hands out what happens; observe.Hub implements it.
type Events interface {
	// Watch collects, from its return on, the events that the filter picks.
	Watch(filter flow.Filter) *observe.Watcher
}

// TableInfo describes a table without reading it.
type TableInfo struct {
	Name string
	// Kernel says that the rows come from a BPF map, not from the agent's memory.
	Kernel bool
}

// Tables reads everything that has rows. Those of the kernel are endpoint,
// ipcache, policy, ct and metrics.
type Tables interface {
	Tables() []TableInfo
	// Table reads the rows, in order; an unknown name is ErrNotFound.
	Table(ctx context.Context, name string) (*api.Table, error)
	// Flush removes the rows of a table that is a cache, which only ct is; others
	// are ErrInvalid. It returns how many there were.
	Flush(ctx context.Context, name string) (int, error)
}

// Store gives direct access to the key-value store. While the store is away,
// every method fails with ErrUnavailable.
type Store interface {
	// Get returns the value of a key, or ErrNotFound.
	Get(ctx context.Context, key string) (string, error)
	// List returns all keys that begin with the prefix, in order.
	List(ctx context.Context, prefix string) ([]api.KeyValue, error)
	Set(ctx context.Context, key, value string) error
	// Delete removes the key, or with recursive all that begin with it, and
	// returns how many there were.
	Delete(ctx context.Context, key string, recursive bool) (int, error)
}
