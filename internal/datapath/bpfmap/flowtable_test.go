// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"os"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/abi"
)

// TestReleaseSparesTheNextTenant gives a row to another flow between a look at it
// and its release.
func TestReleaseSparesTheNextTenant(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make BPF maps")
	}
	array := func(size uintptr, entries uint32) *ebpf.Map {
		m, err := ebpf.NewMap(&ebpf.MapSpec{
			Type: ebpf.Array, KeySize: 4, ValueSize: uint32(size), MaxEntries: entries, Flags: unix.BPF_F_MMAPABLE,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	ways := array(unsafe.Sizeof(abi.FlowSet{}), 2)
	table, err := openFlowTable(ways, array(unsafe.Sizeof(abi.Flow{}), 2*abi.FlowWays))
	if err != nil {
		t.Fatal(err)
	}
	defer table.close()
	const row, first, second = 11, 0x1234_0004, 0x1234_0006
	taken := func(word uint32) {
		set := abi.FlowSet{}
		set.Way[row%abi.FlowWays] = word
		if err := ways.Put(uint32(row/abi.FlowWays), &set); err != nil {
			t.Fatal(err)
		}
	}
	taken(first)
	var seen []tenant
	if err := table.each(func(x tenant, _ *abi.Flow) { seen = append(seen, x) }); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 1 || seen[0] != (tenant{row, first}) {
		t.Fatalf("seen %+v", seen)
	}
	taken(second)
	if table.release(seen[0]) || *table.word(row) != second {
		t.Errorf("the next tenant lost its row: way word %#x", *table.word(row))
	}
	if !table.release(tenant{row, second}) || *table.word(row) != second&abi.FlowCountMask {
		t.Errorf("way word %#x after a release, want the count alone", *table.word(row))
	}
}
