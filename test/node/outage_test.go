// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"cilium.local/cilium/internal/kvstore/etcdtest"
	"cilium.local/cilium/test/lab"
)

// twoNodes are joined by VXLAN and share a store that neither runs.
type twoNodes struct {
	t      *testing.T
	store  *etcdtest.Cluster
	a, b   *apps
	client *clientv3.Client
}

func startTwoNodes(t *testing.T) *twoNodes {
	t.Helper()
	w := &twoNodes{t: t, a: &apps{Node: lab.NewNode(t, "node1", lab.Options{}), t: t}}
	w.b = &apps{Node: lab.NewNode(t, "node2", lab.Options{}), t: t}
	w.store = etcdtest.New(t, 1)
	var err error
	if w.client, err = clientv3.New(clientv3.Config{Endpoints: w.store.URLs()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.client.Close() })
	w.wire()
	w.startA()
	w.b.startAgent(w.flags("10.2.0.0/24", "fd01::2:0/112")...)
	return w
}

// wire connects the nodes as two machines on one network are.
func (w *twoNodes) wire() {
	w.t.Helper()
	w.ip(w.a, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", w.b.Path())
	for node, addr := range map[*apps]string{w.a: "172.30.0.1/24", w.b: "172.30.0.2/24"} {
		w.ip(node, "address", "add", addr, "dev", "wire")
		w.ip(node, "link", "set", "wire", "up")
	}
}

func (w *twoNodes) ip(node *apps, args ...string) {
	w.t.Helper()
	if out, err := node.Command(w.t.Context(), "ip", args...).CombinedOutput(); err != nil {
		w.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (w *twoNodes) flags(v4, v6 string) []string {
	return []string{
		"--kvstore-endpoints=" + w.store.Socket(0), "--routing=vxlan",
		"--ipv4-range=" + v4, "--ipv6-range=" + v6,
		"--kvstore-lease-ttl=" + strconv.Itoa(soak(45, 900)) + "s",
	}
}

func (w *twoNodes) startA() {
	w.t.Helper()
	w.a.startAgent(w.flags("10.1.0.0/24", "fd01::1:0/112")...)
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
	return strings.Replace(allow(fromApp2, l4Of["TCP"]), `"id": "app2"}}]`, `"id": "app2"}}, {"matchLabels": {"id": "`+other+`"}}]`, 1)
}

// TestEndpointsComeGoAndTalkWhileTheStoreIsAway stops the store of two nodes,
// for half a minute, or with CILIUM_SOAK for ten.
func TestEndpointsComeGoAndTalkWhileTheStoreIsAway(t *testing.T) {
	w := startTwoNodes(t)
	a, b := w.a, w.b
	app1, gone, left := a.workload("app1"), a.workload("gone"), a.workload("left")
	app2, app3, ahead := b.workload("app2"), b.workload("app3"), b.workload("ahead")
	serve(t, app1.Namespace, app1.IPv4, app1.IPv6)
	a.add(only("nobody"))
	o := &outage{twoNodes: w, app1: app1, app2: app2, app3: app3}
	soon(t, "the nodes know each other", func() bool {
		return probes[0].try(within(t, time.Second), app2.Namespace, app1.IPv4) == nil
	})
	conn, err := app2.DialTCP(within(t, 5*time.Second), netip.AddrPortFrom(app1.IPv4, port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	o.long = begin(conn)
	o.holds("before")

	began := time.Now()
	w.store.Stop(0)
	soon(t, "the outage shows", func() bool { return strings.Contains(w.status(), "KVStore:            Failure") })
	t.Logf("noticed after %s", time.Since(began).Round(10*time.Millisecond))
	o.holds("without the store")

	start := time.Now()
	known := a.labelled("known", "container:id=app2")
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a workload of known labels took %s", took)
	}
	reaches(t, probes[0], "from a workload of known labels", known.Namespace, app1.IPv4, true)
	fresh := a.workload("fresh")
	serve(t, fresh.Namespace, fresh.IPv4)
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
	w.startA()
	o.holds("after a restart without the store")
	o.waits(fresh)
	reaches(t, probes[0], "by rules of before the restart", ahead.Namespace, app1.IPv4, false)
	a.load(only("ahead"))
	reaches(t, probes[0], "by rules about labels on the other node only", ahead.Namespace, app1.IPv4, true)
	again := a.labelled("again", "container:id=ahead")
	reaches(t, probes[0], "from a workload of labels on the other node only", again.Namespace, app1.IPv4, true)
	for time.Since(began) < time.Duration(soak(30, 600))*time.Second {
		time.Sleep(time.Second)
		o.holds("as it goes on")
	}

	w.store.Start(0)
	back := time.Now()
	soon(t, "the new workload has an identity", func() bool { return a.identity("fresh") != "" })
	t.Logf("identified %s after the store was back", time.Since(back).Round(10*time.Millisecond))
	if again.IPv4 != gone.IPv4 {
		t.Errorf("the new workload has %s, not %s of one that went, so a reused address is not tested", again.IPv4, gone.IPv4)
	}
	w.converges(map[*lab.Workload]string{app1: "app1", known: "app2", fresh: "fresh", again: "ahead", app2: "app2"}, left.IPv4)
	a.load(only("fresh"))
	reaches(t, probes[0], "when the store is back", fresh.Namespace, app1.IPv4, true)
	reaches(t, probes[0], "when the store is back", app3.Namespace, app1.IPv4, false)
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
		reaches(o.t, probes[0], when+", allowed", o.app2.Namespace, to, true)
		reaches(o.t, probes[0], when+", denied", o.app3.Namespace, to, false)
		reaches(o.t, probes[1], when+", denied protocol", o.app2.Namespace, to, false)
	}
}

// waits checks that a workload is closed, and that it is said why.
func (o *outage) waits(w *lab.Workload) {
	o.t.Helper()
	reaches(o.t, probes[0], "from a workload without identity", w.Namespace, o.app1.IPv4, false)
	reaches(o.t, probes[0], "from the node to one without identity", o.app1.Namespace, w.IPv4, false)
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
	soon(w.t, "the store has the addresses of what is there, and of nothing else", func() bool {
		rows := w.keys("cilium/state/ip/v1/default/")
		for one, name := range there {
			if !strings.Contains(rows[one.IPv4.String()], `"ID":`+ids["container:id="+name+";"]+",") {
				return false
			}
		}
		return rows[gone.String()] == ""
	})
	soon(w.t, "the claims are those of what is there", func() bool {
		claims := w.keys("cilium/state/identities/v1/value/")
		for _, name := range []string{"app1", "app2", "fresh", "ahead"} {
			if claims["container:id="+name+";/node1"] != ids["container:id="+name+";"] {
				return false
			}
		}
		return claims["container:id=gone;/node1"] == "" && claims["container:id=left;/node1"] == ""
	})
}

func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 20 s: %s", what)
}
