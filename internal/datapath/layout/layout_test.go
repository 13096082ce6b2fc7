// SPDX-License-Identifier: Apache-2.0

package layout_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/internal/datapath/layout"
	"cilium.local/cilium/internal/datapath/prog"
)

var (
	u8  = &btf.Int{Name: "unsigned char", Size: 1}
	u16 = &btf.Int{Name: "unsigned short", Size: 2}
	u32 = &btf.Int{Name: "unsigned int", Size: 4}
	u64 = &btf.Int{Name: "unsigned long", Size: 8}
)

type member struct {
	name   string
	offset uint32
	is     btf.Type
}

func structOf(size uint32, members ...member) *btf.Struct {
	s := &btf.Struct{Name: "row", Size: size}
	for _, m := range members {
		s.Members = append(s.Members, btf.Member{Name: m.name, Type: m.is, Offset: btf.Bits(8 * m.offset)})
	}
	return s
}

func shape(t *testing.T, is btf.Type) layout.Struct {
	t.Helper()
	s, err := layout.Of(is)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFieldsOfAStructAreFoundThroughArraysUnionsAndNames(t *testing.T) {
	end := structOf(8, member{"index", 0, &btf.Typedef{Name: "__u32", Type: u32}}, member{"mac", 4, &btf.Array{Type: u8, Nelems: 2}})
	addr := &btf.Union{Size: 4, Members: []btf.Member{{Name: "word", Type: u32}, {Name: "half", Type: u16}}}
	got := shape(t, structOf(20, member{"end", 0, &btf.Array{Type: end, Nelems: 2}}, member{"", 16, addr}))
	want := layout.Struct{Size: 20, Fields: []layout.Field{
		{Path: "end[0].index", Offset: 0, Size: 4}, {Path: "end[0].mac[0]", Offset: 4, Size: 1}, {Path: "end[0].mac[1]", Offset: 5, Size: 1},
		{Path: "end[1].index", Offset: 8, Size: 4}, {Path: "end[1].mac[0]", Offset: 12, Size: 1}, {Path: "end[1].mac[1]", Offset: 13, Size: 1},
		{Path: "word", Offset: 16, Size: 4}, {Path: "half", Offset: 16, Size: 2},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	pointer := structOf(8, member{"next", 0, &btf.Pointer{Target: u8}})
	if _, err := layout.Of(pointer); err == nil {
		t.Error("a pointer in a row was accepted")
	}
}

func TestRowsAreConvertedByTheNamesOfTheirFields(t *testing.T) {
	from := shape(t, structOf(24, member{"first", 0, u32}, member{"gone", 4, u32}, member{"wide", 8, u64}, member{"narrow", 16, u16}, member{"old", 20, u32}))
	to := shape(t, structOf(40, member{"fresh", 0, u64}, member{"first", 8, u32}, member{"wide", 12, u16}, member{"narrow", 16, u64},
		member{"new", 24, u32}, member{"pair", 28, &btf.Array{Type: u8, Nelems: 4}}))
	row := make([]byte, 24)
	binary.NativeEndian.PutUint32(row[0:], 11)
	binary.NativeEndian.PutUint32(row[4:], 22)
	binary.NativeEndian.PutUint64(row[8:], 1<<40)
	binary.NativeEndian.PutUint16(row[16:], 44)
	binary.NativeEndian.PutUint32(row[20:], 55)
	former := func(path string) string { return map[string]string{"new": "old"}[path] }
	got := layout.NewConverter(to, from, former).Convert(row)

	want := make([]byte, 40)
	binary.NativeEndian.PutUint32(want[8:], 11)
	binary.NativeEndian.PutUint16(want[12:], 0xffff) // as much as there is room for
	binary.NativeEndian.PutUint64(want[16:], 44)
	binary.NativeEndian.PutUint32(want[24:], 55)
	if !bytes.Equal(got, want) {
		t.Errorf("converted:\n% x\nwant:\n% x", got, want)
	}
}

func TestConversionThereAndBackKeepsWhatBothShapesHave(t *testing.T) {
	spec := programs(t)
	value := spec.Maps["endpoints"].Value
	from := shape(t, value)
	changed := btf.Copy(value).(*btf.Struct)
	for i := range changed.Members {
		changed.Members[i].Offset += 64
	}
	changed.Size += 8
	to := shape(t, changed)
	row := make([]byte, from.Size)
	for i := range row {
		row[i] = byte(i + 1)
	}
	moved := layout.NewConverter(to, from, nil).Convert(row)
	if !bytes.Equal(moved[8:], row) {
		t.Errorf("moved by eight:\n% x\nof:\n% x", moved, row)
	}
	if back := layout.NewConverter(from, to, nil).Convert(moved); !bytes.Equal(back, row) {
		t.Errorf("and back:\n% x\nwant:\n% x", back, row)
	}
}

func TestHashFollowsShapesAndNotSizes(t *testing.T) {
	hash := func(edit func(*ebpf.CollectionSpec)) string {
		spec := programs(t)
		edit(spec)
		h, err := layout.Hash(spec)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	is := hash(func(*ebpf.CollectionSpec) {})
	if again := hash(func(s *ebpf.CollectionSpec) { s.Maps["endpoints"].MaxEntries *= 2 }); again != is {
		t.Errorf("%s became %s with more entries", is, again)
	}
	for what, edit := range map[string]func(*ebpf.CollectionSpec){
		"renamed field": func(s *ebpf.CollectionSpec) { s.Maps["endpoints"].Value.(*btf.Struct).Members[0].Name = "other" },
		"moved field":   func(s *ebpf.CollectionSpec) { s.Maps["endpoints"].Value.(*btf.Struct).Members[0].Offset += 8 },
		"larger value":  func(s *ebpf.CollectionSpec) { s.Maps["events_lost"].ValueSize++ },
		"larger policy": func(s *ebpf.CollectionSpec) { s.Maps["policies"].InnerMap.ValueSize++ },
		"map less":      func(s *ebpf.CollectionSpec) { delete(s.Maps, "fragments") },
		"map's kind":    func(s *ebpf.CollectionSpec) { s.Maps["fragments"].Type = ebpf.Hash },
		"map's flags":   func(s *ebpf.CollectionSpec) { s.Maps["fragments"].Flags = 1 },
	} {
		if hash(edit) == is {
			t.Errorf("%s: the hash is the same", what)
		}
	}
}

func programs(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := prog.Spec()
	if err != nil {
		t.Fatal(err)
	}
	return spec
}
