// SPDX-License-Identifier: Apache-2.0

// Package flow holds the words for what happens to packets: an Event of the data
// plane or the agent, the filter that picks events, and the lines that people
// read. It is pure: events come from elsewhere and go elsewhere.
package flow

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
)

// Type is the kind of an event. Numbers are stable; the text form is the name.
type Type uint8

// The kinds of events.
const (
	TypeDrop    Type = 1
	TypeTrace   Type = 4
	TypeVerdict Type = 5
	TypeAgent   Type = 130
)

// Direction tells for which side of the packet an event speaks. Values are those
// of BPF keys.
type Direction uint8

// The directions, as seen by the endpoint of the event.
const (
	Ingress Direction = 0
	Egress  Direction = 1
)

// TracePoint is where in the data plane a packet was seen.
type TracePoint uint8

// The points at which packets are seen.
const (
	ToEndpoint   TracePoint = 0
	ToProxy      TracePoint = 1
	ToHost       TracePoint = 2
	ToStack      TracePoint = 3
	ToOverlay    TracePoint = 4
	FromEndpoint TracePoint = 5
	FromProxy    TracePoint = 6
	FromHost     TracePoint = 7
	FromStack    TracePoint = 8
	FromOverlay  TracePoint = 9
	FromNetwork  TracePoint = 10
	ToNetwork    TracePoint = 11
)

// TraceReason is what connection tracking knew about the packet.
type TraceReason uint8

// What connection tracking knows about a packet.
const (
	ReasonNew         TraceReason = 0
	ReasonEstablished TraceReason = 1
	ReasonReply       TraceReason = 2
	ReasonRelated     TraceReason = 3
)

// Verdict is the outcome of a policy decision.
type Verdict uint8

// The outcomes.
const (
	Allowed Verdict = 0
	Denied  Verdict = 1
)

// TCPFlags are the flag bits of a TCP header, lowest bit FIN.
type TCPFlags uint8

// Event is one thing that happened. Which fields mean something depends on the
// Type; those of packets are absent from agent events.
type Event struct {
	// ID is NODE-BOOT-SEQ, unique for the life of the node; boot names one run of
	// the agent.
	ID   string    `json:"id"`
	Type Type      `json:"type"`
	Time time.Time `json:"time"`

	// Reason is why a packet was dropped, 0 if it was not. In JSON it is a
	// number, with its text beside it.
	Reason DropReason `json:"reason-code,omitempty"`
	// Endpoint is the workload whose side reports, 0 for none; Direction is the
	// packet's as that workload sees it.
	Endpoint  uint16    `json:"endpoint,omitempty"`
	Direction Direction `json:"direction"`
	// SourceEndpoint and DestEndpoint are the workloads of this node behind the
	// addresses, 0 where there is none or it is not known.
	SourceEndpoint uint16 `json:"source-endpoint,omitempty"`
	DestEndpoint   uint16 `json:"destination-endpoint,omitempty"`

	SourceIdentity identity.ID `json:"source-identity"`
	DestIdentity   identity.ID `json:"destination-identity"`
	SourceLabels   []string    `json:"source-labels,omitempty"`
	DestLabels     []string    `json:"destination-labels,omitempty"`

	// Source and Dest have port 0 where the protocol has no ports. Both are
	// invalid for packets that are not IP.
	Source   netip.AddrPort `json:"source,omitzero"`
	Dest     netip.AddrPort `json:"destination,omitzero"`
	Proto    l4.Protocol    `json:"protocol,omitempty"`
	TCPFlags TCPFlags       `json:"tcp-flags,omitempty"`
	ICMPType uint8          `json:"icmp-type,omitempty"`
	ICMPCode uint8          `json:"icmp-code,omitempty"`

	// Tunnel is the node, by the address of its end of the tunnel, that sent the packet
	// here; invalid for packets that came by no tunnel.
	Tunnel netip.Addr `json:"tunnel,omitzero"`

	TracePoint  TracePoint  `json:"trace-point"`
	TraceReason TraceReason `json:"trace-reason"`
	// Verdict is meant only in events of TypeVerdict.
	Verdict Verdict `json:"verdict"`
	// Audit marks a verdict that would be if the rules that are only audited were
	// enforced; it is another than the one in force.
	Audit bool `json:"audit,omitempty"`
	// Answer marks a dropped packet, or a verdict, on the way from the end that
	// answers; the rules are about the other direction.
	Answer bool `json:"answer,omitempty"`

	Ifindex int    `json:"ifindex,omitempty"`
	IfName  string `json:"interface,omitempty"`
	Length  int    `json:"length,omitempty"` // bytes on the wire
	Hash    uint32 `json:"hash,omitempty"`   // of the flow

	// File and Line are the place in the data plane's source that decided.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Cookie names the deciding rule, 0 for none; RuleLabels are its labels,
	// RuleOrigin is where it was written, Log the value that it wants logged.
	Cookie     uint32   `json:"rule-cookie,omitempty"`
	RuleLabels []string `json:"rule-labels,omitempty"`
	RuleOrigin string   `json:"rule-origin,omitempty"`
	Log        string   `json:"log,omitempty"`

	// Capture is the beginning of the packet, from its Ethernet header.
	Capture []byte `json:"capture,omitempty"`
	// Message is the text of an agent event.
	Message string `json:"message,omitempty"`
}

