// SPDX-License-Identifier: Apache-2.0

package health_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cilium.local/cilium/internal/health"
	"cilium.local/cilium/internal/nodes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	quiet     = slog.New(slog.DiscardHandler)
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.IPv6Loopback()
)

func node(name string, port uint16, addrs ...netip.Addr) nodes.Node {
	n := nodes.Node{Name: name, Cluster: "default", HealthPort: port}
	for _, addr := range addrs {
		if addr.Is4() {
			n.IPv4 = addr
		} else {
			n.IPv6 = addr
		}
	}
	return n
}

func present(list ...nodes.Node) (changes []nodes.Change) {
	for _, n := range list {
		changes = append(changes, nodes.Change{Node: n})
	}
	return changes
}

// freePort is one that nobody listens at.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// background runs until the test's end, or until stop is called.
func background(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// respond answers as a node does, and waits until it is heard.
func respond(t *testing.T, n nodes.Node, addrs ...netip.Addr) (stop func()) {
	t.Helper()
	r := &health.Responder{Node: n.Key(), Addrs: addrs, Port: n.HealthPort, Log: quiet}
	stop = background(t, r.Run)
	for _, addr := range addrs {
		eventually(t, fmt.Sprint("a listener at ", addr), func() bool {
			c, err := net.Dial("tcp", netip.AddrPortFrom(addr, n.HealthPort).String())
			if err == nil {
				_ = c.Close()
			}
			return err == nil
		})
	}
	return stop
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// probed waits until a node was asked, and tells what came of it, a line for each probe.
func probed(t *testing.T, p *health.Prober, name string) (result health.Result, text string) {
	t.Helper()
	eventually(t, "a probe of "+name, func() bool {
		for _, r := range p.Results() {
			if result = r; r.Node.Name == name {
				return len(r.Probes) > 0
			}
		}
		return false
	})
	var lines []string
	for _, probe := range result.Probes {
		if (probe.Err == nil) != (probe.Latency > 0) || probe.At.IsZero() || probe.Err == nil && probe.Reached.Before(probe.At) {
			t.Errorf("it does not fit together: %+v", probe)
		}
		lines = append(lines, fmt.Sprintf("%s %s %v", probe.Protocol, probe.Addr, probe.Err))
	}
	return result, strings.Join(lines, "\n")
}

func TestANodeIsAskedByBothProtocolsAtBothAddresses(t *testing.T) {
	n := node("a", freePort(t), loopback4, loopback6)
	respond(t, n, loopback4, loopback6)
	p := health.New(health.Config{})
	p.NodesChanged(present(n))
	background(t, p.Run)
	r, text := probed(t, p, "a")
	if want := "icmp 127.0.0.1 <nil>\nhttp 127.0.0.1 <nil>\nicmp ::1 <nil>\nhttp ::1 <nil>"; text != want || !r.Reached() {
		t.Errorf("probes:\n%s\nwant:\n%s", text, want)
	}
}

func TestWhatANodeDoesNotAnswerIsNamed(t *testing.T) {
	stranger := func(handler http.HandlerFunc) uint16 {
		s := httptest.NewServer(handler)
		t.Cleanup(s.Close)
		return s.Listener.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	other := node("other", freePort(t), loopback4)
	respond(t, other, loopback4)
	for name, c := range map[string]struct {
		port uint16
		want string
	}{
		"refused":  {freePort(t), "connection refused"},
		"other":    {other.HealthPort, "is that of node default/other"},
		"moved":    {stranger(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }), "answers 302 Found"},
		"html":     {stranger(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }), "answers otherwise than a node does"},
		"endless":  {stranger(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat(" ", 1<<20)) }), "answers otherwise than a node does"},
		"slow":     {stranger(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), "no answer"},
		"anybody1": {stranger(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }), "is that of node /"},
	} {
		t.Run(name, func(t *testing.T) {
			p := health.New(health.Config{Timeout: 300 * time.Millisecond})
			p.NodesChanged(present(node(name+"-asked", c.port, loopback4)))
			background(t, p.Run)
			r, text := probed(t, p, name+"-asked")
			if !strings.HasPrefix(text, "icmp 127.0.0.1 <nil>\nhttp 127.0.0.1 ") || !strings.Contains(text, c.want) || r.Reached() {
				t.Errorf("probes:\n%s\nwant %s", text, c.want)
			}
		})
	}
}

func TestAnAddressThatDoesNotAnswerPings(t *testing.T) {
	p := health.New(health.Config{Timeout: 200 * time.Millisecond})
	p.NodesChanged(present(node("a", 0, netip.MustParseAddr("255.255.255.255")))) // sending is refused by the kernel
	background(t, p.Run)
	r, text := probed(t, p, "a")
	if len(r.Probes) != 1 || r.Probes[0].Err == nil || r.Reached() {
		t.Errorf("probes:\n%s", text)
	}
}

