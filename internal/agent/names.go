// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net"
	"net/netip"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/metrics"
	"cilium.local/cilium/internal/observe"
	"cilium.local/cilium/internal/policy"
)

// names resolves the numbers of events, and remembers the texts.
type names struct {
	identities interface {
		Lookup(identity.ID) (identity.Identity, bool)
	}
	rule     func(cookie uint32) *policy.Rule
	endpoint func(netip.Addr) uint16

	labels     memo[*label.Label, []string] // by the set's first label: sets do not change
	rules      memo[*policy.Rule, observe.Rule]
	interfaces memo[int, string]
}

// resolvers are what the hub asks.
func (n *names) resolvers() observe.Names {
	return observe.Names{Labels: n.labelsOf, Rule: n.describe, Interface: n.interfaceName, Endpoint: n.endpoint}
}

func (n *names) labelsOf(id identity.ID) []string {
	found, ok := n.identities.Lookup(id)
	if !ok || len(found.Labels) == 0 {
		return nil
	}
	return n.labels.get(&found.Labels[0], func(*label.Label) ([]string, bool) { return found.Labels.Strings(), true })
}

// describe tells events of the rule with the cookie.
func (n *names) describe(cookie uint32) observe.Rule {
	r := n.rule(cookie)
	if r == nil {
		return observe.Rule{}
	}
	return n.rules.get(r, func(r *policy.Rule) (observe.Rule, bool) {
		named := observe.Rule{Labels: labelsOrName(r), Origin: r.Origin.String()}
		if r.Log != nil {
			named.Log = r.Log.Value
		}
		return named, true
	})
}

// interfaceName returns the name of a device by index. The kernel does not use an
// index again soon, so a name stays right for as long as events about the device
// come.
func (n *names) interfaceName(index int) string {
	return n.interfaces.get(index, func(index int) (string, bool) {
		device, err := net.InterfaceByIndex(index)
		if err != nil {
			return "", false
		}
		return device.Name, true
	})
}

// rule returns the rule with the cookie, or nil.
func (b *ruleBook) rule(cookie uint32) *policy.Rule { return b.repository().Rule(cookie) }

// labelsOf returns the labels of the rule with the cookie, for tables: its name
// when it has none.
func (b *ruleBook) labelsOf(cookie uint32) []string {
	r := b.rule(cookie)
	if r == nil {
		return nil
	}
	return labelsOrName(r)
}

func labelsOrName(r *policy.Rule) []string {
	if labels := r.LabelSet(); len(labels) > 0 {
		return labels.Strings()
	}
	return []string{r.Name()}
}

// packets turns the kernel's counters into those of metrics.
func (a *Agent) packets() ([]metrics.Packets, error) {
	counts, err := a.dp.Metrics()
	if err != nil {
		return nil, err
	}
	all := make([]metrics.Packets, 0, len(counts))
	for _, c := range counts {
		p := metrics.Packets{Direction: "INGRESS", Count: c.Packets, Bytes: c.Bytes}
		if c.Egress {
			p.Direction = "EGRESS"
		}
		if c.Reason != 0 {
			p.Reason = c.Reason.String()
		}
		all = append(all, p)
	}
	return all, nil
}

// metricSources are read at a scrape, when all parts are there.
func (a *Agent) metricSources() metrics.Sources {
	return metrics.Sources{
		Packets:        a.packets,
		EndpointStates: a.endpointStates,
		PolicyRevision: func() uint64 { return a.enforcer.Revision() },
		PolicyRules:    func() int { rules, _ := a.rules.present(); return len(rules) },
		Identities:     func() int { return len(a.identities.Identities()) },
		EventsLost:     a.eventsLost,
		FlowEvents:     a.flowEvents,
		Nodes:          a.nodesHealth,
		Store:          a.storeMetrics,
	}
}

func (a *Agent) flowEvents() map[string]uint64 {
	e, err := a.dp.FlowEvents()
	if err != nil {
		a.log.Warn("events of the flow table are not counted", "error", err)
		return nil
	}
	return map[string]uint64{"made": e.Made, "decided again": e.DecidedAgain, "evicted": e.Evicted, "refused": e.Refused}
}

// eventsLost counts events that found the kernel's buffer or a watcher full.
func (a *Agent) eventsLost() uint64 { return a.kernelLost() + a.hub.Lost() }

// kernelLost counts events that found the kernel's buffer full, so that nobody has
// heard of them.
func (a *Agent) kernelLost() uint64 {
	lost, err := a.dp.LostEvents()
	if err != nil {
		a.log.Warn("lost events are not counted", "error", err)
	}
	return lost
}

func (a *Agent) endpointStates() map[string]int {
	states := map[string]int{}
	for _, e := range a.endpoints.List() {
		states[string(e.State)]++
	}
	return states
}
