// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"cilium.local/cilium/api"
)

func (d *demo) deny() error {
	d.Title("A denial beats every allow")
	d.load("deny.yaml")
	d.asks("web", true)
	d.asks("batch", true)
	d.asks("tester", false)
	d.asks("the node", false)
	return nil
}

func (d *demo) tiers() error {
	d.Title("Tiers: the administrators' rules come first, and may leave the word to others")
	d.load("tiers.yaml")
	d.asks("web", true)
	d.asksBy("UDP", "web", false)
	d.asks("batch", false)
	d.asks("the node", true)
	out, exit := d.Run("cilium", "policy", "trace", "-s", "container:app=batch", "-d", "container:app=db", "--dport", "80/tcp")
	d.Check(exit == 0 && strings.Contains(out, "Final verdict: DENIED") && strings.Contains(out, "denied by rule [unspec:name=closed]"), "the trace names the rule of the administrators")
	return nil
}

func (d *demo) audit() error {
	d.Title("Audit: what a rule would deny, without denying it")
	d.load("audit.yaml")
	monitor, err := d.Watch("cilium", "monitor", "--type", "policy-verdict", "-v")
	if err != nil {
		return err
	}
	defer monitor.Stop()
	// The monitor is there once it shows anything.
	for range 40 {
		d.ask(d.clients[0], "TCP", false)
		if monitor.Text() != "" {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	d.asks("batch", true)
	d.Say("the monitor shows:")
	event := first(monitor.Wait("name=web-only", 5*time.Second), "Policy verdict: audit")
	d.Say("%s", event)
	d.Check(strings.Contains(event, "would be denied") && strings.Contains(event, "source: container:app=batch"), "the monitor tells that batch would be denied")
	d.Check(strings.Contains(event, "by rule [unspec:name=web-only]"), "and by which rule")
	return nil
}

// first is the first event of a monitor that begins so, with the indented lines
// that tell more of it.
func first(text, begin string) string {
	at := strings.Index(text, begin)
	if at < 0 {
		return ""
	}
	lines := strings.Split(text[at:], "\n")
	end := 1
	for end < len(lines) && strings.HasPrefix(lines[end], " ") {
		end++
	}
	return strings.Join(lines[:end], "\n")
}

func (d *demo) prefixes() error {
	d.Title("Prefixes outside, with an exception")
	d.load("cidr.yaml")
	d.asks(partners[0].String(), true)
	d.asks(partners[1].String(), false)
	d.asks(d.node.Outside.IPv4.String(), false)
	d.asks("web", false)
	return nil
}

func (d *demo) explain() error {
	d.Title("Why was that packet dropped?")
	d.load("deny.yaml")
	d.asks("tester", false)
	out, exit := d.Run("cilium", "policy", "explain", "--last-drop", "container-id:db")
	d.Check(exit == 0 && strings.Contains(out, "name=quarantine") && strings.Contains(out, "deny.yaml:"), "the rule is named, with its place in the file")
	d.Check(strings.Contains(out, "name=clients"), "so is the rule that lost")
	d.Check(strings.Contains(out, "import this rule"), "and what would let the packet through")
	return nil
}

func (d *demo) hits() error {
	d.Title("What each rule decided, to the packet")
	d.load("hits.yaml")
	d.Say("web pings db 3 times, batch 5 times")
	for _, c := range []struct {
		client          client
		times, answered int
	}{{d.clients[0], 3, 3}, {d.clients[1], 5, 0}} {
		answered := 0
		for range c.times {
			answered += btoi(d.ask(c.client, "ICMP", false))
		}
		d.Check(answered == c.answered, "%s is answered %d times of %d", c.client.name, answered, c.times)
	}
	out, exit := d.Run("cilium", "policy", "hits")
	d.Check(exit == 0 && strings.Contains(out, "Without a hit:\n  unspec:name=nobody-comes"), "the rule that nothing met is listed apart")
	var counted api.PolicyHits
	if err := json.Unmarshal([]byte(d.Value("cilium", "policy", "hits", "-o", "json")), &counted); err != nil {
		return fmt.Errorf("read the hits: %w", err)
	}
	hits := map[string][2]uint64{}
	for _, r := range counted.Rules {
		hits[r.Name] = [2]uint64{r.Allowed.Packets, r.Denied.Packets}
	}
	d.Check(hits["unspec:name=web-pings"] == [2]uint64{3, 0}, "exactly 3 packets were allowed by web-pings")
	d.Check(hits["unspec:name=no-batch"] == [2]uint64{0, 5}, "exactly 5 packets were denied by no-batch")
	return nil
}

func (d *demo) lint() error {
	d.Title("Rules that are allowed, but hardly meant")
	d.Run("cat", "odd.yaml")
	out, exit := d.Run("cilium", "policy", "lint", "--strict", "odd.yaml")
	d.Check(exit == 1 && strings.Contains(out, "did you mean"), "a label that nobody has is found, and the likely one told")
	d.Check(strings.Contains(out, "name=useless"), "so is an allow of which everything is denied")
	return nil
}

func (d *demo) removal() error {
	d.Title("And away")
	for i, w := range workloads {
		d.Check(d.plugin(d.workloads[i], w.name, "DEL", "") == 0, "%s is disconnected", w.name)
	}
	out, exit := d.Run("cilium", "endpoint", "list", "--no-headers")
	d.Check(exit == 0 && strings.TrimSpace(out) == "", "no endpoint is left")
	return nil
}