func TestANodeThatFallsSilentWasReachedBefore(t *testing.T) {
	n := node("a", freePort(t), loopback4)
	stop := respond(t, n, loopback4)
	p := health.New(health.Config{Interval: 20 * time.Millisecond})
	p.NodesChanged(present(n))
	background(t, p.Run)
	r, _ := probed(t, p, "a")
	before := r.Probes[1].Reached
	stop()
	eventually(t, "a failure", func() bool { r, _ = probed(t, p, "a"); return r.Probes[1].Err != nil })
	if again := r.Probes[1]; again.Reached.Before(before) || again.Reached.After(again.At) {
		t.Errorf("reached at %v, the first time at %v, asked at %v", again.Reached, before, again.At)
	}
	if r.Probes[0].Err != nil {
		t.Errorf("ICMP: %v", r.Probes[0].Err)
	}
	respond(t, n, loopback4)
	eventually(t, "an answer", func() bool { r, _ = probed(t, p, "a"); return r.Reached() })
}

func TestANodeThatIsGoneIsForgotten(t *testing.T) {
	a, b := node("a", 0, loopback4), node("b", 0, loopback4)
	p := health.New(health.Config{Interval: 10 * time.Millisecond})
	p.NodesChanged(present(b, a))
	background(t, p.Run)
	probed(t, p, "a")
	probed(t, p, "b")
	p.NodesChanged([]nodes.Change{{Node: a, Gone: true}})
	time.Sleep(50 * time.Millisecond) // a probe that is under way does not bring it back
	if list := p.Results(); len(list) != 1 || list[0].Node.Name != "b" {
		t.Errorf("results %+v", list)
	}
	// At another place it has been asked for nothing.
	moved := b
	moved.IPv4 = netip.MustParseAddr("127.0.0.2")
	p.NodesChanged(present(moved))
	eventually(t, "a probe at the new place", func() bool {
		r, _ := probed(t, p, "b")
		return r.Probes[0].Addr == moved.IPv4
	})
}

func TestProbesAreSpreadAndBounded(t *testing.T) {
	const parallel, count = 3, 12
	var now, most, total atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		total.Add(1)
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		time.Sleep(40 * time.Millisecond)
		now.Add(-1)
	}))
	t.Cleanup(s.Close)
	var list []nodes.Node
	for i := range count {
		list = append(list, node(fmt.Sprint("n", i), s.Listener.Addr().(*net.TCPAddr).AddrPort().Port(), loopback4))
	}
	p := health.New(health.Config{Interval: 600 * time.Millisecond, Parallel: parallel})
	p.NodesChanged(present(list...))
	begin := time.Now()
	background(t, p.Run)
	eventually(t, "a probe of each", func() bool { return total.Load() >= count })
	if took := time.Since(begin); took < 100*time.Millisecond {
		t.Errorf("all %d nodes were asked within %v", count, took)
	}
	if most.Load() > parallel || most.Load() < 2 {
		t.Errorf("%d nodes were asked at one time, want 2 to %d", most.Load(), parallel)
	}
}

func TestStrangersTakeNoMoreThanTheirPart(t *testing.T) {
	n := node("a", freePort(t), loopback4)
	respond(t, n, loopback4)
	at := netip.AddrPortFrom(loopback4, n.HealthPort).String()
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for range 80 {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	// They are cut off in time, and others have their turn.
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + at + "/hello")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if text, err := io.ReadAll(response.Body); err != nil || string(text) != `{"Cluster":"default","Node":"a"}` {
		t.Errorf("answer %s, %v", text, err)
	}
}

func TestTheWayOfTheWorkloadsPacketsIsAskedToo(t *testing.T) {
	n := node("a", 0, loopback4)
	n.GatewayIPv4, n.GatewayIPv6 = netip.MustParseAddr("127.0.0.7"), loopback6
	for name, c := range map[string]struct {
		cfg  health.Config
		want string
	}{
		"both": {health.Config{IPv4Gateways: true, IPv6Gateways: true}, "icmp 127.0.0.1 <nil>\nicmp 127.0.0.7 <nil>\nicmp ::1 <nil>"},
		"one":  {health.Config{IPv4Gateways: true}, "icmp 127.0.0.1 <nil>\nicmp 127.0.0.7 <nil>"},
		"none": {health.Config{}, "icmp 127.0.0.1 <nil>"},
	} {
		t.Run(name, func(t *testing.T) {
			p := health.New(c.cfg)
			p.NodesChanged(present(n))
			background(t, p.Run)
			r, text := probed(t, p, "a")
			if text != c.want || !r.Reached() {
				t.Errorf("probes:\n%s\nwant:\n%s", text, c.want)
			}
			for _, probe := range r.Probes {
				if probe.Gateway != (probe.Addr != loopback4) {
					t.Errorf("probe %+v", probe)
				}
			}
		})
	}
}

func TestANodeThatDidNotAnswerIsAskedAgainSoon(t *testing.T) {
	port := freePort(t)
	n := node("a", port, loopback4)
	p := health.New(health.Config{Interval: time.Hour})
	p.NodesChanged(present(n))
	background(t, p.Run)
	if r, _ := probed(t, p, "a"); r.Reached() {
		t.Fatal("nobody is there, and somebody answers")
	}
	respond(t, n, loopback4)
	eventually(t, "an answer long before the hour is over", func() bool { r, _ := probed(t, p, "a"); return r.Reached() })
}
