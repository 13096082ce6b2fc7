// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// TestAuditedRulesChangeNothingAndTellWhatTheyWould: in both directions, also for
// a connection that is open when the rule comes, and enforced at last.
func TestAuditedRulesChangeNothingAndTellWhatTheyWould(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
	tcp := lab.Probes[0]
	lines := a.monitor("--type", "policy-verdict", "-v")
	conn, err := a.app3.DialTCP(within(t, 5*time.Second), netip.AddrPortFrom(a.app1.IPv4, lab.ProbePort))
	must(t, err)
	defer conn.Close()
	must(t, exchange(conn, time.Second))

	audited := `{"labels": ["name=%s"], "endpointSelector": {"matchLabels": {"id": %q}}, "mode": "audit", %s}`
	a.load("[" + fmt.Sprintf(audited, "in", "app1", `"ingress": [{`+fromApp2+`}]`) + `,
		{"labels": ["name=closed"], "endpointSelector": {"matchLabels": {"id": "app2"}}, "egress": [{"toEntities": ["none"]}]},` +
		fmt.Sprintf(audited, "out", "app2", `"egress": [{"toEndpoints": [{}]}]`) + "]")
	must(t, exchange(conn, time.Second))
	verdict := func(what, from string) {
		t.Helper()
		text := lines.WaitFor(t, "audit, would be "+what)
		if !regexp.MustCompile("audit, would be " + what + " .*identity " + a.identity(from) + "->" + a.identity("app1")).MatchString(text) {
			t.Errorf("the monitor does not tell what would be with %s:\n%s", from, text)
		}
	}
	verdict("denied", "app3")
	for _, to := range []netip.Addr{a.app1.IPv4, a.app1.IPv6} {
		lab.Reaches(t, tcp, "would be denied", a.app3.Namespace, to, true)
		lab.Reaches(t, tcp, "would be allowed", a.app2.Namespace, to, false)
	}
	verdict("allowed", "app2")
	text := lines.WaitFor(t, "audit, would be allowed")
	for _, want := range []string{"by rule [unspec:name=in]", "by rule [unspec:name=out]", "by rule [unspec:name=closed]"} {
		if !strings.Contains(text, want) {
			t.Errorf("the monitor does not name %q:\n%s", want, text)
		}
	}
	if metrics := a.cli("bpf", "metrics", "list"); strings.Contains(metrics, "Policy denied by denylist") {
		t.Errorf("an audited denial was counted as a drop:\n%s", metrics)
	}
	hits := a.cli("policy", "hits")
	if !regexp.MustCompile(`unspec:name=in \(audit\) +0 +0 +[1-9]`).MatchString(hits) || !regexp.MustCompile(`unspec:name=out \(audit\) +[1-9]`).MatchString(hits) {
		t.Errorf("the hits of audited rules:\n%s", hits)
	}
	a.load(strings.ReplaceAll("["+fmt.Sprintf(audited, "in", "app1", `"ingress": [{`+fromApp2+`}]`)+"]", "audit", "enforce"))
	if err := exchange(conn, 300*time.Millisecond); err == nil {
		t.Error("the connection goes on under the rule that was audited before")
	}
}

// TestDenialsAreAnsweredAsTheRuleSays tries every pair of ends, in both families:
// endpoints, the node, and the outside.
func TestDenialsAreAnsweredAsTheRuleSays(t *testing.T) {
	n := lab.NewNode(t, "node1", lab.Options{Outside: true, Forward: true})
	a := &apps{Node: n, t: t}
	a.startAgent()
	a.app1, a.app2 = a.workload("app1"), a.workload("app2")
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
	lab.Serve(t, n.Outside, n.Outside.IPv4, n.Outside.IPv6)
	from := map[string]*lab.Namespace{"app2": a.app2.Namespace, "the node": n.Namespace, "the outside": n.Outside}
	for response, want := range map[string]error{"rst": syscall.ECONNREFUSED, "icmp": syscall.EHOSTUNREACH} {
		a.load(fmt.Sprintf(`[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "denyResponse": %q,
			"ingressDeny": [{"fromEntities": ["all"]}], "egressDeny": [{"toEntities": ["world"]}]}]`, response))
		for name, ns := range from {
			for _, to := range []netip.Addr{a.app1.IPv4, a.app1.IPv6} {
				answered(t, response+": "+name+" to app1", ns, to, want)
			}
		}
		for _, to := range []netip.Addr{n.Outside.IPv4, n.Outside.IPv6} {
			answered(t, response+": app1 to the outside", a.app1.Namespace, to, want)
		}
	}
	a.load(onApp1(`"denyResponse": "rst", "ingress": [{` + fromHost + `}]`))
	answered(t, "closed by a rule that answers", a.app2.Namespace, a.app1.IPv4, syscall.ECONNREFUSED)
	lab.Reaches(t, lab.Probes[0], "allowed by the same rule", n.Namespace, a.app1.IPv4, true)
}

// answered wants a connection to be refused soon, and for this reason. Of ICMP,
// IPv6 tells a reason of its own.
func answered(t *testing.T, what string, from *lab.Namespace, to netip.Addr, want error) {
	t.Helper()
	begin := time.Now()
	conn, err := from.DialTCP(within(t, 5*time.Second), netip.AddrPortFrom(to, lab.ProbePort))
	if err == nil {
		conn.Close()
		t.Errorf("%s %s: it was connected", what, to)
		return
	}
	if errors.Is(want, syscall.EHOSTUNREACH) && to.Is6() {
		want = syscall.EACCES
	}
	if took := time.Since(begin); !errors.Is(err, want) || took > 3*time.Second {
		t.Errorf("%s %s: after %s: %v, want %v", what, to, took, err, want)
	}
}

