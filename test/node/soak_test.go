// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/test/lab"
)

// soak chooses between the length for CI and that of `make soak`.
func soak(short, full int) int {
	if os.Getenv("CILIUM_SOAK") != "" {
		return full
	}
	return short
}

// The load: datagrams a second each way, and the ports of the streams.
const (
	streamRate = 10000
	portThere  = 4001
	portBack   = 4002
	portDenied = 4003
)

// load is everything that must not notice what the agent does: datagrams both
// ways, one long connection, new connections, and a peer that is denied.
type load struct {
	a                   *apps
	stop                context.CancelFunc
	there, back, denied *lab.Datagrams
	long                *transfer
	connections         atomic.Int64
	broken              chan error
	group               sync.WaitGroup
}

func startLoad(a *apps) *load {
	a.t.Helper()
	ctx, stop := context.WithCancel(a.t.Context())
	l := &load{a: a, stop: stop, broken: make(chan error, 100)}
	a.t.Cleanup(stop)
	l.there = l.stream(ctx, a.app2, a.app1, portThere, streamRate)
	l.back = l.stream(ctx, a.app1, a.app2, portBack, streamRate)
	l.denied = l.stream(ctx, a.app3, a.app1, portDenied, 100)
	conn, err := a.app2.DialTCP(ctx, netip.AddrPortFrom(a.app1.IPv4, lab.ProbePort))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	l.long = begin(conn)
	l.group.Go(func() { l.connect(ctx) })
	return l
}

func (l *load) stream(ctx context.Context, from, to *lab.Workload, port uint16, rate int) *lab.Datagrams {
	l.a.t.Helper()
	s, err := from.StreamUDP(ctx, to.Namespace, netip.AddrPortFrom(to.IPv4, port), rate)
	if err != nil {
		l.a.t.Fatal(err)
	}
	return s
}

// connect opens one connection after the other, over both families.
func (l *load) connect(ctx context.Context) {
	targets := []netip.Addr{l.a.app1.IPv4, l.a.app1.IPv6}
	for i := 0; ctx.Err() == nil; i++ {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := l.a.app2.RoundTripTCP(try, netip.AddrPortFrom(targets[i%2], lab.ProbePort), []byte("hello"))
		cancel()
		if err != nil && ctx.Err() == nil {
			select {
			case l.broken <- err:
			default:
			}
		}
		l.connections.Add(1)
		time.Sleep(2 * time.Millisecond)
	}
}

// finish ends the load and fails for everything that was noticed.
func (l *load) finish() {
	t := l.a.t
	t.Helper()
	l.long.moves(t, "at the end", 5*time.Second)
	l.stop()
	l.group.Wait()
	for name, s := range map[string]*lab.Datagrams{"there": l.there, "back": l.back} {
		overrun, err := s.Finish()
		if err != nil {
			t.Error(err)
		}
		lost := s.Sent.Load() - s.Received.Load() - overrun
		t.Logf("%s: %d datagrams sent, %d received, %d beyond the receiver's buffer", name, s.Sent.Load(), s.Received.Load(), overrun)
		if lost != 0 || s.Repeated.Load() != 0 {
			t.Errorf("%s: %d datagrams lost, %d repeated", name, lost, s.Repeated.Load())
		}
	}
	if _, err := l.denied.Finish(); err != nil {
		t.Error(err)
	}
	t.Logf("denied: %d datagrams; %d new connections", l.denied.Sent.Load(), l.connections.Load())
	if l.denied.Received.Load() != 0 || l.denied.Sent.Load() == 0 {
		t.Errorf("the denied peer's datagrams: %d of %d arrived", l.denied.Received.Load(), l.denied.Sent.Load())
	}
	close(l.broken)
	for err := range l.broken {
		t.Errorf("a new connection: %v", err)
	}
}