// IsPolicy reports whether the packet was dropped by policy, and not for what it
// was like.
func (r DropReason) IsPolicy() bool {
	return r == DropPolicy || r == DropDenyRule || r == DropNoPolicy
}

// requests are the ICMP messages that others answer.
var requests = map[l4.Protocol]map[uint8]uint8{
	l4.ICMP:   {0: 8, 14: 13, 16: 15, 18: 17, 43: 42},
	l4.ICMPv6: {129: 128},
}

// Opening returns the event with the ends as they were when the flow was opened:
// those of an answer are the other way round.
func (e Event) Opening() Event {
	if !e.Answer {
		return e
	}
	e.Answer = false
	e.Source, e.Dest = e.Dest, e.Source
	e.SourceIdentity, e.DestIdentity = e.DestIdentity, e.SourceIdentity
	e.SourceLabels, e.DestLabels = e.DestLabels, e.SourceLabels
	e.SourceEndpoint, e.DestEndpoint = e.DestEndpoint, e.SourceEndpoint
	if request, ok := requests[e.Proto][e.ICMPType]; ok {
		e.ICMPType = request
	}
	return e
}

// MarshalJSON adds the text of the drop reason to the fields.
func (e Event) MarshalJSON() ([]byte, error) {
	type fields Event
	out := struct {
		fields
		ReasonText string `json:"reason,omitempty"`
	}{fields: fields(e)}
	if e.Reason != 0 {
		out.ReasonText = e.Reason.String()
	}
	return json.Marshal(out)
}

// Event types by name, and the other enumerations by number.
var (
	typeNames = map[Type]string{
		TypeDrop: "drop", TypeTrace: "trace", TypeVerdict: "policy-verdict", TypeAgent: "agent",
	}
	directionNames  = []string{"ingress", "egress"}
	tracePointNames = []string{
		"to-endpoint", "to-proxy", "to-host", "to-stack", "to-overlay",
		"from-endpoint", "from-proxy", "from-host", "from-stack", "from-overlay", "from-network", "to-network",
	}
	traceReasonNames = []string{"new", "established", "reply", "related"}
	verdictNames     = []string{"allowed", "denied"}
)

// ParseType reads the name of an event type, as String writes it.
func ParseType(text string) (Type, error) {
	for t, name := range typeNames {
		if name == text {
			return t, nil
		}
	}
	return 0, fmt.Errorf("event type %q: use drop, trace, policy-verdict or agent", text)
}

// String returns the name of the type, or its number.
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprint(uint8(t))
}

// MarshalText writes the name.
func (t Type) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the name.
func (t *Type) UnmarshalText(text []byte) error {
	parsed, err := ParseType(string(text))
	*t = parsed
	return err
}

// String returns "ingress" or "egress".
func (d Direction) String() string { return named(directionNames, uint8(d)) }

// MarshalText writes the name.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the name.
func (d *Direction) UnmarshalText(text []byte) error {
	return parseName("direction", directionNames, text, (*uint8)(d))
}

// String returns the name of the point, such as "to-endpoint".
func (p TracePoint) String() string { return named(tracePointNames, uint8(p)) }

// MarshalText writes the name.
func (p TracePoint) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the name.
func (p *TracePoint) UnmarshalText(text []byte) error {
	return parseName("trace point", tracePointNames, text, (*uint8)(p))
}

// String returns the name of the reason, such as "new".
func (r TraceReason) String() string { return named(traceReasonNames, uint8(r)) }

// MarshalText writes the name.
func (r TraceReason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the name.
func (r *TraceReason) UnmarshalText(text []byte) error {
	return parseName("trace reason", traceReasonNames, text, (*uint8)(r))
}

// String returns "allowed" or "denied".
func (v Verdict) String() string { return named(verdictNames, uint8(v)) }

// MarshalText writes the name.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads the name.
func (v *Verdict) UnmarshalText(text []byte) error {
	return parseName("verdict", verdictNames, text, (*uint8)(v))
}

// named returns the name of a value, or its number when it has none.
func named(names []string, value uint8) string {
	if int(value) < len(names) {
		return names[value]
	}
	return fmt.Sprint(value)
}

func parseName(what string, names []string, text []byte, out *uint8) error {
	for i, name := range names {
		if name == string(text) {
			*out = uint8(i)
			return nil
		}
	}
	return fmt.Errorf("%s %q: use one of %v", what, text, names)
}
