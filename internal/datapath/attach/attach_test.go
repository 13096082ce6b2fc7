// SPDX-License-Identifier: Apache-2.0

package attach_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/attach"
	"cilium.local/cilium/internal/datapath/probe"
)

// enter puts the test's thread into a namespace of its own, with a veth pair
// va, vb that is up. What va sends, vb receives.
func enter(t *testing.T) (index int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread()
	origin, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ns.Close()
		defer origin.Close()
		if netns.Set(origin) == nil {
			runtime.UnlockOSThread()
		}
	})
	return makePair(t)
}

// needTCX skips the test below kernel 6.6.
func needTCX(t *testing.T) {
	t.Helper()
	features, err := probe.Probe()
	if err != nil {
		t.Fatal(err)
	}
	if !features.TCX {
		t.Skip("the kernel has no tcx")
	}
}

func makePair(t *testing.T) int {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "va"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "vb"}); err != nil {
		t.Fatal(err)
	}
	var index int
	for _, name := range []string{"va", "vb"} {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
		index = l.Attrs().Index
	}
	awaitCarrier(t, "va")
	awaitCarrier(t, "vb")
	return index
}

// awaitCarrier waits until the kernel has noticed that the link is up: before, it
// drops what is sent.
func awaitCarrier(t *testing.T, name string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if l.Attrs().OperState == netlink.OperUp {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has no carrier", name)
		}
	}
}

// bpffs mounts a BPF file system of the test's own.
func bpffs(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bpf")
	if err := attach.EnsureBPFFS(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// counter is a program that counts packets and lets them pass.
type counter struct {
	prog  *ebpf.Program
	count *ebpf.Map
}

func newCounter(t *testing.T) counter { return newReturning(t, 0) }

// newReturning ends with another action.
func newReturning(t *testing.T, action int32) counter {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "packets", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "count", Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Imm(asm.R1, 1),
			asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, action).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	return counter{prog, m}
}

func (c counter) packets(t *testing.T) uint64 {
	t.Helper()
	var n uint64
	if err := c.count.Lookup(uint32(0), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// send sends frames out of the named device.
func send(t *testing.T, name string, frames int) {
	t.Helper()
	dev, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	frame := make([]byte, 64)
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5})
	for range frames {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index}); err != nil {
			t.Fatal(err)
		}
	}
	// A veth hands frames over in a softirq of the sender, at the latest when
	// the sending thread is interrupted next.
	time.Sleep(20 * time.Millisecond)
}

func forms(t *testing.T, fn func(t *testing.T, legacy bool)) {
	for name, legacy := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			if !legacy {
				needTCX(t)
			}
			fn(t, legacy)
		})
	}
}

// expectOnly checks which programs are on the device.
func expectOnly(t *testing.T, index int, want ...string) {
	t.Helper()
	found, err := attach.Programs(index)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range found {
		got = append(got, fmt.Sprintf("%s %s %d", p.Form, p.Direction, p.Program))
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Fatalf("on the device: %v, want %v", got, want)
	}
}

func (c counter) on(form attach.Form, d attach.Direction) string {
	info, err := c.prog.Info()
	if err != nil {
		return err.Error()
	}
	id, _ := info.ID()
	return fmt.Sprintf("%s %s %d", form, d, id)
}

func TestProgramsSeeBothDirectionsAndAreGoneAfterDetach(t *testing.T) {
	forms(t, func(t *testing.T, legacy bool) {
		dir, index := bpffs(t), enter(t)
		in, out := newCounter(t), newCounter(t)
		a := attach.New(dir, legacy)
		if err := a.Attach(index, "vb", in.prog, out.prog); err != nil {
			t.Fatal(err)
		}
		send(t, "va", 5)
		send(t, "vb", 3)
		if in.packets(t) != 5 || out.packets(t) != 3 {
			t.Errorf("counted %d in, %d out; want 5 and 3", in.packets(t), out.packets(t))
		}
		expectOnly(t, index, in.on(a.Form(), attach.Ingress), out.on(a.Form(), attach.Egress))
		for range 2 {
			if err := a.Detach(index, "vb"); err != nil {
				t.Fatal(err)
			}
		}
		expectOnly(t, index)
		send(t, "va", 1)
		if in.packets(t) != 5 {
			t.Error("the program still runs")
		}
		expectNoPins(t, dir)
		if qdiscs := clsacts(t); qdiscs != 0 {
			t.Errorf("%d clsact qdiscs left", qdiscs)
		}
	})
}

func expectNoPins(t *testing.T, dir string) {
	t.Helper()
	if pins, _ := filepath.Glob(filepath.Join(dir, "links", "*")); len(pins) != 0 {
		t.Errorf("pins left: %v", pins)
	}
}

