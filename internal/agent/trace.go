// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// Trace implements apiserver.Policy: one transcript for each port asked for.
func (p policyAPI) Trace(q apiserver.TraceQuery) (apiserver.Trace, error) {
	ports, err := tracePorts(q.Ports)
	if err != nil {
		return apiserver.Trace{}, err
	}
	flow := policy.Flow{Source: p.party(q.From), Dest: p.party(q.To)}
	rules, _ := p.present()
	opts := p.a.decisionOptions()
	result := apiserver.Trace{Allowed: true}
	var logs []string
	var details []policy.Trace
	for _, port := range ports {
		flow.Port = port
		t := policy.TraceFlow(rules, opts, flow)
		result.Allowed = result.Allowed && t.Allowed
		logs = append(logs, t.String(q.Verbose))
		details = append(details, t)
	}
	if result.Log = strings.Join(logs, "\n"); len(ports) > 1 && !result.Allowed {
		result.Log += "\nFinal verdict: DENIED\n"
	}
	if result.Detail, err = json.Marshal(struct {
		Traces []policy.Trace `json:"traces"`
	}{details}); err != nil {
		return apiserver.Trace{}, fmt.Errorf("write the trace as JSON: %w", err)
	}
	return result, nil
}

func tracePorts(ports []api.Port) ([]l4.Port, error) {
	if len(ports) == 0 {
		return []l4.Port{{}}, nil
	}
	var all []l4.Port
	for _, p := range ports {
		protocol, err := l4.ParseProtocol(p.Protocol)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", apiserver.ErrInvalid, err)
		}
		protocols := []l4.Protocol{protocol}
		if protocol == l4.Any && p.Port != 0 {
			// A packet has one protocol: a port alone asks for each that has ports.
			protocols = []l4.Protocol{l4.TCP, l4.UDP, l4.SCTP}
		}
		for _, protocol := range protocols {
			all = append(all, l4.Port{Protocol: protocol, Number: p.Port})
		}
	}
	return all, nil
}

// party works out who stands behind one side of a query. Labels alone stand for
// a workload, unless they are those of a reserved identity.
func (p policyAPI) party(q apiserver.Party) policy.Party {
	if q.Addr.IsValid() && q.Endpoint == 0 {
		q.Identity = p.a.identityOf(q)
		if known, ok := p.a.identities.Lookup(q.Identity); ok {
			q.Labels = known.Labels
		}
	}
	if q.Identity == identity.Unknown {
		if known, ok := p.a.identities.LookupLabels(q.Labels); ok {
			q.Identity = known.ID
		}
	}
	return policy.Party{ID: q.Identity, Labels: q.Labels, Local: q.Identity.HasPolicy(), Addr: q.Addr}
}

// identityOf finds the identity of an address as the kernel would.
func (a *Agent) identityOf(q apiserver.Party) identity.ID {
	if _, row, ok := a.rows.ipcache.Lookup(q.Addr); ok {
		return row.Identity
	}
	if q.Addr.Is4() {
		return identity.WorldIPv4
	}
	return identity.WorldIPv6
}

// refusal turns what Parse found into the list that the API answers with.
func refusal(err error) error {
	var problems []api.PolicyProblem
	collect(err, &problems)
	if len(problems) == 0 {
		return fmt.Errorf("%w: %w", apiserver.ErrInvalid, err)
	}
	return &apiserver.PolicyError{Problems: problems}
}

// collect walks joined errors; errors.As would stop at the first.
func collect(err error, problems *[]api.PolicyProblem) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			collect(e, problems)
		}
		return
	}
	var one *policy.Error
	if errors.As(err, &one) {
		*problems = append(*problems, api.PolicyProblem{
			File: one.File, Line: one.Line, Column: one.Column, Path: one.Path, Text: one.Msg,
		})
	}
}

// enforced tells which directions of a workload are under enforcement.
func (b *ruleBook) enforced(mode policy.Mode, labels label.Set) (ingress, egress bool) {
	rules, _ := b.present()
	rules = policy.Enforcing(rules)
	ingress, _ = policy.Enforced(rules, mode, labels, policy.Ingress)
	egress, _ = policy.Enforced(rules, mode, labels, policy.Egress)
	return ingress, egress
}
