// SPDX-License-Identifier: Apache-2.0

// Package probe finds out what the running kernel can do of what the data plane
// uses. It tries each thing instead of comparing version numbers, because
// distributions move features in both directions; versions only serve to tell
// people what to look for.
package probe

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Feature is one thing that the kernel has or lacks.
type Feature struct {
	// Name is for people: what it is and what it is needed for.
	Name string
	// Required features are those without which the agent does not start.
	Required  bool
	Available bool
	// Since is the kernel version that introduced it, such as "5.10".
	Since string
	// Reason tells why it is not available; empty when it is.
	Reason string
}

// Features is what the data plane decides by.
type Features struct {
	// TCX: programs are attached by links (Linux 6.6), else by clsact filters.
	TCX bool
	// Kernel is the release string, such as "6.1.0-44-amd64".
	Kernel string
	// All lists every feature that was tried, required ones first.
	All []Feature
}

// MissingError says that the kernel lacks something the agent needs.
type MissingError struct {
	Kernel  string
	Missing []Feature
}

// Error names each missing feature and the kernel version that has it.
func (e *MissingError) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "the running kernel, %s, lacks what the data plane needs (Linux 6.1 with BPF and tc has all of it):", e.Kernel)
	for _, f := range e.Missing {
		fmt.Fprintf(&text, "\n  %s: since Linux %s: %s", f.Name, f.Since, f.Reason)
	}
	return text.String()
}

// attempt is a feature with the way to try it.
type attempt struct {
	name  string
	since string
	try   func() error
}

// Probe tries everything, which takes some milliseconds. The error is a
// *MissingError when a required feature is not there; Features is complete even
// then. It loads small programs and maps and needs the rights to; it attaches
// nothing.
func Probe() (Features, error) {
	result := Features{Kernel: release()}
	var missing []Feature
	for _, a := range required() {
		f := a.run()
		f.Required = true
		result.All = append(result.All, f)
		if !f.Available {
			missing = append(missing, f)
		}
	}
	tcx := attempt{"tcx links (programs attached by pinned links; clsact filters otherwise)", "6.6", tryTCX}.run()
	result.TCX = tcx.Available
	result.All = append(result.All, tcx,
		attempt{"forwarding of IPv6 per device (else net.ipv6.conf.all.forwarding is needed)", "6.17", tryForceForwarding}.run(),
		attempt{"type information of the kernel (CONFIG_DEBUG_INFO_BTF; readable dumps of maps and programs)", "5.4", tryBTF}.run())
	if len(missing) > 0 {
		return result, &MissingError{Kernel: result.Kernel, Missing: missing}
	}
	return result, nil
}

func (a attempt) run() Feature {
	f := Feature{Name: a.name, Since: a.since}
	err := a.try()
	f.Available = err == nil
	if err != nil {
		f.Reason = err.Error()
		if errors.Is(err, unix.EPERM) {
			f.Reason += " (run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)"
		}
	}
	return f
}

// required is a table of what bpf/ uses. The newest of these is 5.11; the floor
// is 6.1 because that is the oldest kernel on which everything is tested.
func required() []attempt {
	list := []attempt{
		{"BPF programs for tc (CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF)", "4.1", func() error { return features.HaveProgramType(ebpf.SchedCLS) }},
		{"instruction set v3", "5.1", features.HaveV3ISA},
		{"large programs", "5.2", features.HaveLargeInstructions},
		{"a map whose inner maps are replaced while programs run", "4.12", tryInnerMaps},
		{"read-only data of programs", "5.2", tryReadOnlyData},
	}
	for _, m := range requiredMaps {
		list = append(list, attempt{"map type " + m.kind.String(), m.since, func() error { return features.HaveMapType(m.kind) }})
	}
	for _, h := range requiredHelpers {
		list = append(list, attempt{"helper " + h.name, h.since, func() error { return features.HaveProgramHelper(ebpf.SchedCLS, h.fn) }})
	}
	return list
}

var requiredMaps = []struct {
	kind  ebpf.MapType
	since string
}{
	{ebpf.Hash, "3.19"},
	{ebpf.Array, "3.19"},
	{ebpf.ProgramArray, "4.2"},
	{ebpf.PerCPUArray, "4.6"},
	{ebpf.LRUHash, "4.10"},
	{ebpf.LPMTrie, "4.11"},
	{ebpf.ArrayOfMaps, "4.12"},
	{ebpf.RingBuf, "5.8"},
}

var requiredHelpers = []struct {
	name  string
	fn    asm.BuiltinFunc
	since string
}{
	{"bpf_tail_call (one agent taking over from another)", asm.FnTailCall, "4.2"},
	{"bpf_skb_load_bytes", asm.FnSkbLoadBytes, "4.5"},
	{"bpf_skb_store_bytes", asm.FnSkbStoreBytes, "4.1"},
	{"bpf_csum_diff", asm.FnCsumDiff, "4.6"},
	{"bpf_skb_change_tail", asm.FnSkbChangeTail, "4.9"},
	{"bpf_skb_pull_data", asm.FnSkbPullData, "4.9"},
	{"bpf_get_hash_recalc", asm.FnGetHashRecalc, "4.8"},
	{"bpf_skb_adjust_room", asm.FnSkbAdjustRoom, "4.13"},
	{"bpf_fib_lookup", asm.FnFibLookup, "4.18"},
	{"bpf_skb_change_type", asm.FnSkbChangeType, "4.8"},
	{"bpf_skb_get_tunnel_key", asm.FnSkbGetTunnelKey, "4.3"},
	{"bpf_skb_set_tunnel_key", asm.FnSkbSetTunnelKey, "4.3"},
	{"bpf_ktime_get_boot_ns", asm.FnKtimeGetBootNs, "5.8"},
	{"bpf_ringbuf_reserve", asm.FnRingbufReserve, "5.8"},
	{"bpf_redirect", asm.FnRedirect, "4.4"},
	{"bpf_ringbuf_query", asm.FnRingbufQuery, "5.8"},
	{"bpf_redirect_peer (delivery straight into the other container)", asm.FnRedirectPeer, "5.10"},
	{"bpf_ktime_get_coarse_ns", asm.FnKtimeGetCoarseNs, "5.11"},
}

func tryBTF() error {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return fmt.Errorf("read the kernel's type information: %w", err)
	}
	return nil
}

// tryInnerMaps puts one map of maps' slot through a change of its inner map.
func tryInnerMaps() error {
	inner := &ebpf.MapSpec{Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: 1, Flags: unix.BPF_F_NO_PREALLOC}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner})
	if err != nil {
		return err
	}
	defer func() { _ = outer.Close() }()
	for range 2 {
		m, err := ebpf.NewMap(inner)
		if err != nil {
			return err
		}
		err = outer.Put(uint32(0), m)
		_ = m.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// tryReadOnlyData makes what a .rodata section becomes: a frozen map that
// programs cannot write.
func tryReadOnlyData() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Flags: unix.BPF_F_RDONLY_PROG})
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	return m.Freeze()
}

// tryTCX asks to attach to a device that cannot be there: a kernel that knows
// tcx links looks for it.
func tryTCX() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer func() { _ = prog.Close() }()
	l, err := link.AttachTCX(link.TCXOptions{Interface: 1<<31 - 1, Program: prog, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		_ = l.Close()
		return nil
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func tryForceForwarding() error {
	_, err := os.Stat("/proc/sys/net/ipv6/conf/all/force_forwarding")
	return err
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of unknown version"
	}
	return unix.ByteSliceToString(u.Release[:])
}
