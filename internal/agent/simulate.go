// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"strings"
	"time"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/flowlog/replay"
	"cilium.local/cilium/internal/policy"
)

// Simulate implements apiserver.Policy.
func (p policyAPI) Simulate(documents []apiserver.Document, replace bool, since time.Duration) (*api.PolicySimulation, error) {
	if p.a.flows == nil {
		return nil, fmt.Errorf("%w: this agent records no flows to try rules on; start it with --flow-log-max above 0", apiserver.ErrInvalid)
	}
	next, _, err := p.prospect(documents, replace)
	if err != nil {
		return nil, err
	}
	begin := time.Now().Add(-since)
	trial := replay.New(next.Rules(), p.a.decisionOptions())
	damaged, err := p.a.flows.Scan(begin, trial.Try)
	if err != nil {
		return nil, fmt.Errorf("read the recorded flows: %w", err)
	}
	found := trial.Result()
	answer := &api.PolicySimulation{
		Since: begin, First: found.First, Last: found.Last, Rules: len(next.Rules()),
		Flows: found.Flows, Changed: found.Changed, Unknown: found.Unknown, Untold: found.Untold,
		NotRecorded: p.a.flows.Stats().Lost + p.a.kernelLost(), DamagedBytes: damaged, Changes: []api.PolicyFlowChange{},
	}
	for i := range found.Changes {
		answer.Changes = append(answer.Changes, flowChange(&found.Changes[i]))
	}
	return answer, nil
}

func flowChange(c *replay.Change) api.PolicyFlowChange {
	change := api.PolicyFlowChange{
		Source: flowPeer(c.Source), Destination: flowPeer(c.Dest), Port: c.Port.String(),
		Was: c.Was.String(), Would: c.Would.String(), WasRule: c.WasRule,
		Flows: c.Flows, First: c.First, Last: c.Last,
	}
	if c.Side == nil {
		return change
	}
	change.Reason = sentence(c.Side)
	if rule := c.Side.Rule; rule != nil {
		change.Rule, change.Origin = rule.Name(), rule.Origin.String()
	}
	return change
}

// sentence is "Ingress: no rule allows it".
func sentence(s *policy.Side) string {
	direction := s.Direction.String()
	return strings.ToUpper(direction[:1]) + direction[1:] + ": " + string(s.Reason)
}

func flowPeer(p replay.Peer) api.FlowPeer {
	peer := api.FlowPeer{Labels: p.Labels}
	if p.Addr.IsValid() {
		peer.Address = p.Addr.String()
	}
	return peer
}
