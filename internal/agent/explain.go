// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/explain"
)

// Explain implements apiserver.Policy.
func (p policyAPI) Explain(id string, endpoint uint16) (*api.PolicyExplanation, error) {
	event, err := p.remembered(id, endpoint)
	if err != nil {
		return nil, err
	}
	if event.Type == flow.TypeAgent || !event.Source.IsValid() {
		return nil, fmt.Errorf("%w: event %s is about no packet that policy decides", apiserver.ErrInvalid, event.ID)
	}
	rules, _ := p.present()
	opts := p.a.decisionOptions()
	f, same := flowOf(event, rules, opts)
	e := explain.Explain(rules, opts, f)
	detail, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	return &api.PolicyExplanation{
		Event: event.ID, Packet: flow.Format(event, false), Changed: !same, Log: e.String(), Detail: detail,
	}, nil
}

// decisionOptions are the node's settings that bear on decisions now.
func (a *Agent) decisionOptions() policy.Options {
	opts := a.policyOptions
	opts.Mode = a.enforcer.Mode()
	return opts
}

func (p policyAPI) remembered(id string, endpoint uint16) (flow.Event, error) {
	if id != "" {
		event, ok := p.a.hub.Find(id)
		if !ok {
			return event, fmt.Errorf("%w: event %q is not remembered; the newest ones are, until the agent restarts", apiserver.ErrNotFound, id)
		}
		return event, nil
	}
	var addrs []netip.Addr
	for _, e := range p.a.endpoints.List() {
		if e.ID == endpoint {
			addrs = e.Addresses()
		}
	}
	event, ok := p.a.hub.LastDenial(func(e *flow.Event) bool {
		return e.Endpoint == endpoint || slices.Contains(addrs, e.Source.Addr()) || slices.Contains(addrs, e.Dest.Addr())
	})
	if !ok {
		hint := ""
		if len(p.a.peers.all()) > 0 {
			hint = "; what it sends to another node's workloads may be dropped there: ask on that node, for the receiver"
		}
		return event, fmt.Errorf("%w: policy dropped no packet of endpoint %d on this node that is remembered%s", apiserver.ErrNotFound, endpoint, hint)
	}
	return event, nil
}

// flowOf returns the flow that a packet belongs to, as it was opened, and whether
// the rules still decide as the event says.
func flowOf(packet flow.Event, rules []*policy.Rule, opts policy.Options) (f policy.Flow, same bool) {
	e := packet.Opening()
	f = policy.Flow{
		Source: party(e.SourceIdentity, e.SourceLabels, e.Source.Addr()),
		Dest:   party(e.DestIdentity, e.DestLabels, e.Dest.Addr()),
		Port:   l4.Port{Protocol: e.Proto, Number: e.Dest.Port()},
	}
	if !e.Proto.HasPorts() {
		f.Port.Number = uint16(e.ICMPType)
	}
	return f, agrees(policy.Decide(rules, opts, f), e)
}

func party(id identity.ID, labels []string, addr netip.Addr) policy.Party {
	set, _ := label.ParseSet(labels) // the agent wrote them itself
	return policy.Party{ID: id, Labels: set, Local: id.HasPolicy() && id != identity.Unknown, Addr: addr}
}

// agrees reports whether a decision is the one that an event tells of.
func agrees(d policy.Decision, e flow.Event) bool {
	denied := e.Type == flow.TypeDrop && e.Reason.IsPolicy() || e.Type == flow.TypeVerdict && e.Verdict == flow.Denied
	for _, s := range d.Sides {
		audit := e.Audit && s.Audit != nil
		if audit {
			s = *s.Audit
		}
		cookie := uint32(0)
		if s.Rule != nil {
			cookie = s.Rule.Cookie
		}
		if s.Direction.String() == e.Direction.String() && s.Allowed != denied && (e.Type == flow.TypeTrace || cookie == e.Cookie) {
			return audit || d.Allowed != denied
		}
	}
	return len(d.Sides) == 0
}
