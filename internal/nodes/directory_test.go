// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"cilium.local/cilium/internal/kvstore"
)

func node(name, ip, ranges string) Node {
	n := Node{Name: name, Cluster: "default", IPv4: netip.MustParseAddr(ip), Instance: name}
	if ranges != "" {
		n.IPv4Range = netip.MustParsePrefix(ranges)
		n.GatewayIPv4 = n.IPv4Range.Addr().Next()
	}
	return n
}

// world is a directory of node "self", with what it has reported.
type world struct {
	*Directory
	t        *testing.T
	present  map[string]Node
	revision int64
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, present: map[string]Node{}}
	w.Directory = NewDirectory(node("self", "172.16.0.1", "10.0.0.0/24"), slog.New(slog.DiscardHandler), func(changes []Change) {
		for _, c := range changes {
			if c.Gone {
				delete(w.present, c.Node.Name)
			} else {
				w.present[c.Node.Name] = c.Node
			}
		}
	}, func(string) {})
	return w
}

func (w *world) event(key, value string) {
	w.revision++
	w.apply([]kvstore.Event{{KeyValue: kvstore.KeyValue{Key: key, Value: value, Revision: w.revision}}}, 0)
}

func (w *world) says(n Node) {
	w.t.Helper()
	key, value, err := Encode(n)
	if err != nil {
		w.t.Fatal(err)
	}
	w.event(key, value)
}

func (w *world) gone(name string) {
	w.revision++
	w.apply([]kvstore.Event{{KeyValue: kvstore.KeyValue{Key: prefix + "default/" + name, Revision: w.revision}, Deleted: true}}, 0)
}

