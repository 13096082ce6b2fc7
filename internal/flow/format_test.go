// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/internal/l4"
)

var update = flag.Bool("update", false, "write the golden files again")

// drop is app3's first packet to app1, which a rule refuses.
func drop() Event {
	return Event{
		ID: "node1-mm7d-7", Type: TypeDrop, Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		Reason: DropPolicy, Endpoint: 11, DestEndpoint: 11, SourceEndpoint: 33,
		SourceIdentity: 333, DestIdentity: 311,
		SourceLabels: []string{"container:id=app3"}, DestLabels: []string{"container:id=app1"},
		Source: netip.MustParseAddrPort("10.15.0.33:40000"), Dest: netip.MustParseAddrPort("10.15.0.11:80"),
		Proto: l4.TCP, TCPFlags: 2, Ifindex: 133, IfName: "lxc00021", Length: 74, Hash: 0xabcd,
		File: "bpf/lib/policy.h", Line: 53, Cookie: 7, RuleLabels: []string{"unspec:name=l3-rule"},
		Capture: []byte("0123456789abcdefgh"),
	}
}

// examples are one event of each shape, by what is special about it.
func examples() []struct {
	name  string
	event Event
} {
	with := func(change func(*Event)) Event {
		e := drop()
		change(&e)
		return e
	}
	trace := func(point TracePoint, reason TraceReason) Event {
		return with(func(e *Event) { e.Type, e.Reason, e.TracePoint, e.TraceReason = TypeTrace, 0, point, reason })
	}
	return []struct {
		name  string
		event Event
	}{
		{"drop on the way to the endpoint", drop()},
		{"drop of what the endpoint sends", with(func(e *Event) { e.Direction, e.Endpoint = Egress, 33 })},
		{"drop without labels and rule, by number", with(func(e *Event) {
			e.Reason, e.SourceLabels, e.DestLabels, e.RuleLabels, e.IfName = 250, nil, nil, nil, ""
		})},
		{"drop of IPv6 UDP from outside", with(func(e *Event) {
			e.Proto, e.SourceIdentity, e.SourceLabels = l4.UDP, 10, []string{"reserved:world-ipv6"}
			e.Source, e.Dest = netip.MustParseAddrPort("[2001:db8::1]:53"), netip.MustParseAddrPort("[f00d::a0f:0:0:b]:5353")
		})},
		{"drop of an ICMP error", with(func(e *Event) {
			e.Proto, e.ICMPType, e.ICMPCode, e.TCPFlags = l4.ICMP, 3, 4, 0
			e.Source, e.Dest = netip.MustParseAddrPort("10.15.0.33:0"), netip.MustParseAddrPort("10.15.0.11:0")
		})},
		{"drop of an unknown ICMPv6 type", with(func(e *Event) { e.Proto, e.ICMPType = l4.ICMPv6, 200 })},
		{"drop of an unknown protocol", with(func(e *Event) { e.Proto = 47 })},
		{"drop of what is no IP", with(func(e *Event) {
			e.Reason, e.Source, e.Dest = DropUnsupportedL3, netip.AddrPort{}, netip.AddrPort{}
		})},
		{"trace to the endpoint", trace(ToEndpoint, ReasonNew)},
		{"trace to the stack", trace(ToStack, ReasonEstablished)},
		{"trace from the endpoint", trace(FromEndpoint, ReasonReply)},
		{"trace at an unknown point", trace(99, ReasonRelated)},
		{"verdict allowed", with(func(e *Event) { e.Type, e.Reason = TypeVerdict, 0 })},
		{"verdict denied", with(func(e *Event) { e.Type, e.Verdict, e.Direction = TypeVerdict, Denied, Egress })},
		{"verdict of a rule that wants a value logged", with(func(e *Event) {
			e.Type, e.Verdict, e.RuleOrigin, e.Log = TypeVerdict, Denied, "web.json:3 (rule 1)", "quarantine"
		})},
		{"verdict of audited rules", with(func(e *Event) { e.Type, e.Verdict, e.Audit = TypeVerdict, Denied, true })},
		{"agent", Event{ID: "node1-mm7d-8", Type: TypeAgent, Message: "policy imported, revision 2"}},
		{"unknown type", Event{ID: "node1-mm7d-9", Type: 77}},
	}
}

