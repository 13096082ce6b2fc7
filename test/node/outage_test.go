// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"cilium.local/cilium/test/lab"
)

// twoNodes are joined by VXLAN and share a store that neither runs.
type twoNodes struct {
	*lab.Cluster
	t      *testing.T
	a, b   *apps
	client *clientv3.Client
}

func startTwoNodes(t *testing.T) *twoNodes {
	t.Helper()
	w := &twoNodes{t: t, Cluster: lab.NewCluster(t, lab.ClusterOptions{Nodes: 2, Flags: []string{
		"--routing=vxlan", "--kvstore-lease-ttl=" + strconv.Itoa(soak(45, 900)) + "s",
	}})}
	w.a, w.b = &apps{Node: w.Nodes[0], t: t}, &apps{Node: w.Nodes[1], t: t}
	w.a.startAgent(w.Flags(0)...)
	w.b.startAgent(w.Flags(1)...)
	var err error
	w.client, err = clientv3.New(clientv3.Config{
		Endpoints: []string{w.Etcd.URL()}, DialOptions: []grpc.DialOption{grpc.WithContextDialer(w.dial)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.client.Close() })
	return w
}

func (w *twoNodes) dial(ctx context.Context, to string) (net.Conn, error) {
	addr, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, err
	}
	return w.Wire.DialTCP(ctx, addr)
}

// status is what the first node says, whatever its exit status.
func (w *twoNodes) status() string {
	w.t.Helper()
	result, err := w.a.CLI(within(w.t, 30*time.Second), "status")
	if err != nil {
		w.t.Fatal(err)
	}
	return result.Stdout
}

// keys are those of the store below a prefix, without it.
func (w *twoNodes) keys(prefix string) map[string]string {
	w.t.Helper()
	resp, err := w.client.Get(within(w.t, 10*time.Second), prefix, clientv3.WithPrefix())
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]string{}
	for _, kv := range resp.Kvs {
		found[strings.TrimPrefix(string(kv.Key), prefix)] = string(kv.Value)
	}
	return found
}

// only lets app1 be reached by TCP, from app2 and from one more.
func only(other string) string {
	return strings.Replace(lab.AllowRule(fromApp2, lab.L4Rules["TCP"]), `"id": "app2"}}]`, `"id": "app2"}}, {"matchLabels": {"id": "`+other+`"}}]`, 1)
}

