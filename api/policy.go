// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"time"
)

// Policy is the rules in force, or those that were asked for.
type Policy struct {
	Revision uint64 `json:"revision"`
	Policy   string `json:"policy"` // JSON array of rules
	// Rules counts the rules in Policy; after a delete, those that were removed.
	Rules int `json:"rules"`
	// Duplicates names imported rules that were there already, Warnings what
	// may not be meant.
	Duplicates []string `json:"duplicates,omitempty"`
	// Replaced names the rules that went, because imported ones have their labels.
	Replaced []string `json:"replaced,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Realized is the revision that the kernel enforces.
	Realized uint64 `json:"realized,omitempty"`
}

// PolicyImport is the body of PUT /policy in the form that keeps file names for
// error messages. All documents are taken, or none.
type PolicyImport struct {
	Documents []PolicyDocument `json:"documents"`
}

// PolicyDocument is one file of rules, JSON or YAML.
type PolicyDocument struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// PolicyProblem is one mistake in a policy document.
type PolicyProblem struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	Path   string `json:"path,omitempty"` // JSON path, from $
	Text   string `json:"text"`
}

// Port is a port with its protocol: TCP, UDP, SCTP, ICMP, ICMPv6 or ANY. For
// ICMP it is the message type.
type Port struct {
	Protocol string `json:"protocol,omitempty"`
	Port     uint16 `json:"port"`
}

// TraceSelector asks how a packet would fare: POST /policy/resolve.
type TraceSelector struct {
	From    *TraceFrom `json:"from"`
	To      *TraceTo   `json:"to"`
	Verbose bool       `json:"verbose,omitempty"`
}

// TraceFrom names the sender by exactly one of its fields.
type TraceFrom struct {
	Labels   Labels `json:"labels,omitempty"`
	Endpoint string `json:"endpoint,omitempty"` // as in the path /endpoint/{id}
	Identity uint32 `json:"identity,omitempty"`
	IP       string `json:"ip,omitempty"`
}

// TraceTo names the receiver by exactly one of its fields, and the ports. No
// ports ask for any port.
type TraceTo struct {
	Labels   Labels `json:"labels,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	Identity uint32 `json:"identity,omitempty"`
	IP       string `json:"ip,omitempty"`
	DPorts   []Port `json:"dports,omitempty"`
}

// PolicyTraceResult is the answer of a trace.
type PolicyTraceResult struct {
	Verdict string `json:"verdict"` // allowed or denied
	Log     string `json:"log"`     // for people; ends with the final verdict
	// Detail holds the decisions of both sides with the rules considered.
	Detail json.RawMessage `json:"detail,omitempty"`
}

// PolicyExplanation tells why a packet fared as it did.
type PolicyExplanation struct {
	Event   string `json:"event"`   // its id
	Packet  string `json:"packet"`  // as the monitor shows it
	Changed bool   `json:"changed"` // the policy is another now, and what follows is about it
	Log     string `json:"log"`     // for people
	// Detail holds the deciding rules, those that lost, and the changes that would
	// make it the other verdict.
	Detail json.RawMessage `json:"detail,omitempty"`
}

// PolicyLint is what is hardly meant in the rules in force, or in those that an
// import would leave.
type PolicyLint struct {
	Rules    int             `json:"rules"`    // how many were looked at
	Findings []PolicyFinding `json:"findings"` // in the order of the rules
}

// PolicyFinding is something that is hardly meant, and what to do about it.
type PolicyFinding struct {
	Check    string `json:"check"`            // what was looked for, such as shadowed
	Severity string `json:"severity"`         // error, warning or note
	Rule     string `json:"rule"`             // its labels, or what else names it
	Origin   string `json:"origin,omitempty"` // file, line and place
	Path     string `json:"path,omitempty"`   // within the rule
	Text     string `json:"text"`
}

// PolicySimulation is what rules would have made of recorded flows.
type PolicySimulation struct {
	Since        time.Time          `json:"since"`                   // from when on flows were wanted
	First        time.Time          `json:"first,omitzero"`          // of the flows that were replayed
	Last         time.Time          `json:"last,omitzero"`           // likewise
	Rules        int                `json:"rules"`                   // tried
	Flows        uint64             `json:"flows"`                   // replayed
	Changed      uint64             `json:"changed"`                 // of these, with another verdict
	Unknown      uint64             `json:"unknown,omitempty"`       // left out: who took part was not known
	Untold       uint64             `json:"untold,omitempty"`        // of changed, too many to list
	NotRecorded  uint64             `json:"not-recorded,omitempty"`  // events that the record lacks: it has holes
	DamagedBytes int64              `json:"damaged-bytes,omitempty"` // of the record, left out
	Changes      []PolicyFlowChange `json:"changes"`                 // the most frequent first
}

// PolicyFlowChange is flows of the same peers and port that would have another verdict.
type PolicyFlowChange struct {
	Source      FlowPeer  `json:"source"`
	Destination FlowPeer  `json:"destination"`
	Port        string    `json:"port"`               // such as 80/TCP; for ICMP the message type
	Was         string    `json:"was"`                // the recorded verdict
	Would       string    `json:"would"`              // the one under the rules
	WasRule     []string  `json:"was-rule,omitempty"` // labels of the rule that decided then
	Rule        string    `json:"rule,omitempty"`     // name of the one that would decide
	Origin      string    `json:"origin,omitempty"`   // its file, line and place
	Reason      string    `json:"reason,omitempty"`
	Flows       uint64    `json:"flows"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
}

// FlowPeer is one end of recorded flows.
type FlowPeer struct {
	Labels  []string `json:"labels"`
	Address string   `json:"address,omitempty"` // of what is no workload
}

// PolicyHits is what each rule decided so far.
type PolicyHits struct {
	Revision uint64     `json:"revision"`
	Rules    []RuleHits `json:"rules"` // in the order of their import
}

// RuleHits is what one rule decided: a packet counts once for the rule that let
// it out of its sender, and once for the one that let it into its receiver, or
// for the one that denied it. Replies count for no rule.
type RuleHits struct {
	Name    string   `json:"name"`
	Labels  []string `json:"labels,omitempty"`
	Origin  string   `json:"origin,omitempty"` // file, line and place
	Cookie  uint32   `json:"cookie"`
	Audit   bool     `json:"audit,omitempty"` // it would have decided
	Allowed HitCount `json:"allowed"`
	Denied  HitCount `json:"denied"`
	// First and Last are absent for a rule without hits.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
}

// HitCount counts packets, and their bytes with link headers.
type HitCount struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}
