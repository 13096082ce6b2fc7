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
	d.asks("batch", false)
	d.asks("the node", true)
	out, exit := d.Run("cilium", "policy", "trace", "-s", "container:app=batch", "-d", "container:app=db", "--dport", "80/tcp")
	d.Check(exit == 0 && strings.Contains(out, "Final verdict: DENIED") && strings.Contains(out, "name=closed"), "the trace names the rule of the administrators")
	return nil
}

func (d *demo) audit() error {
	d.Title("Audit: what a rule would deny, without denying it")
	d.load("audit.yaml")
	monitor := d.command(d.ctx, "cilium", "monitor", "--type", "policy-verdict", "-v")
	var seen lines
	monitor.Stdout = &seen
	if err := monitor.Start(); err != nil {
		return err
	}
	defer func() { _ = monitor.Process.Kill(); _ = monitor.Wait() }()
	// The monitor is there once it shows anything.
	for range 40 {
		d.ask(d.clients[0], "TCP", false)
		if seen.text() != "" {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	d.asks("batch", true)
	text := seen.wait("would be denied", 5*time.Second)
	fmt.Println("$ cilium monitor --type policy-verdict -v")
	if at := strings.Index(text, "Policy verdict: audit, would be denied"); at >= 0 {
		shown := strings.SplitAfterN(text[at:], "\n", 4) // an event, with what is known of it
		fmt.Print(strings.Join(shown[:len(shown)-1], ""))
	}
	d.Check(strings.Contains(text, "would be denied"), "the monitor told that batch would be denied")
	d.Check(strings.Contains(text, "name=web-only"), "and by which rule")
	return nil
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
	endpoint := fmt.Sprint(d.db.ID)
	out, exit := d.Run("cilium", "policy", "explain", "--last-drop", endpoint)
	d.Check(exit == 0 && strings.Contains(out, "name=quarantine") && strings.Contains(out, "deny.yaml:"), "the rule is named, with its place in the file")
	d.Check(strings.Contains(out, "name=clients"), "so is the rule that lost")
	d.Check(strings.Contains(out, "import this rule"), "and what would let the packet through")
	return nil
}

func (d *demo) hits() error {
	d.Title("What each rule decided, to the packet")
	d.load("hits.yaml")
	fmt.Println("web pings db 3 times, batch 5 times")
	for range 3 {
		d.Check(d.ask(d.clients[0], "ICMP", false), "web is answered")
	}
	for range 5 {
		if d.ask(d.clients[1], "ICMP", false) {
			d.Check(false, "batch has no answer")
		}
	}
	out, exit := d.Run("cilium", "policy", "hits")
	d.Check(exit == 0 && strings.Contains(out, "Without a hit:\n  unspec:name=nobody-comes"), "the rule that nothing met is listed apart")
	var counted api.PolicyHits
	if err := json.Unmarshal([]byte(d.Value("cilium", "policy", "hits", "-o", "json")), &counted); err != nil {
		return err
	}
	for _, r := range counted.Rules {
		switch r.Name {
		case "unspec:name=web-pings":
			d.Check(r.Allowed.Packets == 3 && r.Denied.Packets == 0, "exactly 3 packets were allowed by web-pings")
		case "unspec:name=no-batch":
			d.Check(r.Denied.Packets == 5 && r.Allowed.Packets == 0, "exactly 5 packets were denied by no-batch")
		}
	}
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