func (w *world) expect(problem string, names ...string) {
	w.t.Helper()
	for _, name := range names {
		if _, ok := w.present[name]; !ok {
			w.t.Errorf("node %s is not known", name)
		}
	}
	if len(w.present) != len(names) {
		w.t.Errorf("known: %v, want %v", w.present, names)
	}
	all := strings.Join(w.Problems(), "\n")
	if problem == "" && all != "" || !strings.Contains(all, problem) {
		w.t.Errorf("problems %q, want %q", all, problem)
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	n := node("a", "172.16.0.2", "10.1.0.0/24")
	n.IPv6, n.IPv6Range = netip.MustParseAddr("fd30::2"), netip.MustParsePrefix("fd01::/112")
	n.GatewayIPv6, n.HealthPort, n.Labels = netip.MustParseAddr("fd01::1"), 4240, map[string]string{"zone": "1"}
	key, value, err := Encode(n)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"Name":"a","Cluster":"default","ClusterID":0,"IPAddresses":[{"Type":"InternalIP","IP":"172.16.0.2"},{"Type":"InternalIP","IP":"fd30::2"},` +
		`{"Type":"CiliumInternalIP","IP":"10.1.0.1"},{"Type":"CiliumInternalIP","IP":"fd01::1"}],"IPv4AllocCIDR":{"IP":"10.1.0.0","Mask":"////AA=="},` +
		`"IPv6AllocCIDR":{"IP":"fd01::","Mask":"//////////////////8AAA=="},"Labels":{"zone":"1"},"BootID":"a","HealthPort":4240}`
	if key != "cilium/state/nodes/v1/default/a" || value != want {
		t.Errorf("%s: %s, want %s", key, value, want)
	}
	read, err := decode(key, value)
	if err != nil || !read.SamePlace(n) || read.Labels["zone"] != "1" || read.HealthPort != 4240 || read.Instance != "a" {
		t.Errorf("read %+v, %v", read, err)
	}
}

func TestANodeThatTakesARangeIsIgnoredUntilItIsFree(t *testing.T) {
	for _, r := range []string{"10.1.0.0/24", "10.1.0.128/25", "10.1.0.0/16"} {
		w := newWorld(t)
		w.says(node("first", "172.16.0.2", "10.1.0.0/24"))
		w.says(node("second", "172.16.0.3", r))
		w.expect("node default/second is ignored: its range "+r+" overlaps with the range 10.1.0.0/24 of node default/first, which was there before: give one of them another", "first")
		w.gone("first")
		w.expect("", "second")
	}
}

func TestNobodyTakesThisNodesRangeOrAddress(t *testing.T) {
	w := newWorld(t)
	w.says(node("thief", "172.16.0.2", "10.0.0.0/25"))
	w.expect("overlaps with the range 10.0.0.0/24 of node default/self")
	w.says(node("thief", "172.16.0.1", "10.3.0.0/24"))
	w.expect("node default/thief is ignored: it has the address 172.16.0.1 of node default/self")
	w.says(node("thief", "172.16.0.3", "10.3.0.0/24"))
	w.expect("", "thief")
}

func TestWhatANodeGivesUpOthersMayHaveInTheirOrder(t *testing.T) {
	w := newWorld(t)
	w.says(node("first", "172.16.0.2", "10.1.0.0/16"))
	w.says(node("second", "172.16.0.3", "10.1.1.0/24"))
	w.says(node("another", "172.16.0.4", "10.1.1.0/24"))
	w.expect("node default/second is ignored", "first")
	w.says(node("first", "172.16.0.2", "10.1.0.0/24"))
	w.expect("node default/another is ignored: its range 10.1.1.0/24 overlaps with the range 10.1.1.0/24 of node default/second", "first", "second")
	w.gone("another")
	// Two that change their ranges with each other, read at once.
	var events []kvstore.Event
	for i, n := range []Node{node("first", "172.16.0.2", "10.1.1.0/24"), node("second", "172.16.0.3", "10.1.0.0/24")} {
		key, value, err := Encode(n)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, kvstore.Event{KeyValue: kvstore.KeyValue{Key: key, Value: value, Revision: w.revision + int64(i) + 1}})
	}
	w.apply(events, 0)
	w.expect("", "first", "second")
	if r := w.present["first"].IPv4Range.String(); r != "10.1.1.0/24" {
		t.Errorf("first has %s", r)
	}
}

func TestARangeDoesNotHoldAnotherNodesAddress(t *testing.T) {
	w := newWorld(t)
	w.says(node("wide", "172.16.9.9", "172.16.0.0/24")) // all tunnels would end there
	w.expect("node default/wide is ignored: its range 172.16.0.0/24 overlaps with the address 172.16.0.1 of node default/self")
	w.says(node("inside", "10.0.0.9", "10.1.0.0/24"))
	w.expect("node default/inside is ignored: its address 10.0.0.9 overlaps with the range 10.0.0.0/24 of node default/self")
}

func TestANodeMayMove(t *testing.T) {
	w := newWorld(t)
	w.says(node("a", "172.16.0.2", "10.1.0.0/24"))
	w.says(node("b", "172.16.0.3", "10.2.0.0/24"))
	w.says(node("a", "172.16.0.9", "10.1.0.0/23"))
	w.expect("", "a", "b")
	if got := w.present["a"].IPv4.String(); got != "172.16.0.9" {
		t.Errorf("a is at %s", got)
	}
	// Into another's range it may not, and then it is nowhere.
	w.says(node("a", "172.16.0.9", "10.2.0.0/23"))
	w.expect("node default/a is ignored", "b")
}

func TestWhoWasThereFirstIsRightAlsoWhenAllAreReadAtOnce(t *testing.T) {
	w := newWorld(t)
	first, second := node("zz", "172.16.0.2", "10.1.0.0/24"), node("aa", "172.16.0.3", "10.1.0.0/24")
	var events []kvstore.Event
	for i, n := range []Node{second, first} {
		key, value, _ := Encode(n)
		events = append(events, kvstore.Event{KeyValue: kvstore.KeyValue{Key: key, Value: value, Revision: int64(20 - i)}})
	}
	w.apply(events, 0)
	w.expect("node default/aa is ignored", "zz")
}

func TestAnotherClusterIDIsRefused(t *testing.T) {
	w := newWorld(t)
	n := node("a", "172.16.0.2", "10.1.0.0/24")
	n.ClusterID = 3
	w.says(n)
	w.expect("node default/a says that the id of its cluster is 3, which is 0 here: give all its agents the same --cluster-id")
}

func TestBrokenValuesAreNamedAndStandForNobody(t *testing.T) {
	const key = prefix + "default/a"
	for value, problem := range map[string]string{
		"{":                                "unexpected end of JSON input",
		`{"Name":"b","Cluster":"default"}`: "field Name or Cluster: it names another node, default/b",
		strings.Repeat("x", maxValue+1):    "65537 bytes are too many",
		`{"Name":"a","Cluster":"default","IPv4AllocCIDR":{"IP":"10.1.0.9","Mask":"////AA=="}}`:         "field IPv4AllocCIDR: 10.1.0.9/24 has bits behind its mask",
		`{"Name":"a","Cluster":"default","IPv4AllocCIDR":{"IP":"fd00::","Mask":"////AA=="}}`:           "field IPv4AllocCIDR: fd00:: with the mask ffffff00 is no range of that family",
		`{"Name":"a","Cluster":"default","IPv4AllocCIDR":{"IP":"0.0.0.0","Mask":"AAAAAA=="}}`:          "field IPv4AllocCIDR: 0.0.0.0 with the mask 00000000 is no range",
		`{"Name":"a","Cluster":"default","IPAddresses":[{"Type":"InternalIP","IP":"127.0.0.1"}]}`:      "field IPAddresses: 127.0.0.1 is no address of a node",
		`{"Name":"a","Cluster":"default","IPAddresses":[{"Type":"InternalIP","IP":"x"}]}`:              "unable to parse IP",
		`{"Name":"a","Cluster":"default","IPAddresses":[{"Type":"CiliumInternalIP","IP":"10.0.0.1"}]}`: "field IPAddresses: 10.0.0.1 is outside of the node's ranges",
	} {
		w := newWorld(t)
		w.says(node("a", "172.16.0.2", "10.1.0.0/24"))
		w.event(key, value)
		w.expect(problem)
		w.expect(key + " in the key-value store")
		w.says(node("a", "172.16.0.2", "10.1.0.0/24"))
		w.expect("", "a")
	}
}

func TestAForgottenClusterTakesItsNodesAlong(t *testing.T) {
	w := newWorld(t)
	w.says(node("a", "172.16.0.2", "10.1.0.0/24"))
	w.says(node("b", "172.16.0.3", "10.1.0.0/24"))
	w.Forget("default")
	w.expect("")
}
