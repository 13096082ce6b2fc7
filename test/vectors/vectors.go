// SPDX-License-Identifier: Apache-2.0

// Package vectors holds policy cases as data: rules, identities, and what must
// become of packets. Every engine runs the same cases (package test/engines): the
// definition, the compiled form, and the programs in the kernel.
//
// A file is a list of Documents. A check reads
//
//	DIRECTION PEER PORT ACTION [RULE] [icmp|rst] [audit ACTION [RULE]]
//
// such as "ingress app2 80/tcp deny 1 rst audit allow 2": the direction as the
// subject sees it, the peer by its name in the case, its reserved name or its
// address outside, the destination port (for ICMP the message type), the action,
// the deciding rule by its place in the list, from 1, and how the sender is told.
// For a default denial the rule is the one that closed the direction. No rule
// means that none decided. After "audit" stands what it would be if audited rules
// were enforced, where that is another verdict.
package vectors

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"net/netip"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

//go:embed *.json
var files embed.FS

// Document is a case as it is written.
type Document struct {
	Name           string      `json:"name"`
	Mode           policy.Mode `json:"mode,omitempty"` // absent: default
	AllowLocalhost bool        `json:"allow-localhost,omitempty"`
	// Services are as policy.ParseServices reads them.
	Services json.RawMessage `json:"services,omitempty"`
	// Identities are the labels of workloads, and labels that reserved identities
	// have beside their own.
	Identities map[string][]string `json:"identities"`
	Subject    string              `json:"subject"` // whose policy is asked
	Rules      json.RawMessage     `json:"rules"`
	Checks     []string            `json:"checks"`
}

// Case is rules and what must become of packets of one endpoint.
type Case struct {
	Name       string // "file.json: name"
	Options    policy.Options
	Rules      []*policy.Rule      // numbered, as in a Repository
	Identities []identity.Identity // the reserved ones, the case's own, and those of prefixes
	// Prefixes are the identities of the prefixes that rules name, as in the
	// kernel's table.
	Prefixes map[netip.Prefix]identity.ID
	Subject  identity.Identity
	Checks   []Check

	names map[string]identity.Identity
}

// Check is a packet with what must become of it.
type Check struct {
	Text string // as in the file
	Question
	Want Answer
}

// Question is a packet that opens a conversation with the subject or by it. The
// peer has an address if it was written by one.
type Question struct {
	Direction policy.Direction
	Peer      policy.Party
	Port      l4.Port
}

// Action is what becomes of a packet.
type Action string

// The actions: the kernel reports a denial by rule and one by default
// differently.
const (
	Allow       Action = "allow"
	Deny        Action = "deny"
	DefaultDeny Action = "default-deny"
)

// Verdict is a policy's word, by which rule, and how the sender of what is denied
// is told.
type Verdict struct {
	Action   Action
	Cookie   uint32 // of the rule that decided or closed the direction, 0 if there is none
	Response compile.Response
}

// Answer is a verdict with what it would be if audited rules were enforced; the
// zero Audit is none, or the same verdict.
type Answer struct {
	Verdict
	Audit Verdict
}

// Load returns all cases, by file name and in the order of each file. An error
// names the case that is wrong.
func Load() ([]Case, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var cases []Case
	for _, entry := range entries {
		data, err := files.ReadFile(entry.Name())
		if err != nil {
			return nil, err
		}
		var documents []Document
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		if err := d.Decode(&documents); err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name(), err)
		}
		for _, doc := range documents {
			c, err := doc.Build(entry.Name())
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", entry.Name(), doc.Name, err)
			}
			cases = append(cases, c)
		}
	}
	return cases, nil
}
