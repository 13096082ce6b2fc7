// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// transfer keeps sending over one connection and counts what comes back, until
// it is stopped.
type transfer struct {
	conn     net.Conn
	returned atomic.Int64
	failed   chan error
}

func begin(conn net.Conn) *transfer {
	x := &transfer{conn: conn, failed: make(chan error, 2)}
	go func() {
		data := make([]byte, 16<<10)
		for {
			if _, err := conn.Write(data); err != nil {
				x.failed <- err
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	go func() {
		data := make([]byte, 64<<10)
		for {
			n, err := conn.Read(data)
			x.returned.Add(int64(n))
			if err != nil {
				x.failed <- err
				return
			}
		}
	}()
	return x
}

// moves fails unless bytes come back within the time.
func (x *transfer) moves(t *testing.T, when string, limit time.Duration) {
	t.Helper()
	before := x.returned.Load()
	for deadline := time.Now().Add(limit); x.returned.Load() == before; time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-x.failed:
			t.Fatalf("%s: the transfer broke: %v", when, err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: nothing came back within %v", when, limit)
		}
	}
}

func TestKilledAgentLeavesTrafficAndPolicyAlone(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
	a.add(lab.AllowRule(fromApp2, lab.L4Rules["TCP"]))
	tcp := lab.Probes[0]
	conn, err := a.app2.DialTCP(within(t, 5*time.Second), netip.AddrPortFrom(a.app1.IPv4, lab.ProbePort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	x := begin(conn)
	x.moves(t, "before", 2*time.Second)
	before := a.endpoints()

	for round := range 3 {
		a.killAgent()
		x.moves(t, "without an agent", 2*time.Second)
		lab.Reaches(t, tcp, "new connection without an agent", a.app2.Namespace, a.app1.IPv6, true)
		lab.Reaches(t, tcp, "denied peer without an agent", a.app3.Namespace, a.app1.IPv4, false)

		denied := make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		go func() { denied <- tcp.Try(ctx, a.app3.Namespace, a.app1.IPv4) }()
		a.startAgent()
		x.moves(t, "after the restart", 2*time.Second)
		if after := a.endpoints(); after != before {
			t.Errorf("endpoints after restart %d:\n%swant:\n%s", round, after, before)
		}
		lab.Reaches(t, tcp, "denied peer after the restart", a.app3.Namespace, a.app1.IPv4, false)
		lab.Reaches(t, tcp, "allowed peer after the restart", a.app2.Namespace, a.app1.IPv6, true)
		if err := <-denied; err == nil {
			t.Error("the denied peer got through during the restart")
		}
		cancel()
	}
	a.load(lab.AllowRule(fromHost, lab.L4Rules["TCP"]))
	lab.Reaches(t, tcp, "policy changes go on working", a.app2.Namespace, a.app1.IPv4, false)
}

func TestStoppedAgentLeavesTrafficAlone(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	if err := a.agent.Stop(); err != nil {
		t.Fatal(err)
	}
	lab.Reaches(t, lab.Probes[0], "after SIGTERM", a.app2.Namespace, a.app1.IPv4, true)
}

func TestWorkloadThatWentAwayWithoutAgentIsForgotten(t *testing.T) {
	a := start(t)
	a.killAgent()
	a.app3.Close() // the container's end of the device goes with its namespace
	a.startAgent()
	for deadline := time.Now().Add(10 * time.Second); strings.Contains(a.endpoints(), "id=app3"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("an endpoint without device is still listed:\n%s", a.endpoints())
		}
	}
	w := a.workload("app4")
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	lab.Reaches(t, lab.Probes[0], "a new workload", w.Namespace, a.app1.IPv4, true)
}

func TestSecondAgentOnTheSameStateIsRefused(t *testing.T) {
	a := start(t)
	dir, err := lab.Build()
	if err != nil {
		t.Fatal(err)
	}
	second := a.Command(within(t, 20*time.Second), filepath.Join(dir, "cilium-agent"),
		"--state-dir="+a.StateDir, "--bpf-root="+a.BPFRoot, "--socket-path="+a.Socket+"2")
	out, err := second.CombinedOutput()
	if err == nil {
		t.Fatalf("a second agent started:\n%s", out)
	}
	if text := string(out); !strings.Contains(text, a.StateDir) || !strings.Contains(text, strconv.Itoa(a.agent.Pid)) {
		t.Errorf("the refusal does not say who holds the state directory:\n%s", text)
	}
}
