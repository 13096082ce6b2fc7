// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"cilium.local/cilium/api"
)

// attempt is one way to talk to the database.
type attempt struct {
	client   client
	protocol string
	ipv6     bool
}

// attempts are all of them.
func (d *demo) attempts() []attempt {
	var all []attempt
	for _, c := range d.clients {
		for _, protocol := range []string{"TCP", "UDP", "ICMP"} {
			all = append(all, attempt{c, protocol, false})
			if c.ipv6 {
				all = append(all, attempt{c, protocol, true})
			}
		}
	}
	return all
}

// tryAll tries all attempts at once.
func (d *demo) tryAll(all []attempt) []bool {
	answered := make([]bool, len(all))
	done := make(chan struct{})
	for i, x := range all {
		go func() {
			answered[i] = d.ask(x.client, x.protocol, x.ipv6)
			done <- struct{}{}
		}()
	}
	for range all {
		<-done
	}
	return answered
}

// concerns reports whether a predicted change is about the attempt.
func (x attempt) concerns(c *api.PolicyFlowChange) bool {
	ports := map[string]string{"TCP": "80/TCP", "UDP": "80/UDP", "ICMP": "8/ICMP"}
	if x.ipv6 {
		ports["ICMP"] = "128/ICMPv6"
	}
	if c.Port != ports[x.protocol] {
		return false
	}
	if len(x.client.labels) == 0 {
		return c.Source.Address == x.client.name
	}
	// The node has an address of each family, and workloads are their labels.
	if c.Source.Address != "" && strings.Contains(c.Source.Address, ":") != x.ipv6 {
		return false
	}
	return !slices.ContainsFunc(x.client.labels, func(l string) bool { return !slices.Contains(c.Source.Labels, l) })
}

func (d *demo) simulate() error {
	d.Title("Know before you import: what would the next version have made of what just happened?")
	d.load("cidr.yaml")
	all := d.attempts()
	d.Say("everybody talks to db, in %d ways", len(all))
	was := d.tryAll(all)
	d.Run("cat", "next.yaml")
	_, exit := d.Run("cilium", "policy", "import", "--dry-run", "--replace", "next.yaml")
	d.Check(exit == 0, "the agent would take it")
	_, exit = d.Run("cilium", "policy", "simulate", "--since", "1h", "--replace", "next.yaml")
	d.Check(exit == 0, "the simulation says which flows would fare otherwise")
	var found api.PolicySimulation
	text := d.Value("cilium", "policy", "simulate", "--since", "1h", "--replace", "-o", "json", "next.yaml")
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return fmt.Errorf("read the simulation: %w", err)
	}
	predicted := slices.Clone(was)
	for i, x := range all {
		for j := range found.Changes {
			if x.concerns(&found.Changes[j]) {
				predicted[i] = found.Changes[j].Would == "allowed"
			}
		}
	}
	d.Check(slices.Equal(d.tryAll(all[:6]), was[:6]), "so far nothing has changed")
	_, exit = d.Run("cilium", "policy", "import", "--replace", "--wait", "next.yaml")
	d.Check(exit == 0, "now the rules are in force")
	d.Say("everybody talks to db again")
	is := d.tryAll(all)
	right, changed := 0, 0
	for i := range all {
		if is[i] == predicted[i] {
			right++
		} else {
			d.Say("%s, %s, IPv6 %t: predicted %t, it is %t", all[i].client.name, all[i].protocol, all[i].ipv6, predicted[i], is[i])
		}
		if is[i] != was[i] {
			changed++
		}
	}
	d.Check(changed > 0, "%d of %d attempts fare otherwise", changed, len(all))
	d.Check(right == len(all), "the prediction was right for %d of %d, %d %%", right, len(all), 100*right/len(all))
	return nil
}