// drops are the drop counters, without those of the denied peer.
func (a *apps) drops() string {
	a.t.Helper()
	var kept []string
	for line := range strings.SplitSeq(a.cli("bpf", "metrics", "list"), "\n") {
		words := strings.Fields(line)
		// What is no drop is counted by direction alone; link-local chatter is routine.
		if strings.HasPrefix(line, "Policy denied") || strings.HasPrefix(line, "Stale or unroutable") || len(words) < 5 {
			continue
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "\n")
}

const soakRules = `[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}]}],
	"egress": [{"toEndpoints": [{"matchLabels": {"id": "app2"}}]}]},
	{"endpointSelector": {"matchLabels": {"id": "app2"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app1"}}], "fromRequires": [{}]}]}]`

// TestSoakRestarts kills and starts the agent under load. Nothing of the load may
// notice: every datagram arrives, no connection breaks, nobody denied gets through.
func TestSoakRestarts(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
	a.add(soakRules)
	before := a.drops()
	l := startLoad(a)
	for range soak(5, 50) {
		a.killAgent()
		time.Sleep(100 * time.Millisecond)
		a.startAgent()
		l.long.moves(t, "after a restart", 2*time.Second)
	}
	l.finish()
	if after := a.drops(); after != before {
		t.Errorf("drop counters after:\n%s\nbefore:\n%s", after, before)
	}
}

// The two rule sets of TestSoakAtomicChange: what passes at one end passes at the
// other, so a packet that only the receiver's end keeps out has seen both sets.
const atomicRules = `[{"labels": ["soak=atomic"], "endpointSelector": {"matchLabels": {"id": "app2"}},
	"egress": [{"toEndpoints": [{}], "toPorts": [{"ports": [{"port": "%[1]d", "protocol": "UDP"}]}]}]},
	{"labels": ["soak=atomic"], "endpointSelector": {"matchLabels": {"id": "app1"}},
	"ingress": [{"fromEndpoints": [{}], "toPorts": [{"ports": [{"port": "%[1]d", "protocol": "UDP"}]}]}]}]`

// TestSoakAtomicChange flips between two rule sets under load, and looks for a
// verdict that belongs to neither: one that took the sender's part of one set and
// the receiver's of the other.
func TestSoakAtomicChange(t *testing.T) {
	a := start(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	odd := a.foreignVerdicts(ctx)
	c := client.New(a.Socket)
	defer c.Close()
	var streams []*lab.Datagrams
	for _, port := range []uint16{portThere, portBack} {
		s, err := a.app2.StreamUDP(ctx, a.app1.Namespace, netip.AddrPortFrom(a.app1.IPv4, port), streamRate/2)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	begin, flips := time.Now(), 0
	for limit := time.Duration(soak(4, 60)) * time.Second; time.Since(begin) < limit; flips++ {
		text := fmt.Sprintf(atomicRules, []int{portThere, portBack}[flips%2])
		if _, err := c.PolicyPut(ctx, []api.PolicyDocument{{Name: "atomic", Text: text}}, true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(max(0, time.Duration(flips+1)*10*time.Millisecond-time.Since(begin)))
	}
	stop()
	for _, s := range streams {
		if _, err := s.Finish(); err != nil {
			t.Error(err)
		}
		t.Logf("%d of %d datagrams passed", s.Received.Load(), s.Sent.Load())
		if s.Received.Load() == 0 || s.Received.Load() == s.Sent.Load() {
			t.Error("the rules did not change for the stream")
		}
	}
	t.Logf("%d changes in %v", flips, time.Since(begin).Round(time.Millisecond))
	seen, verdicts := odd()
	if verdicts == 0 {
		t.Error("no verdicts were reported")
	}
	for _, e := range seen {
		t.Errorf("a verdict of neither rule set: %s", e)
	}
}

// foreignVerdicts listens for denials by the receiver's end of what the sender's
// end allowed.
func (a *apps) foreignVerdicts(ctx context.Context) (result func() (odd []string, verdicts int)) {
	a.t.Helper()
	c := client.New(a.Socket)
	stream, err := c.Monitor(ctx, flow.Filter{Types: []flow.Type{flow.TypeVerdict}, From: []uint16{uint16(a.app2.ID)}})
	if err != nil {
		a.t.Fatal(err)
	}
	var odd []string
	verdicts := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			e, err := stream.Next()
			if err != nil {
				if ctx.Err() == nil {
					odd = append(odd, errors.Join(errors.New("the monitor ended"), err).Error())
				}
				return
			}
			verdicts++
			if e.Direction == flow.Ingress && e.Verdict == flow.Denied {
				odd = append(odd, fmt.Sprintf("%+v", e))
			}
		}
	}()
	return func() ([]string, int) {
		<-done
		_ = stream.Close()
		c.Close()
		return odd, verdicts
	}
}
