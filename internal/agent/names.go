// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net"
	"sync"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/metrics"
	"cilium.local/cilium/internal/observe"
	"cilium.local/cilium/internal/policy"
)

// labelsOf resolves an identity for events.
func (a *Agent) labelsOf(id identity.ID) []string {
	if found, ok := a.identities.Lookup(id); ok {
		return found.Labels.Strings()
	}
	return nil
}

// labelsOf returns the labels of the rule with the cookie, for tables: its name
// when it has none.
func (b *ruleBook) labelsOf(cookie uint32) []string {
	r := b.repository().Rule(cookie)
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

// describe tells events of the rule with the cookie.
func (b *ruleBook) describe(cookie uint32) observe.Rule {
	r := b.repository().Rule(cookie)
	if r == nil {
		return observe.Rule{}
	}
	named := observe.Rule{Labels: labelsOrName(r), Origin: r.Origin.String()}
	if r.Log != nil {
		named.Log = r.Log.Value
	}
	return named
}

// interfaceNames remembers the names of devices by index. The kernel does not
// use an index again soon, so a name stays right for as long as events about the
// device come.
type interfaceNames struct {
	mu    sync.Mutex
	known map[int]string
}

// maxInterfaceNames bounds the memory; beyond it the names are asked for again.
const maxInterfaceNames = 4096

func newInterfaceNames() *interfaceNames { return &interfaceNames{known: map[int]string{}} }

func (n *interfaceNames) name(index int) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if name, ok := n.known[index]; ok {
		return name
	}
	device, err := net.InterfaceByIndex(index)
	if err != nil {
		return ""
	}
	if len(n.known) >= maxInterfaceNames {
		clear(n.known)
	}
	n.known[index] = device.Name
	return device.Name
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
	}
}

// eventsLost counts events that found the kernel's buffer or a watcher full.
func (a *Agent) eventsLost() uint64 {
	lost, err := a.dp.LostEvents()
	if err != nil {
		a.log.Warn("lost events are not counted", "error", err)
	}
	return lost + a.hub.Lost()
}

func (a *Agent) endpointStates() map[string]int {
	states := map[string]int{}
	for _, e := range a.endpoints.List() {
		states[string(e.State)]++
	}
	return states
}