// TestModesChangeUnderOpenConnections switches enforcement and looks at new and
// open connections after each.
func TestModesChangeUnderOpenConnections(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	a.load(lab.AllowRule(fromApp2, lab.L4Rules["TCP"]))
	a.cli("config", "PolicyEnforcement=never")
	conn, err := a.app3.DialTCP(within(t, 5*time.Second), netip.AddrPortFrom(a.app1.IPv4, lab.ProbePort))
	must(t, err)
	defer conn.Close()
	for _, step := range []struct {
		mode       string
		app2, app3 bool
	}{
		{"never", true, true},
		{"default", true, false},
		{"never", true, true},
		{"always", false, false}, // app2's own egress is closed, too
		{"default", true, false},
	} {
		a.cli("config", "PolicyEnforcement="+step.mode)
		lab.Reaches(t, lab.Probes[0], step.mode+": app2", a.app2.Namespace, a.app1.IPv4, step.app2)
		lab.Reaches(t, lab.Probes[0], step.mode+": app3", a.app3.Namespace, a.app1.IPv4, step.app3)
		limit := 300 * time.Millisecond
		if step.app3 {
			limit = 10 * time.Second // until TCP sends again
		}
		if err := exchange(conn, limit); (err == nil) != step.app3 {
			t.Errorf("%s: the open connection: %v", step.mode, err)
		}
		drain(conn)
	}
	a.killAgent()
	a.startAgent()
	if text := a.cli("config"); !strings.Contains(text, "PolicyEnforcement") {
		t.Errorf("the configuration after a restart:\n%s", text)
	}
	lab.Reaches(t, lab.Probes[0], "after a restart: app3", a.app3.Namespace, a.app1.IPv4, false)
}

// TestLocalhostIsLetInWhateverTheRulesSay: with --allow-localhost the node reaches
// what a rule denies it, and nobody else does.
func TestLocalhostIsLetInWhateverTheRulesSay(t *testing.T) {
	a := start(t, "--allow-localhost")
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
	a.load(`[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "tier": "admin", "ingressDeny": [{"fromEntities": ["all"]}]}]`)
	for _, to := range []netip.Addr{a.app1.IPv4, a.app1.IPv6} {
		for _, p := range lab.Probes {
			lab.Reaches(t, p, "the node", a.Namespace, to, true)
			lab.Reaches(t, p, "app2", a.app2.Namespace, to, false)
		}
	}
	a.killAgent()
	a.startAgent()
	lab.Reaches(t, lab.Probes[0], "the node, without the option", a.Namespace, a.app1.IPv4, false)
}

// drain reads the answers to what was sent while nothing passed.
func drain(conn net.Conn) {
	buffer := make([]byte, 64)
	for _ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); ; {
		if _, err := conn.Read(buffer); err != nil {
			return
		}
	}
}

// TestAnAdminsTierHoldsForAddresses: prefixes, their exceptions and passes, from
// and to the outside.
func TestAnAdminsTierHoldsForAddresses(t *testing.T) {
	n := lab.NewNode(t, "node1", lab.Options{Outside: true, Forward: true})
	a := &apps{Node: n, t: t}
	near, far := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("198.51.100.200")
	must(t, n.Outside.AddAddresses(near, far))
	a.startAgent()
	a.app1 = a.workload("app1")
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	lab.Serve(t, n.Outside, near, far)
	check := func(what string, nearIn, farIn, nearOut, farOut bool) {
		t.Helper()
		lab.Reaches(t, lab.Probes[0], what+": near in", n.Outside.From(near), a.app1.IPv4, nearIn)
		lab.Reaches(t, lab.Probes[0], what+": far in", n.Outside.From(far), a.app1.IPv4, farIn)
		lab.Reaches(t, lab.Probes[0], what+": near out", a.app1.Namespace, near, nearOut)
		lab.Reaches(t, lab.Probes[0], what+": far out", a.app1.Namespace, far, farOut)
	}
	const subject = `"endpointSelector": {"matchLabels": {"id": "app1"}}`
	a.load(`[{` + subject + `, "ingress": [{"fromEntities": ["all"]}], "egress": [{"toEntities": ["all"]}]},
		{` + subject + `, "tier": "admin", "enableDefaultDeny": {"ingress": false, "egress": false},
		 "ingressDeny": [{"fromCIDRSet": [{"cidr": "198.51.100.0/24", "except": ["198.51.100.128/25"]}]}],
		 "egressDeny": [{"toCIDR": ["198.51.100.128/25"]}]}]`)
	check("denied by the admin", false, true, true, false)
	a.add(`[{` + subject + `, "tier": "admin", "priority": -1, "verdict": "pass", "enableDefaultDeny": {"ingress": false},
		"ingress": [{"fromCIDR": ["198.51.100.7"]}]}]`)
	check("near may be decided below", true, true, true, false)
	a.add(`[{` + subject + `, "ingressDeny": [{"fromCIDR": ["198.51.100.0/28"]}]}]`)
	check("and is denied there", false, true, true, false)
}