func TestLinesReadAsTheGoldenFileSays(t *testing.T) {
	var b strings.Builder
	for _, x := range examples() {
		b.WriteString("# " + x.name + "\n" + Format(x.event, false) + "\n" + Format(x.event, true) + "\n\n")
	}
	b.WriteString("# hex\n" + HexDump(drop()) + "\n")
	golden := filepath.Join("testdata", "lines.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("lines differ from %s (-update writes it again):\n%s", golden, b.String())
	}
}

func TestDropAndVerdictLinesEndWithTheirID(t *testing.T) {
	for _, x := range examples() {
		if x.event.Type == TypeDrop || x.event.Type == TypeVerdict {
			if line := Format(x.event, false); !strings.HasSuffix(line, " event "+x.event.ID) {
				t.Errorf("%s: %s", x.name, line)
			}
		}
	}
}

func TestEventsSurviveJSON(t *testing.T) {
	for _, x := range examples() {
		if x.event.Type == 77 || x.event.TracePoint == 99 {
			continue // numbers without a name are for people only
		}
		data, err := json.Marshal(x.event)
		if err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		var back Event
		if err := json.Unmarshal(data, &back); err != nil || !reflect.DeepEqual(back, x.event) {
			t.Errorf("%s: %s came back as %+v, %v", x.name, data, back, err)
		}
	}
	data, err := json.Marshal(drop())
	if err != nil || !strings.Contains(string(data), `"reason-code":133`) || !strings.Contains(string(data), `"reason":"Policy denied"`) {
		t.Errorf("the reason lacks its number or text: %s, %v", data, err)
	}
}

func TestNamesThatDoNotExistAreRefused(t *testing.T) {
	for _, text := range []string{`{"type":"noise"}`, `{"direction":"up"}`, `{"trace-point":"x"}`, `{"trace-reason":"x"}`, `{"verdict":"maybe"}`} {
		if err := json.Unmarshal([]byte(text), new(Event)); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}

func TestFilterPicksByTypeAndEnd(t *testing.T) {
	e := drop() // 33 → 11
	agent := Event{Type: TypeAgent, Endpoint: 0}
	for _, c := range []struct {
		name   string
		filter Filter
		event  Event
		want   bool
	}{
		{"zero value", Filter{}, e, true},
		{"type", Filter{Types: []Type{TypeTrace, TypeDrop}}, e, true},
		{"other type", Filter{Types: []Type{TypeTrace}}, e, false},
		{"to", Filter{To: []uint16{11}}, e, true},
		{"to the sender", Filter{To: []uint16{33}}, e, false},
		{"from", Filter{From: []uint16{1, 33}}, e, true},
		{"from the receiver", Filter{From: []uint16{11}}, e, false},
		{"related to the sender", Filter{RelatedTo: []uint16{33}}, e, true},
		{"related to another", Filter{RelatedTo: []uint16{22}}, e, false},
		{"all at once", Filter{Types: []Type{TypeDrop}, From: []uint16{33}, To: []uint16{11}}, e, true},
		{"one of them not", Filter{From: []uint16{33}, To: []uint16{22}}, e, false},
		{"no endpoint is nobody's", Filter{RelatedTo: []uint16{0}}, agent, false},
		{"the reporting sender", Filter{From: []uint16{5}}, Event{Endpoint: 5, Direction: Egress}, true},
		{"the reporting receiver", Filter{From: []uint16{5}}, Event{Endpoint: 5, Direction: Ingress}, false},
	} {
		if got := c.filter.Match(&c.event); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func TestEachTypeParsesFromItsName(t *testing.T) {
	for kind, text := range typeNames {
		if parsed, err := ParseType(text); err != nil || parsed != kind {
			t.Errorf("%s: %v, %v", text, parsed, err)
		}
	}
	if _, err := ParseType("l7"); err == nil || !strings.Contains(err.Error(), "policy-verdict") {
		t.Errorf("unknown type: %v", err)
	}
}
