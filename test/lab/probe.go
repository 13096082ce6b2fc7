// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// ProbePort is where Serve answers.
const ProbePort = 80

// Probe is one way to reach a peer.
type Probe struct {
	Name string
	Try  func(ctx context.Context, from *Namespace, to netip.Addr) error
}

// Probes are the ways that a policy tells apart.
var Probes = []Probe{
	{"TCP", func(ctx context.Context, from *Namespace, to netip.Addr) error {
		return from.RoundTripTCP(ctx, netip.AddrPortFrom(to, ProbePort), []byte("hello"))
	}},
	{"UDP", func(ctx context.Context, from *Namespace, to netip.Addr) error {
		return from.RoundTripUDP(ctx, netip.AddrPortFrom(to, ProbePort), []byte("hello"))
	}},
	{"ICMP", func(ctx context.Context, from *Namespace, to netip.Addr) error {
		return from.Ping(ctx, to)
	}},
}

// L4Rules are the parts of a rule that allow what the probe of that name sends.
var L4Rules = map[string]string{
	"TCP":  `"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]`,
	"UDP":  `"toPorts": [{"ports": [{"port": "80", "protocol": "UDP"}]}]`,
	"ICMP": `"icmps": [{"fields": [{"family": "IPv4", "type": 8}, {"family": "IPv6", "type": 128}]}]`,
}

// AllowRule is a rule by which workloads with the label id=app1 accept one protocol
// from a peer, such as "fromEntities": ["host"].
func AllowRule(peer, l4 string) string {
	return fmt.Sprintf(`[{
		"labels": [{"key": "name", "value": "rule"}],
		"endpointSelector": {"matchLabels": {"id": "app1"}},
		"ingress": [{%s, %s}]
	}]`, peer, l4)
}

// Serve answers TCP and UDP at ProbePort on the addresses, until the test ends.
func Serve(t testing.TB, n *Namespace, addrs ...netip.Addr) {
	t.Helper()
	for _, ip := range addrs {
		if !ip.IsValid() {
			continue
		}
		tcp, err := n.ServeTCP(netip.AddrPortFrom(ip, ProbePort))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tcp.Close() })
		udp, err := n.ServeUDP(netip.AddrPortFrom(ip, ProbePort))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { udp.Close() })
	}
}

// Check is an error unless the probe gets an answer, or with allowed unset gets none.
func (p Probe) Check(ctx context.Context, what string, from *Namespace, to netip.Addr, allowed bool) error {
	limit := 5 * time.Second
	if !allowed {
		limit = 300 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := p.Try(ctx, from, to)
	switch {
	case allowed && err != nil:
		return fmt.Errorf("%s %s to %s: %w", p.Name, what, to, err)
	case !allowed && err == nil:
		return fmt.Errorf("%s %s to %s was answered", p.Name, what, to)
	}
	return nil
}

// Reaches fails the test when Check does.
func Reaches(t testing.TB, p Probe, what string, from *Namespace, to netip.Addr, allowed bool) {
	t.Helper()
	if err := p.Check(t.Context(), what, from, to, allowed); err != nil {
		t.Error(err)
	}
}

// Apply replaces all rules of the node's agent, and waits until they are enforced.
func (n *Node) Apply(ctx context.Context, rules string) error {
	for _, step := range []struct {
		args  []string
		stdin string
	}{{args: []string{"policy", "delete", "--all"}}, {[]string{"policy", "import", "-"}, rules}} {
		result, err := n.CLIWithInput(ctx, strings.NewReader(step.stdin), step.args...)
		if err == nil && result.Code != 0 {
			err = errors.New(result.Stderr)
		}
		if err != nil {
			return fmt.Errorf("cilium %s on node %s: %w", strings.Join(step.args, " "), n.Name, err)
		}
		var revision int
		lines := strings.Split(strings.TrimSpace(result.Stdout), "\n")
		if _, err := fmt.Sscanf(lines[len(lines)-1], "Revision: %d", &revision); err != nil {
			continue
		}
		if result, err = n.CLI(ctx, "policy", "wait", fmt.Sprint(revision)); err != nil || result.Code != 0 {
			return fmt.Errorf("wait for revision %d on node %s: %w: %s", revision, n.Name, err, result.Stderr)
		}
	}
	return nil
}