// TestEndpointsComeGoAndTalkWhileTheStoreIsAway stops the store of two nodes,
// for half a minute, or with CILIUM_SOAK for ten.
func TestEndpointsComeGoAndTalkWhileTheStoreIsAway(t *testing.T) {
	w := startTwoNodes(t)
	a, b := w.a, w.b
	app1, gone, left := a.workload("app1"), a.workload("gone"), a.workload("left")
	app2, app3, ahead := b.workload("app2"), b.workload("app3"), b.workload("ahead")
	lab.Serve(t, app1.Namespace, app1.IPv4, app1.IPv6)
	a.add(only("nobody"))
	o := &outage{twoNodes: w, app1: app1, app2: app2, app3: app3}
	eventually(t, "the nodes know each other", func() bool {
		return lab.Probes[0].Try(within(t, time.Second), app2.Namespace, app1.IPv4) == nil
	})
	conn, err := app2.DialTCP(within(t, 5*time.Second), netip.AddrPortFrom(app1.IPv4, lab.ProbePort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	o.long = begin(conn)
	o.holds("before")

	began := time.Now()
	if err := w.Etcd.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the outage shows", func() bool { return strings.Contains(w.status(), "KVStore:            Failure") })
	t.Logf("noticed after %s", time.Since(began).Round(10*time.Millisecond))
	o.holds("without the store")

	start := time.Now()
	known := a.labelled("known", "container:id=app2")
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a workload of known labels took %s", took)
	}
	lab.Reaches(t, lab.Probes[0], "from a workload of known labels", known.Namespace, app1.IPv4, true)
	fresh := a.workload("fresh")
	lab.Serve(t, fresh.Namespace, fresh.IPv4)
	o.waits(fresh)
	for _, one := range []*lab.Workload{gone, left} {
		if err := one.Remove(within(t, 10*time.Second)); err != nil {
			t.Error(err)
		}
	}
	a.load(only("nobody"))
	o.holds("with new rules")

	// A restart in the middle. What it must know of the other node is on disk.
	a.killAgent()
	o.holds("without store and agent")
	a.startAgent(w.Flags(0)...)
	o.holds("after a restart without the store")
	o.waits(fresh)
	lab.Reaches(t, lab.Probes[0], "by rules of before the restart", ahead.Namespace, app1.IPv4, false)
	a.load(only("ahead"))
	lab.Reaches(t, lab.Probes[0], "by rules about labels on the other node only", ahead.Namespace, app1.IPv4, true)
	again := a.labelled("again", "container:id=ahead")
	lab.Reaches(t, lab.Probes[0], "from a workload of labels on the other node only", again.Namespace, app1.IPv4, true)
	for time.Since(began) < time.Duration(soak(30, 600))*time.Second {
		time.Sleep(time.Second)
		o.holds("as it goes on")
	}

	if err := w.Etcd.Start(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	eventually(t, "the new workload has an identity", func() bool { return a.identity("fresh") != "" })
	t.Logf("identified %s after the store was back", time.Since(back).Round(10*time.Millisecond))
	if again.IPv4 != gone.IPv4 {
		t.Errorf("the new workload has %s, not %s of one that went, so a reused address is not tested", again.IPv4, gone.IPv4)
	}
	w.converges(map[*lab.Workload]string{app1: "app1", known: "app2", fresh: "fresh", again: "ahead", app2: "app2"}, left.IPv4)
	a.load(only("fresh"))
	lab.Reaches(t, lab.Probes[0], "when the store is back", fresh.Namespace, app1.IPv4, true)
	lab.Reaches(t, lab.Probes[0], "when the store is back", app3.Namespace, app1.IPv4, false)
	o.holds("when the store is back")
	if status := w.status(); strings.Contains(status, "wait") {
		t.Errorf("status after the outage:\n%s", status)
	}
}

// outage is what must not change.
type outage struct {
	*twoNodes
	app1, app2, app3 *lab.Workload
	long             *transfer
}

// holds checks that what talks goes on, and that what is denied stays so.
func (o *outage) holds(when string) {
	o.t.Helper()
	o.long.moves(o.t, when, 5*time.Second)
	for _, to := range []netip.Addr{o.app1.IPv4, o.app1.IPv6} {
		lab.Reaches(o.t, lab.Probes[0], when+", allowed", o.app2.Namespace, to, true)
		lab.Reaches(o.t, lab.Probes[0], when+", denied", o.app3.Namespace, to, false)
		lab.Reaches(o.t, lab.Probes[1], when+", denied protocol", o.app2.Namespace, to, false)
	}
}

// waits checks that a workload is closed, and that it is said why.
func (o *outage) waits(w *lab.Workload) {
	o.t.Helper()
	lab.Reaches(o.t, lab.Probes[0], "from a workload without identity", w.Namespace, o.app1.IPv4, false)
	lab.Reaches(o.t, lab.Probes[0], "from the node to one without identity", o.app1.Namespace, w.IPv4, false)
	why := o.a.cli("endpoint", "log", strconv.FormatInt(w.ID, 10))
	if !strings.Contains(why, "waiting-for-identity") || !strings.Contains(why, "key-value store is unreachable") {
		o.t.Errorf("the endpoint's log does not say why it waits:\n%s", why)
	}
	status := o.status()
	if !strings.Contains(status, "1 endpoints are closed until they have an identity") {
		o.t.Errorf("the status does not tell of it:\n%s", status)
	}
}

// converges waits until the store has the claim and the address of each workload
// that is there, by its label, and none of what went.
func (w *twoNodes) converges(there map[*lab.Workload]string, gone netip.Addr) {
	w.t.Helper()
	ids := map[string]string{}
	for id, labels := range w.keys("cilium/state/identities/v1/id/") {
		ids[labels] = id
	}
	defer func() {
		if w.t.Failed() {
			w.t.Logf("addresses %v\nidentities %v, gone %s", w.keys("cilium/state/ip/v1/default/"), ids, gone)
		}
	}()
	eventually(w.t, "the store has the addresses of what is there, and of nothing else", func() bool {
		rows := w.keys("cilium/state/ip/v1/default/")
		for one, name := range there {
			if !strings.Contains(rows[one.IPv4.String()], `"ID":`+ids["container:id="+name+";"]+",") {
				return false
			}
		}
		return rows[gone.String()] == ""
	})
	eventually(w.t, "the claims are those of what is there", func() bool {
		claims := w.keys("cilium/state/identities/v1/value/")
		for _, name := range []string{"app1", "app2", "fresh", "ahead"} {
			if claims["container:id="+name+";/node1"] != ids["container:id="+name+";"] {
				return false
			}
		}
		return claims["container:id=gone;/node1"] == "" && claims["container:id=left;/node1"] == ""
	})
}

// TestAStoreThatComesBackEmptyCostsNoConnection wipes the store of two nodes.
func TestAStoreThatComesBackEmptyCostsNoConnection(t *testing.T) {
	w := startTwoNodes(t)
	app1, app2, app3 := w.a.workload("app1"), w.b.workload("app2"), w.b.workload("app3")
	lab.Serve(t, app1.Namespace, app1.IPv4, app1.IPv6)
	w.a.add(only("nobody"))
	o := &outage{twoNodes: w, app1: app1, app2: app2, app3: app3}
	eventually(t, "the nodes know each other", func() bool {
		return lab.Probes[0].Try(within(t, time.Second), app2.Namespace, app1.IPv4) == nil
	})
	conn, err := app2.DialTCP(within(t, 5*time.Second), netip.AddrPortFrom(app1.IPv4, lab.ProbePort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	o.long = begin(conn)
	before := w.keys("cilium/state/")
	if err := errors.Join(w.Etcd.Kill(), w.Etcd.Wipe(), w.Etcd.Start(within(t, time.Minute))); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 15*time.Second; {
		if err := lab.Probes[0].Try(within(t, 500*time.Millisecond), app2.Namespace, app1.IPv4); err != nil {
			t.Fatalf("%s after the store came back: %v", time.Since(start), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	o.holds("when the store was emptied")
	eventually(t, "everything is in the store again", func() bool {
		after := w.keys("cilium/state/")
		for key, value := range before {
			if !strings.HasPrefix(key, "identities/v1/locks/") && after[key] != value {
				return false
			}
		}
		return true
	})
}
