// SPDX-License-Identifier: Apache-2.0

// Package policy holds the policy language: its documents, the rules they become,
// and Decide, the plain definition of what the rules mean, which the compiled
// form in package compile and the BPF programs are tested against.
//
// The package is pure: it reads no file and no clock. Rules do not change after
// Parse and may be shared.
package policy

import (
	"encoding/json"
	"fmt"
	"strconv"

	"cilium.local/cilium/internal/label"
)

// Direction is a packet's as the workload sees it whose policy is asked. Values
// are those of BPF keys.
type Direction uint8

// The directions.
const (
	Ingress Direction = 0
	Egress  Direction = 1
)

// String returns "ingress" or "egress".
func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// Mode says when a workload is under enforcement.
type Mode string

// The enforcement modes: as soon as a rule selects the workload, always, never.
const (
	ModeDefault Mode = "default"
	ModeAlways  Mode = "always"
	ModeNever   Mode = "never"
)

// Rule is one rule of a document. The exported fields are the document's; a nil
// list and an empty one differ.
type Rule struct {
	EndpointSelector  *SelectorSpec    `json:"endpointSelector,omitempty"`
	NodeSelector      *SelectorSpec    `json:"nodeSelector,omitempty"`
	Labels            []LabelSpec      `json:"labels,omitzero"`
	Description       string           `json:"description,omitempty"`
	Log               *LogSpec         `json:"log,omitempty"`
	Ingress           []IngressSpec    `json:"ingress,omitzero"`
	IngressDeny       []IngressSpec    `json:"ingressDeny,omitzero"`
	Egress            []EgressSpec     `json:"egress,omitzero"`
	EgressDeny        []EgressSpec     `json:"egressDeny,omitzero"`
	EnableDefaultDeny *DefaultDenySpec `json:"enableDefaultDeny,omitempty"`
	Tier              string           `json:"tier,omitempty"`
	Priority          *int             `json:"priority,omitempty"`
	Verdict           string           `json:"verdict,omitempty"`
	Mode              string           `json:"mode,omitempty"`
	DenyResponse      string           `json:"denyResponse,omitempty"`

	// Origin is where the rule was written.
	Origin Origin `json:"-"`

	// Cookie names the rule in kernel entries and events, from when it is in a
	// Repository; a lower one was imported earlier. 0 is none.
	Cookie uint32 `json:"-"`

	labels   label.Set
	selector label.Selector
	elements [2][]element // by direction
	text     string       // canonical JSON, from when it is in a Repository
	values   int          // that the text has at most

	unsupported []error // what of it is not enforced
}

// Origin is the place of a rule in a document.
type Origin struct {
	File  string `json:"file"`
	Line  int    `json:"line"`  // from 1
	Index int    `json:"index"` // in the document's list, from 0
}

// String returns "file:line (rule n)", with n from 1; empty if it is not known.
func (o Origin) String() string {
	if o.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d (rule %d)", o.File, o.Line, o.Index+1)
}

// SelectorSpec picks label sets.
type SelectorSpec struct {
	MatchLabels      map[string]string `json:"matchLabels,omitempty"`
	MatchExpressions []ExpressionSpec  `json:"matchExpressions,omitempty"`
}

// ExpressionSpec is one condition of a selector.
type ExpressionSpec struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"`
	Values   []string `json:"values,omitempty"`
}

// LabelSpec is a label of a rule: a string, or an object of its parts.
type LabelSpec struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Source string `json:"source,omitempty"`
}

// LogSpec is carried into verdict events.
type LogSpec struct {
	Value string `json:"value"`
}

// DefaultDenySpec switches off, by direction, that the rule closes its endpoints.
type DefaultDenySpec struct {
	Ingress *bool `json:"ingress,omitempty"`
	Egress  *bool `json:"egress,omitempty"`
}

// L4Spec is the part that ingress and egress elements share.
type L4Spec struct {
	ToPorts []PortsSpec `json:"toPorts,omitzero"`
	ICMPs   []ICMPSpec  `json:"icmps,omitzero"`
}

// IngressSpec is one element of an ingress section.
type IngressSpec struct {
	FromEndpoints []SelectorSpec `json:"fromEndpoints,omitzero"`
	FromRequires  []SelectorSpec `json:"fromRequires,omitzero"`
	FromCIDR      []string       `json:"fromCIDR,omitzero"`
	FromCIDRSet   []CIDRSpec     `json:"fromCIDRSet,omitzero"`
	FromEntities  []string       `json:"fromEntities,omitzero"`
	FromNodes     []SelectorSpec `json:"fromNodes,omitzero"`
	L4Spec
}

