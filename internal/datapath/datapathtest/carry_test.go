// SPDX-License-Identifier: Apache-2.0

package datapathtest_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/datapathtest"
	"cilium.local/cilium/internal/datapath/layout"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// shape builds a struct of the first layout, in which its members lie one behind the
// other.
type shape struct{ btf.Struct }

func (s *shape) add(t btf.Type, names ...string) *shape {
	size, err := btf.Sizeof(t)
	if err != nil {
		panic(err)
	}
	for _, name := range names {
		s.Members = append(s.Members, btf.Member{Name: name, Type: t, Offset: btf.Bits(8 * s.Size)})
		s.Size += uint32(size)
	}
	return s
}

func named(name string) *shape { return &shape{btf.Struct{Name: name}} }

// firstFlows is the flow table of the first layout: an LRU hash map, with the key apart.
func firstFlows(t *testing.T) (m *ebpf.Map, key, value layout.Struct) {
	t.Helper()
	u8, u16 := &btf.Int{Name: "u8", Size: 1}, &btf.Int{Name: "u16", Size: 2}
	u32, u64 := &btf.Int{Name: "u32", Size: 4}, &btf.Int{Name: "u64", Size: 8}
	addr := named("addr").add(&btf.Array{Index: u32, Type: u8, Nelems: 16}, "bytes")
	end := named("flow_end").add(u32, "identity", "ifindex", "cookie", "spare").add(u64, "packets", "bytes")
	spec := &ebpf.MapSpec{
		Name: "flows", Type: ebpf.LRUHash, MaxEntries: 64,
		Key: &named("flow_key").add(&addr.Struct, "low", "high").add(u16, "low_port", "high_port").add(u8, "protocol", "exchange").add(u16, "pad").Struct,
		Value: &named("flow").add(u64, "last_seen", "created").add(u32, "verdict", "generation").
			add(u8, "state", "initiator").add(u16, "policy_port").add(u32, "busy").
			add(&btf.Array{Index: u32, Type: &end.Struct, Nelems: 2}, "end").Struct,
	}
	var err error
	key, err = layout.Of(spec.Key)
	must(t, err)
	value, err = layout.Of(spec.Value)
	must(t, err)
	spec.KeySize, spec.ValueSize = key.Size, value.Size
	m, err = ebpf.NewMap(spec)
	must(t, err)
	t.Cleanup(func() { m.Close() })
	return m, key, value
}

func set(t *testing.T, s layout.Struct, row []byte, path string, n uint64) {
	t.Helper()
	f, found := s.Field(path)
	if !found {
		t.Fatalf("no field %s", path)
	}
	f.PutNumber(row, n)
}

// A flow that a peer opened by UDP, in the first layout's table.
func putFirstFlow(t *testing.T, m *ebpf.Map, key, value layout.Struct, peer, subject netip.Addr, peerPort, port uint16) {
	t.Helper()
	var now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	ends := [2]netip.AddrPort{netip.AddrPortFrom(peer, peerPort), netip.AddrPortFrom(subject, port)}
	low := 0 // index of the lower address, as the programs compare them
	for half := range 2 {
		a, b := ends[0].Addr().As16(), ends[1].Addr().As16()
		x, y := binary.NativeEndian.Uint64(a[8*half:]), binary.NativeEndian.Uint64(b[8*half:])
		if x != y {
			if x > y {
				low = 1
			}
			break
		}
	}
	k, v := make([]byte, key.Size), make([]byte, value.Size)
	for i, end := range []netip.AddrPort{ends[low], ends[1-low]} {
		bytes := end.Addr().As16()
		copy(k[16*i:], bytes[:])
		binary.BigEndian.PutUint16(k[32+2*i:], end.Port())
	}
	set(t, key, k, "protocol", uint64(l4.UDP))
	set(t, value, v, "last_seen", uint64(now.Nano()))
	set(t, value, v, "created", uint64(now.Nano()))
	set(t, value, v, "initiator", uint64(low)) // the peer is the low end if low is 0
	set(t, value, v, "busy", 1)                // a program was deciding just then
	set(t, value, v, "end[1].ifindex", datapathtest.Loopback)
	p, _ := value.Field("policy_port")
	binary.BigEndian.PutUint16(v[p.Offset:], port)
	must(t, m.Put(k, v))
}

func TestFlowsOfTheFirstLayoutGoOn(t *testing.T) {
	k := datapathtest.New(t)
	allow := compile.Value{policy.TierNormal: compile.NewCandidate(policy.Allow, 0, 7, 0)}
	entries := compile.Entries{compile.Key{Identity: compile.AnyOutside, Direction: policy.Ingress}: allow}
	must(t, k.Apply(map[uint32]compile.Delta{testPolicy: compile.Whole(entries)}))
	m, key, value := firstFlows(t)
	for i, subject := range subjects {
		must(t, k.Workload(subject, datapathtest.Workload{ID: 5, Identity: testSubject, Policy: testPolicy}))
		must(t, k.Address(netip.PrefixFrom(peers[i], peers[i].BitLen()), identity.World))
		putFirstFlow(t, m, key, value, peers[i], subject, 4000, 53)
	}
	answer := func(subject, peer netip.Addr, peerPort uint16) uint32 {
		frame, err := datapathtest.Packet{Source: subject, Dest: peer, SourcePort: 53, Port: l4.Port{Protocol: l4.UDP, Number: peerPort}}.Frame()
		must(t, err)
		result, err := k.Send(frame)
		must(t, err)
		return result.Action
	}
	for i, subject := range subjects {
		if action := answer(subject, peers[i], 4000); action != datapathtest.ActionDrop {
			t.Fatalf("an answer to nothing: action %d", action)
		}
	}
	for pass, want := range []int{2, 0} {
		written, err := k.Carry(func(name string) *ebpf.Map { return map[string]*ebpf.Map{"flows": m}[name] })
		must(t, err)
		if written != want {
			t.Errorf("pass %d wrote %d rows, want %d", pass, written, want)
		}
		for i, subject := range subjects {
			if action := answer(subject, peers[i], 4000); action != datapathtest.ActionPass {
				t.Errorf("pass %d: an answer in the flow of %s: action %d", pass, peers[i], action)
			}
			if action := answer(subject, peers[i], 4001); action != datapathtest.ActionDrop {
				t.Errorf("pass %d: an answer in no flow of %s: action %d", pass, peers[i], action)
			}
		}
	}
	// What policy no longer allows does not go on for having been copied.
	must(t, k.Apply(map[uint32]compile.Delta{testPolicy: compile.Whole(compile.Entries{})}))
	putFirstFlow(t, m, key, value, peers[0], subjects[0], 4002, 53)
	_, err := k.Carry(func(name string) *ebpf.Map { return map[string]*ebpf.Map{"flows": m}[name] })
	must(t, err)
	if action := answer(subjects[0], peers[0], 4002); action != datapathtest.ActionDrop {
		t.Errorf("an answer in a flow that is denied by now: action %d", action)
	}
}
