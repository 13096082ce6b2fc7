// SPDX-License-Identifier: Apache-2.0

package flowlog_test

import (
	"bytes"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/flowlog"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
)

const mebibyte = 1 << 20

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func open(t testing.TB, dir string, maxBytes int64) *flowlog.Log {
	t.Helper()
	l, err := flowlog.Open(dir, maxBytes, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func all(t testing.TB, l *flowlog.Log) []flowlog.Record {
	t.Helper()
	var list []flowlog.Record
	damaged, err := l.Scan(time.Time{}, func(r *flowlog.Record) { list = append(list, *r) })
	if err != nil || damaged != 0 {
		t.Fatalf("%d bytes damaged, %v", damaged, err)
	}
	return list
}

// allowed is a connection of app3, endpoint 33, to port 80 of app1, endpoint 11.
func allowed(at time.Time) flow.Event {
	return flow.Event{
		Type: flow.TypeVerdict, Time: at, Direction: flow.Ingress, Endpoint: 11,
		Source: netip.MustParseAddrPort("10.15.0.33:40000"), Dest: netip.MustParseAddrPort("10.15.0.11:80"), Proto: l4.TCP,
		SourceIdentity: 333, SourceLabels: []string{"container:id=app3", "container:tier=web"}, SourceEndpoint: 33,
		DestIdentity: 311, DestLabels: []string{"container:id=app1"}, DestEndpoint: 11,
		Cookie: 7, RuleLabels: []string{"unspec:name=l3-rule"},
	}
}

// with changes a copy of an event.
func with(e flow.Event, change func(*flow.Event)) flow.Event {
	change(&e)
	return e
}

func denied(at time.Time) flow.Event {
	return with(allowed(at), func(e *flow.Event) {
		e.Verdict, e.Reason, e.Cookie, e.RuleLabels = flow.Denied, flow.DropPolicy, 0, nil
	})
}

// record is what the log makes of allowed.
func record(at time.Time) flowlog.Record {
	return flowlog.Record{
		First: at, Last: at, Count: 1, Port: l4.Port{Protocol: l4.TCP, Number: 80}, Direction: flow.Ingress,
		Source: &flowlog.End{Addr: netip.MustParseAddr("10.15.0.33"), Identity: 333, Endpoint: 33, Labels: []string{"container:id=app3", "container:tier=web"}},
		Dest:   &flowlog.End{Addr: netip.MustParseAddr("10.15.0.11"), Identity: 311, Endpoint: 11, Labels: []string{"container:id=app1"}},
		Rule:   &flowlog.Rule{Cookie: 7, Labels: []string{"unspec:name=l3-rule"}},
	}
}

var byInstant = []cmp.Option{cmpopts.EquateComparable(netip.Addr{})}

func compare(t *testing.T, got, want []flowlog.Record) {
	t.Helper()
	if diff := cmp.Diff(want, got, byInstant...); diff != "" {
		t.Errorf("records (-want +is):\n%s", diff)
	}
}

func TestADecisionIsRememberedWithBothEndsAsTheyWere(t *testing.T) {
	l := open(t, t.TempDir(), mebibyte)
	defer l.Close()
	take := func(e flow.Event) { l.Record(&e) }
	take(allowed(noon))
	take(with(denied(noon.Add(2*time.Second)), func(e *flow.Event) { e.Direction, e.Endpoint = flow.Egress, 33 }))
	l.Flush()
	relabelled := func(e *flow.Event) { e.SourceIdentity, e.SourceLabels = 334, []string{"container:id=app4"} }
	take(with(allowed(noon.Add(3*time.Second)), relabelled))
	take(with(allowed(noon.Add(4*time.Second)), func(e *flow.Event) {
		e.Proto, e.ICMPType, e.Cookie, e.RuleLabels = l4.ICMPv6, 128, 0, nil
		e.Source, e.Dest = netip.MustParseAddrPort("[2001:db8::1]:0"), netip.MustParseAddrPort("[f00d::a0f:0:0:b]:0")
		e.SourceIdentity, e.SourceLabels, e.SourceEndpoint = identity.WorldIPv6, []string{"reserved:world", "reserved:world-ipv6"}, 0
	}))
	second, third, fourth := record(noon.Add(2*time.Second)), record(noon.Add(3*time.Second)), record(noon.Add(4*time.Second))
	second.Verdict, second.Reason, second.Direction, second.Rule = flow.Denied, flow.DropPolicy, flow.Egress, nil
	third.Source = &flowlog.End{Addr: third.Source.Addr, Identity: 334, Endpoint: 33, Labels: []string{"container:id=app4"}}
	fourth.Port, fourth.Rule = l4.Port{Protocol: l4.ICMPv6, Number: 128}, nil
	fourth.Source = &flowlog.End{Addr: netip.MustParseAddr("2001:db8::1"), Identity: identity.WorldIPv6, Labels: []string{"reserved:world", "reserved:world-ipv6"}}
	fourth.Dest = &flowlog.End{Addr: netip.MustParseAddr("f00d::a0f:0:0:b"), Identity: 311, Endpoint: 11, Labels: []string{"container:id=app1"}}
	compare(t, all(t, l), []flowlog.Record{record(noon), second, third, fourth})
}

func TestOnlyDecisionsOfTheRulesAreRemembered(t *testing.T) {
	l := open(t, t.TempDir(), mebibyte)
	defer l.Close()
	for _, change := range []func(*flow.Event){
		func(e *flow.Event) { e.Type = flow.TypeDrop },
		func(e *flow.Event) { e.Type = flow.TypeTrace },
		func(e *flow.Event) { e.Audit = true },
		func(e *flow.Event) { e.Reason, e.Verdict = flow.DropFlowInsert, flow.Denied },
		func(e *flow.Event) { e.Reason, e.Verdict = flow.DropNoPolicy, flow.Denied },
		func(e *flow.Event) { e.Source, e.Dest = netip.AddrPort{}, netip.AddrPort{} },
	} {
		e := with(allowed(noon), change)
		l.Record(&e)
	}
	if list := all(t, l); len(list) != 0 || l.Stats().Decisions != 0 {
		t.Errorf("remembered %v, %+v", list, l.Stats())
	}
}

func TestEqualDecisionsOfAMomentAreOneRecordThatCountsThemExactly(t *testing.T) {
	l := open(t, t.TempDir(), mebibyte)
	defer l.Close()
	for round := range 3 {
		for i := range 1000 {
			e := denied(noon.Add(time.Duration(round)*time.Minute + time.Duration(i)*time.Millisecond))
			e.Source = netip.AddrPortFrom(e.Source.Addr(), uint16(1024+i)) // a port for each
			l.Record(&e)
		}
		e := denied(noon.Add(time.Duration(round) * time.Minute))
		e.Dest = netip.AddrPortFrom(e.Dest.Addr(), 81)
		l.Record(&e)
		l.Flush()
	}
	list := all(t, l)
	if len(list) != 6 {
		t.Fatalf("%d records", len(list))
	}
	for i, r := range list {
		want, span := uint64(1000), 999*time.Millisecond
		if i%2 == 1 {
			want, span = 1, 0
		}
		if r.Count != want || r.Last.Sub(r.First) != span || !r.First.Equal(noon.Add(time.Duration(i/2)*time.Minute)) {
			t.Errorf("record %d: %d from %s to %s", i, r.Count, r.First, r.Last)
		}
	}
}

func TestAFlowIsRememberedFromTheEndThatOpenedIt(t *testing.T) {
	answer := func(e *flow.Event) {
		e.Answer = true
		e.Source, e.Dest = e.Dest, e.Source
		e.SourceIdentity, e.DestIdentity = e.DestIdentity, e.SourceIdentity
		e.SourceEndpoint, e.DestEndpoint = e.DestEndpoint, e.SourceEndpoint
		e.SourceLabels, e.DestLabels = e.DestLabels, e.SourceLabels
	}
	echo := func(e *flow.Event) {
		e.Proto, e.ICMPType = l4.ICMP, 0
		e.Source, e.Dest = netip.AddrPortFrom(e.Source.Addr(), 0), netip.AddrPortFrom(e.Dest.Addr(), 0)
	}
	egress := func(e *flow.Event) { e.Direction, e.Endpoint = flow.Egress, 33 }
	gone := func(e *flow.Event) { e.SourceEndpoint, e.DestEndpoint = 0, 0 }
	tcp := l4.Port{Protocol: l4.TCP, Number: 80}
	for _, c := range []struct {
		name     string
		changes  []func(*flow.Event)
		port     l4.Port
		from, to uint16 // endpoints
	}{
		{"request", nil, tcp, 33, 11},
		{"answer", []func(*flow.Event){answer}, tcp, 33, 11},
		{"echo reply", []func(*flow.Event){echo, answer}, l4.Port{Protocol: l4.ICMP, Number: 8}, 33, 11},
		{"echo reply that nobody asked for", []func(*flow.Event){echo}, l4.Port{Protocol: l4.ICMP, Number: 0}, 33, 11},
		{"a workload that is gone", []func(*flow.Event){gone}, tcp, 0, 11},
		{"a sender that is gone", []func(*flow.Event){egress, gone}, tcp, 33, 0},
	} {
		l := open(t, t.TempDir(), mebibyte)
		e := allowed(noon)
		for _, change := range c.changes {
			change(&e)
		}
		l.Record(&e)
		list := all(t, l)
		l.Close()
		if len(list) != 1 || list[0].Port != c.port || list[0].Source.Endpoint != c.from || list[0].Dest.Endpoint != c.to ||
			list[0].Source.Addr != netip.MustParseAddr("10.15.0.33") {
			t.Errorf("%s: %+v", c.name, list)
		}
	}
}

// fill writes so many different records, one a millisecond, and returns the time
// after the last.
func fill(l *flowlog.Log, from time.Time, n int) time.Time {
	for i := range n {
		e := allowed(from.Add(time.Duration(i) * time.Millisecond))
		e.Dest = netip.AddrPortFrom(e.Dest.Addr(), uint16(i))
		l.Record(&e)
		if i%1000 == 999 {
			l.Flush()
		}
	}
	l.Flush()
	return from.Add(time.Duration(n) * time.Millisecond)
}

func size(t *testing.T, dir string) (total int64, files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total, files
}

func TestTheOldestGoWhenTheLogIsFull(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, mebibyte)
	at := noon
	for range 20 {
		at = fill(l, at, 10_000)
		if total, _ := size(t, dir); total > mebibyte || total != l.Stats().Bytes {
			t.Fatalf("%d bytes on disk, %+v", total, l.Stats())
		}
	}
	list := all(t, l)
	if !slices.IsSortedFunc(list, func(a, b flowlog.Record) int { return a.First.Compare(b.First) }) {
		t.Error("not in order")
	}
	last := list[len(list)-1]
	if !last.First.Equal(at.Add(-time.Millisecond)) || len(list) < 50_000 || len(list) == 200_000 {
		t.Errorf("%d records up to %s", len(list), last.First)
	}
	since := at.Add(-time.Second)
	n := 0
	if _, err := l.Scan(since, func(*flowlog.Record) { n++ }); err != nil || n != 1000 {
		t.Errorf("%d records of the last second, %v", n, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	smaller := open(t, dir, mebibyte/2)
	defer smaller.Close()
	if total, _ := size(t, dir); total > mebibyte/2 {
		t.Errorf("%d bytes after the limit was halved", total)
	}
	if list := all(t, smaller); len(list) == 0 || !list[len(list)-1].First.Equal(last.First) {
		t.Errorf("%d records after the limit was halved", len(list))
	}
}

func TestLabelsAreWrittenOncePerSegment(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, 8*mebibyte)
	fill(l, noon, 3000)
	l.Close()
	l = open(t, dir, 8*mebibyte) // goes on with the same segment
	fill(l, noon.Add(time.Hour), 3000)
	l.Close()
	_, files := size(t, dir)
	text, err := os.ReadFile(files[0])
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if n := bytes.Count(text, []byte("container:tier=web")); n != 1 {
		t.Errorf("labels are written %d times", n)
	}
}

func TestWhatTheDeathOfTheAgentCutShortIsDroppedAndNothingElse(t *testing.T) {
	whole := t.TempDir()
	l := open(t, whole, mebibyte)
	fill(l, noon, 3) // the first frame
	_, files := size(t, whole)
	first, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	fill(l, noon.Add(time.Second), 3)
	text, err := os.ReadFile(files[0]) // no Close: the agent was killed
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(text) + 1 {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(files[0])), text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		again := open(t, dir, mebibyte)
		want := 0
		switch {
		case cut == len(text):
			want = 6
		case cut >= len(first):
			want = 3
		}
		fill(again, noon.Add(time.Minute), 2)
		list := all(t, again)
		again.Close()
		if len(list) != want+2 || list[want].Dest.Labels[0] != "container:id=app1" {
			t.Fatalf("cut after %d of %d bytes: %d records, want %d", cut, len(text), len(list), want+2)
		}
	}
}

func TestDamageCostsTheRestOfItsSegmentOnly(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, mebibyte)
	fill(l, noon, 60_000)
	_, files := size(t, dir)
	if len(files) < 3 {
		t.Fatalf("%d segments", len(files))
	}
	text, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 0x10
	if err := os.WriteFile(files[1], text, 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	damaged, err := l.Scan(time.Time{}, func(*flowlog.Record) { n++ })
	if err != nil || damaged == 0 || damaged > int64(len(text)) || n < 40_000 || n == 60_000 {
		t.Errorf("%d records, %d bytes damaged, %v", n, damaged, err)
	}
	l.Close()
}

func TestWhatFindsNoRoomIsCounted(t *testing.T) {
	l := open(t, t.TempDir(), mebibyte)
	defer l.Close()
	for i := range 10_000 {
		e := allowed(noon)
		e.Dest = netip.AddrPortFrom(e.Dest.Addr(), uint16(i))
		l.Record(&e)
	}
	n := len(all(t, l))
	if s := l.Stats(); s.Lost == 0 || s.Lost+uint64(n) != 10_000 || s.Decisions != 10_000 {
		t.Errorf("%d records, %+v", n, s)
	}
}

func TestWhatCannotBeWrittenIsCountedAndTheLogGoesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "flows")
	l := open(t, dir, mebibyte)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	e := allowed(noon)
	for range 3 {
		l.Record(&e)
	}
	l.Flush()
	if s := l.Stats(); s.Lost != 3 || s.Failure == nil || len(all(t, l)) != 0 {
		t.Errorf("%+v", s)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l.Record(&e)
	if list := all(t, l); len(list) != 1 || l.Stats().Failure != nil {
		t.Errorf("afterwards %v, %+v", list, l.Stats())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFilesOfOthersAndOfOtherVersionsStay(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"0000000007.flows": "cilium flows 9\n\x00 of tomorrow", "notes.txt": "mine"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := open(t, dir, mebibyte)
	fill(l, noon, 2)
	n := 0
	damaged, err := l.Scan(time.Time{}, func(*flowlog.Record) { n++ })
	if err != nil || n != 2 || damaged == 0 {
		t.Errorf("%d records, %d bytes left out, %v", n, damaged, err)
	}
	l.Close()
	if _, files := size(t, dir); len(files) != 3 || filepath.Base(files[1]) != "0000000008.flows" {
		t.Errorf("files %v", files)
	}
}

func TestDecisionsAreKeptWhenTheClockIsSetBack(t *testing.T) {
	l := open(t, t.TempDir(), mebibyte)
	for _, at := range []time.Time{noon, noon.AddDate(0, 0, -2), noon.AddDate(0, 0, 1)} {
		event := allowed(at)
		l.Record(&event)
		l.Flush()
	}
	var times []time.Time
	for _, r := range all(t, l) {
		times = append(times, r.First.UTC())
	}
	if want := []time.Time{noon, noon.AddDate(0, 0, -2), noon.AddDate(0, 0, 1)}; !slices.Equal(times, want) {
		t.Errorf("recorded at %v, want %v", times, want)
	}
}
