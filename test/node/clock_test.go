// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cilium.local/cilium/api/client"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/test/lab"
)

// TestTheClockIsSet moves the machine's clock forth and back by days: nothing may expire,
// open or close by that, and what is reported from then on bears the new time. It runs
// where the machine is the test's own, as in test/vm.
func TestTheClockIsSet(t *testing.T) {
	if os.Getenv("CILIUM_OWN_CLOCK") == "" {
		t.Skip("only on a machine whose clock may be set: make test-vm")
	}
	a := start(t, "--kvstore-lease-ttl=10s")
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
	a.add(lab.AllowRule(fromApp2, lab.L4Rules["TCP"]))
	conn, err := a.app2.DialTCP(within(t, 10*time.Second), netip.AddrPortFrom(a.app1.IPv4, lab.ProbePort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	x := begin(conn)
	before := a.endpoints()
	for _, days := range []int{1, -3, 2} {
		setClock(t, time.Now().Round(0).AddDate(0, 0, days))
		x.moves(t, "after the clock was set", 10*time.Second)
		lab.Reaches(t, lab.Probes[0], "allowed peer after the clock was set", a.app2.Namespace, a.app1.IPv6, true)
		lab.Reaches(t, lab.Probes[0], "denied peer after the clock was set", a.app3.Namespace, a.app1.IPv4, false)
		a.reportsTheTime()
		// Longer than leases last; the agent looks after them three times in that.
		time.Sleep(12 * time.Second)
		if after := a.endpoints(); after != before {
			t.Errorf("endpoints after the clock was set:\n%swant:\n%s", after, before)
		}
		if keys := a.cli("kvstore", "get", "--recursive", "cilium/state/nodes/"); !strings.Contains(keys, "node1") {
			t.Errorf("the node is not registered any more:\n%s", keys)
		}
		if status := a.cli("status"); !strings.Contains(status, "KVStore:            Ok") {
			t.Errorf("status after the clock was set:\n%s", status)
		}
	}
	late := a.labelled("late", "container:id=app2")
	lab.Reaches(t, lab.Probes[0], "a new allowed peer", late.Namespace, a.app1.IPv4, true)
}

func setClock(t *testing.T, to time.Time) {
	t.Helper()
	now := unix.NsecToTimeval(to.UnixNano())
	if err := unix.Settimeofday(&now); err != nil {
		t.Fatal(err)
	}
}

// reportsTheTime has a packet denied and compares the time of its event with the clock's.
func (a *apps) reportsTheTime() {
	a.t.Helper()
	c := client.New(a.Socket)
	defer c.Close()
	stream, err := c.Monitor(within(a.t, 20*time.Second), flow.Filter{Types: []flow.Type{flow.TypeDrop}})
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	time.Sleep(1100 * time.Millisecond) // the agent looks at the clock once in a second
	lab.Reaches(a.t, lab.Probes[0], "denied peer", a.app3.Namespace, a.app1.IPv4, false)
	event, err := stream.Next()
	if err != nil {
		a.t.Fatal(err)
	}
	if age := time.Since(event.Time.Round(0)); age < -time.Minute || age > time.Minute {
		a.t.Errorf("an event of now is of %s, and the clock says %s", event.Time, time.Now())
	}
}