// EgressSpec is one element of an egress section.
type EgressSpec struct {
	ToEndpoints []SelectorSpec `json:"toEndpoints,omitzero"`
	ToRequires  []SelectorSpec `json:"toRequires,omitzero"`
	ToCIDR      []string       `json:"toCIDR,omitzero"`
	ToCIDRSet   []CIDRSpec     `json:"toCIDRSet,omitzero"`
	ToEntities  []string       `json:"toEntities,omitzero"`
	ToServices  []ServiceSpec  `json:"toServices,omitzero"`
	ToFQDNs     []NameSpec     `json:"toFQDNs,omitzero"`
	ToNodes     []SelectorSpec `json:"toNodes,omitzero"`
	L4Spec
}

// CIDRSpec is a prefix without some of its parts.
type CIDRSpec struct {
	CIDR   string   `json:"cidr"`
	Except []string `json:"except,omitempty"`
}

// ServiceSpec names services by name or by labels.
type ServiceSpec struct {
	K8sService         *K8sServiceSpec         `json:"k8sService,omitempty"`
	K8sServiceSelector *K8sServiceSelectorSpec `json:"k8sServiceSelector,omitempty"`
}

// K8sServiceSpec names a service.
type K8sServiceSpec struct {
	ServiceName string `json:"serviceName"`
	Namespace   string `json:"namespace,omitempty"`
}

// K8sServiceSelectorSpec picks services by their labels.
type K8sServiceSelectorSpec struct {
	Selector  SelectorSpec `json:"selector"`
	Namespace string       `json:"namespace,omitempty"`

	parsed label.Selector
}

// NameSpec picks DNS names.
type NameSpec struct {
	MatchName    string `json:"matchName,omitempty"`
	MatchPattern string `json:"matchPattern,omitempty"`
}

// PortsSpec is a list of ports, with what is allowed on them.
type PortsSpec struct {
	Ports       []PortSpec `json:"ports,omitempty"`
	Rules       *L7Spec    `json:"rules,omitempty"`
	ServerNames []string   `json:"serverNames,omitempty"`
}

// PortSpec is a port or a range, by number or name.
type PortSpec struct {
	Port     string `json:"port,omitempty"`
	EndPort  int    `json:"endPort,omitempty"`
	Protocol string `json:"protocol,omitempty"`
}

// ICMPSpec is a list of ICMP messages.
type ICMPSpec struct {
	Fields []ICMPFieldSpec `json:"fields"`
}

// ICMPFieldSpec is one type of ICMP message, by number or name.
type ICMPFieldSpec struct {
	Family string     `json:"family,omitempty"`
	Type   TypeNumber `json:"type"`
}

// TypeNumber is a number or a name.
type TypeNumber string

// MarshalJSON writes a number where it is one.
func (n TypeNumber) MarshalJSON() ([]byte, error) {
	if number, err := strconv.ParseUint(string(n), 10, 8); err == nil {
		return json.Marshal(number)
	}
	return json.Marshal(string(n))
}

// L7Spec is what is allowed inside connections; exactly one kind.
type L7Spec struct {
	HTTP  []HTTPSpec  `json:"http,omitzero"`
	GRPC  []GRPCSpec  `json:"grpc,omitzero"`
	Kafka []KafkaSpec `json:"kafka,omitzero"`
	DNS   []NameSpec  `json:"dns,omitzero"`
}

// HTTPSpec is one kind of allowed request.
type HTTPSpec struct {
	Method        string       `json:"method,omitempty"`
	Path          string       `json:"path,omitempty"`
	Host          string       `json:"host,omitempty"`
	Headers       []string     `json:"headers,omitempty"`
	HeaderMatches []HeaderSpec `json:"headerMatches,omitempty"`
}

// HeaderSpec is a condition on a header.
type HeaderSpec struct {
	Name       string `json:"name"`
	Value      string `json:"value,omitempty"`
	ValueRegex string `json:"valueRegex,omitempty"`
	Mismatch   string `json:"mismatch,omitempty"`
}

// GRPCSpec is one allowed method.
type GRPCSpec struct {
	Service string `json:"service,omitempty"`
	Method  string `json:"method,omitempty"`
}

// KafkaSpec is one kind of allowed request.
type KafkaSpec struct {
	Role       string `json:"role,omitempty"`
	APIKey     string `json:"apiKey,omitempty"`
	APIVersion string `json:"apiVersion,omitempty"`
	ClientID   string `json:"clientID,omitempty"`
	Topic      string `json:"topic,omitempty"`
}

// LabelSet returns the rule's labels.
func (r *Rule) LabelSet() label.Set { return r.labels }

// MarshalRules returns the canonical JSON array of the rules; Parse reads it back.
func MarshalRules(rules []*Rule) ([]byte, error) {
	if rules == nil {
		rules = []*Rule{}
	}
	return json.MarshalIndent(rules, "", "  ")
}