func clsacts(t *testing.T) (n int) {
	t.Helper()
	all, err := netlink.QdiscList(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range all {
		if q.Type() == "clsact" {
			n++
		}
	}
	return n
}

func TestNextAgentReplacesProgramsInPlaceWithoutAGap(t *testing.T) {
	forms(t, func(t *testing.T, legacy bool) {
		dir, index := bpffs(t), enter(t)
		former, out := newCounter(t), newCounter(t)
		if err := attach.New(dir, legacy).Attach(index, "vb", former.prog, out.prog); err != nil {
			t.Fatal(err)
		}
		latter := newCounter(t)
		next := attach.New(dir, legacy)

		// Frames flow while programs are replaced over and over: each one is
		// counted by exactly one program.
		const frames = 4000
		ns, err := netns.Get()
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // the thread ends in the namespace
			if err := netns.Set(ns); err != nil {
				t.Error(err)
				return
			}
			for range 40 {
				send(t, "va", frames/40)
			}
		}()
		for i, sending := 0, true; sending; i++ {
			prog := former.prog
			if i%2 == 0 {
				prog = latter.prog
			}
			if err := next.Attach(index, "vb", prog, out.prog); err != nil {
				t.Fatal(err)
			}
			select {
			case <-done:
				sending = false
			case <-time.After(10 * time.Millisecond):
			}
		}
		if got := former.packets(t) + latter.packets(t); got != frames {
			t.Errorf("%d of %d frames were seen", got, frames)
		}
		if former.packets(t) == 0 || latter.packets(t) == 0 {
			t.Errorf("former saw %d, latter %d", former.packets(t), latter.packets(t))
		}
	})
}

func TestLinkOfADeviceThatIsGoneIsReplaced(t *testing.T) {
	dir, index := bpffs(t), enter(t)
	needTCX(t)
	a, c := attach.New(dir, false), newCounter(t)
	if err := a.Attach(index, "vb", c.prog, c.prog); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName("vb")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(l); err != nil {
		t.Fatal(err)
	}
	again := makePair(t)
	if err := a.Attach(again, "vb", c.prog, c.prog); err != nil {
		t.Fatal(err)
	}
	send(t, "va", 2)
	if c.packets(t) != 2 {
		t.Errorf("counted %d, want 2", c.packets(t))
	}
}

func TestDetachOfADeviceThatIsGoneRemovesThePins(t *testing.T) {
	forms(t, func(t *testing.T, legacy bool) {
		dir, index := bpffs(t), enter(t)
		a, c := attach.New(dir, legacy), newCounter(t)
		if err := a.Attach(index, "vb", c.prog, c.prog); err != nil {
			t.Fatal(err)
		}
		l, err := netlink.LinkByName("vb")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(l); err != nil {
			t.Fatal(err)
		}
		if err := a.Detach(index, "vb"); err != nil {
			t.Fatal(err)
		}
		expectNoPins(t, dir)
	})
}

func TestChangingTheFormLeavesOnlyTheNewOne(t *testing.T) {
	dir, index := bpffs(t), enter(t)
	needTCX(t)
	legacy, tcx := attach.New(dir, true), attach.New(dir, false)
	c := newCounter(t)
	for i, a := range []*attach.Attacher{legacy, tcx, legacy} {
		if err := a.Attach(index, "vb", c.prog, c.prog); err != nil {
			t.Fatal(err)
		}
		expectOnly(t, index, c.on(a.Form(), attach.Ingress), c.on(a.Form(), attach.Egress))
		send(t, "va", 1)
		if got := c.packets(t); got != uint64(i)+1 {
			t.Errorf("counted %d after %d frames", got, i+1)
		}
	}
}

func TestFailureLeavesNothingOnAFreshDevice(t *testing.T) {
	forms(t, func(t *testing.T, legacy bool) {
		dir, index := bpffs(t), enter(t)
		good := newCounter(t)
		wrong, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.SocketFilter, License: "Dual BSD/GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer wrong.Close()
		a := attach.New(dir, legacy)
		err = a.Attach(index, "vb", good.prog, wrong)
		if err == nil || !strings.Contains(err.Error(), "attach the egress program to device vb") {
			t.Errorf("got %v", err)
		}
		expectOnly(t, index)
	})
}

// TestForeignFiltersStay has one in the place where ours would be first.
func TestForeignFiltersStay(t *testing.T) {
	forms(t, func(t *testing.T, legacy bool) {
		dir, index := bpffs(t), enter(t)
		c, other := newCounter(t), newReturning(t, -1)
		qdisc := &netlink.GenericQdisc{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
			QdiscType:  "clsact",
		}
		if err := netlink.QdiscAdd(qdisc); err != nil {
			t.Fatal(err)
		}
		foreign := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
			Fd:          other.prog.FD(), Name: "somebody", DirectAction: true,
		}
		if err := netlink.FilterAdd(foreign); err != nil {
			t.Fatal(err)
		}
		a := attach.New(dir, legacy)
		for range 2 { // the second time ours is there
			if err := a.Attach(index, "vb", c.prog, c.prog); err != nil {
				t.Fatal(err)
			}
		}
		send(t, "va", 3)
		if c.packets(t) != 3 || legacy && other.packets(t) != 3 {
			t.Errorf("ours saw %d, the other %d of 3", c.packets(t), other.packets(t))
		}
		if err := a.Detach(index, "vb"); err != nil {
			t.Fatal(err)
		}
		expectOnly(t, index, other.on(attach.Clsact, attach.Ingress))
	})
}

func TestEnsureBPFFSMountsOnceAndExplainsSysfs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := bpffs(t)
	if err := attach.EnsureBPFFS(filepath.Join(dir, "inside")); err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(mounts), dir); n != 1 {
		t.Errorf("%d mounts", n)
	}
	err = attach.EnsureBPFFS("/sys/kernel/cilium-test")
	if err == nil || !strings.Contains(err.Error(), "mount the BPF file system first") {
		t.Errorf("got %v", err)
	}
}
