// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/test/examples"
	"cilium.local/cilium/test/lab"
)

// TestTheLanguagesPageIsTrueForPackets runs the examples of docs/policy.md on a
// node, with the endpoints of the page and the addresses outside.
func TestTheLanguagesPageIsTrueForPackets(t *testing.T) {
	text, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	page, err := examples.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	p := startPage(t, page)
	for _, e := range page.Examples {
		p.cli("config", "PolicyEnforcement="+string(e.Mode))
		p.load(e.Rules)
		var flows sync.WaitGroup
		for _, f := range e.Flows {
			p.serve(f)
			flows.Go(func() { p.check(f) })
		}
		flows.Wait()
	}
}

// page is a node with what a page speaks of.
type page struct {
	*apps
	endpoints map[string]*lab.Workload
	served    map[string]bool
}

func startPage(t *testing.T, doc *examples.Page) *page {
	n := lab.NewNode(t, "node1", lab.Options{Outside: true, Forward: true})
	p := &page{apps: &apps{Node: n, t: t}, endpoints: map[string]*lab.Workload{}, served: map[string]bool{}}
	services, outside := "", map[netip.Addr]bool{}
	for _, e := range doc.Examples {
		services += e.Services
		for _, f := range e.Flows {
			for _, name := range []string{f.Source, f.Dest} {
				if addr, err := netip.ParseAddr(name); err == nil && !outside[addr] {
					outside[addr] = true
					must(t, n.Outside.AddAddresses(addr))
				}
			}
		}
	}
	file := filepath.Join(t.TempDir(), "services.yaml")
	must(t, os.WriteFile(file, []byte(services), 0o600))
	flags := []string{"--services-file=" + file}
	for key, value := range examples.NodeLabels {
		flags = append(flags, fmt.Sprintf("--node-labels=%s=%s", key, value))
	}
	p.startAgent(flags...)
	for name, labels := range doc.Endpoints {
		p.endpoints[name] = p.labelled(name, labels...)
	}
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place returns where a name of the page is, with its address of a family.
func (p *page) place(name string, ipv6 bool) (*lab.Namespace, netip.Addr) {
	addr, err := netip.ParseAddr(name)
	switch w := p.endpoints[name]; {
	case err == nil:
		return p.Outside.From(addr), addr
	case w != nil && ipv6:
		return w.Namespace, w.IPv6
	case w != nil:
		return w.Namespace, w.IPv4
	case ipv6:
		return p.Namespace, gateways(p.t, p.apps)[1]
	}
	return p.Namespace, gateways(p.t, p.apps)[0]
}

// isIPv6 tells the family of a flow: that of its addresses or of its protocol.
func isIPv6(f examples.Flow) bool {
	return strings.Contains(f.Source+f.Dest, ":") || f.Port.Protocol == l4.ICMPv6
}

// serve makes sure that somebody answers at the flow's port.
func (p *page) serve(f examples.Flow) {
	p.t.Helper()
	at, addr := p.place(f.Dest, isIPv6(f))
	to := netip.AddrPortFrom(addr, f.Port.Number)
	key := f.Port.Protocol.String() + to.String()
	if p.served[key] {
		return
	}
	p.served[key] = true
	var s *lab.Server
	var err error
	switch f.Port.Protocol {
	case l4.TCP:
		s, err = at.ServeTCP(to)
	case l4.UDP:
		s, err = at.ServeUDP(to)
	default:
		return
	}
	must(p.t, err)
	p.t.Cleanup(func() { s.Close() })
}

// check sends the flow and compares with what the page says becomes of it.
func (p *page) check(f examples.Flow) {
	p.t.Helper()
	from, _ := p.place(f.Source, isIPv6(f))
	_, addr := p.place(f.Dest, isIPv6(f))
	allowed := strings.HasPrefix(f.Outcome, "allowed")
	limit := 300 * time.Millisecond
	if allowed {
		limit = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), limit)
	defer cancel()
	var err error
	switch to := netip.AddrPortFrom(addr, f.Port.Number); f.Port.Protocol {
	case l4.TCP:
		err = from.RoundTripTCP(ctx, to, []byte("hello"))
	case l4.UDP:
		err = from.RoundTripUDP(ctx, to, []byte("hello"))
	default:
		err = from.Ping(ctx, addr)
	}
	switch {
	case allowed && err != nil:
		p.t.Errorf("docs/policy.md:%d: %s -> %s %s: %v", f.Line, f.Source, f.Dest, f.Port, err)
	case !allowed && err == nil:
		p.t.Errorf("docs/policy.md:%d: %s -> %s %s was answered", f.Line, f.Source, f.Dest, f.Port)
	case !allowed && strings.HasSuffix(f.Outcome, "answered by rst") != errors.Is(err, syscall.ECONNREFUSED):
		p.t.Errorf("docs/policy.md:%d: %s -> %s %s, %s: %v", f.Line, f.Source, f.Dest, f.Port, f.Outcome, err)
	}
}
