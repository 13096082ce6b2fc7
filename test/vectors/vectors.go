// SPDX-License-Identifier: Apache-2.0

// Package vectors holds policy cases as data: rules, identities, and what must
// become of packets. Every engine runs the same cases: the definition, the
// compiled form, and the programs in the kernel. Each engine's owner calls Load.
//
// A file is a list of cases. A check reads "DIRECTION PEER PORT ACTION [RULE]",
// such as "ingress app2 80/tcp allow 1": the direction as the subject sees it,
// the peer by its name in the case or its reserved name, the destination port
// (for ICMP the message type), the action, and the deciding rule by its place
// in the list, from 1. For a default denial the rule is the one that closed the
// direction. No rule means that none decided.
package vectors

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

//go:embed *.json
var files embed.FS

// Case is rules and what must become of packets of one endpoint.
type Case struct {
	Name       string // "file.json: name"
	Options    policy.Options
	Rules      []*policy.Rule      // numbered, as in a Repository
	Identities []identity.Identity // the reserved ones and the case's own
	Subject    identity.Identity   // the endpoint whose policy is asked
	Checks     []Check
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

// Check is a packet with what must become of it.
type Check struct {
	Text      string // as in the file
	Direction policy.Direction
	Peer      identity.Identity
	Port      l4.Port
	Action    Action
	Cookie    uint32 // of the deciding rule, 0 if there is none
}

// document is a case as it is written.
type document struct {
	Name           string              `json:"name"`
	Mode           policy.Mode         `json:"mode"`
	AllowLocalhost bool                `json:"allow-localhost"`
	Identities     map[string][]string `json:"identities"`
	Subject        string              `json:"subject"`
	Rules          json.RawMessage     `json:"rules"`
	Checks         []string            `json:"checks"`
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
		var documents []document
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		if err := d.Decode(&documents); err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name(), err)
		}
		for _, doc := range documents {
			c, err := doc.build(entry.Name())
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", entry.Name(), doc.Name, err)
			}
			cases = append(cases, c)
		}
	}
	return cases, nil
}

func (doc *document) build(file string) (Case, error) {
	c := Case{Name: file + ": " + doc.Name, Options: policy.Options{Mode: doc.Mode, AllowLocalhost: doc.AllowLocalhost}}
	if c.Options.Mode == "" {
		c.Options.Mode = policy.ModeDefault
	}
	names := map[string]identity.Identity{}
	for _, id := range identity.Reserved() {
		names[id.ID.Name()] = id
		c.Identities = append(c.Identities, id)
	}
	next := identity.MinAllocated
	for _, name := range slices.Sorted(maps.Keys(doc.Identities)) {
		labels, err := label.ParseSet(doc.Identities[name])
		if err != nil {
			return c, err
		}
		names[name] = identity.Identity{ID: next, Labels: labels}
		c.Identities = append(c.Identities, names[name])
		next++
	}
	var ok bool
	if c.Subject, ok = names[doc.Subject]; !ok {
		return c, fmt.Errorf("subject %q is no identity of the case", doc.Subject)
	}
	if err := c.number(file, doc.Rules); err != nil {
		return c, err
	}
	for _, text := range doc.Checks {
		check, err := c.check(text, names)
		if err != nil {
			return c, fmt.Errorf("check %q: %w", text, err)
		}
		c.Checks = append(c.Checks, check)
	}
	return c, nil
}

// number parses the rules and gives them cookies.
func (c *Case) number(file string, text json.RawMessage) error {
	rules, err := policy.Parse(file, text)
	if err != nil {
		return err
	}
	for _, r := range rules {
		if err := r.Unsupported(); err != nil {
			return err
		}
	}
	repository := policy.NewRepository()
	if _, _, err := repository.Add(rules, false); err != nil {
		return err
	}
	c.Rules = repository.Rules()
	return nil
}

func (c *Case) check(text string, names map[string]identity.Identity) (check Check, err error) {
	words := strings.Fields(text)
	if len(words) != 4 && len(words) != 5 {
		return check, fmt.Errorf("write DIRECTION PEER PORT ACTION [RULE]")
	}
	check = Check{Text: text, Action: Action(words[3])}
	switch words[0] {
	case policy.Ingress.String():
	case policy.Egress.String():
		check.Direction = policy.Egress
	default:
		return check, fmt.Errorf("direction %q: use ingress or egress", words[0])
	}
	var ok bool
	if check.Peer, ok = names[words[1]]; !ok {
		return check, fmt.Errorf("peer %q is no identity of the case", words[1])
	}
	if check.Port, err = l4.ParsePort(words[2]); err != nil {
		return check, err
	}
	if check.Action != Allow && check.Action != Deny && check.Action != DefaultDeny {
		return check, fmt.Errorf("action %q: use allow, deny or default-deny", words[3])
	}
	if len(words) == 5 {
		place, err := strconv.Atoi(words[4])
		if err != nil || place < 1 || place > len(c.Rules) {
			return check, fmt.Errorf("rule %q: use 1 to %d", words[4], len(c.Rules))
		}
		check.Cookie = c.Rules[place-1].Cookie
	}
	return check, nil
}
