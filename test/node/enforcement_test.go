// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/attach"
	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/test/lab"
)

// detachLinks takes the programs off a workload's device, as `bpftool link detach` does.
func (a *apps) detachLinks(w *lab.Workload) error {
	return a.Do(func() error {
		dev, err := device.Find(device.HostName(uint16(w.ID)))
		if err != nil {
			return err
		}
		for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			result, err := link.QueryPrograms(link.QueryOptions{Target: dev.Index, Attach: hook})
			if err != nil {
				return err
			}
			for _, p := range result.Programs {
				id, _ := p.LinkID()
				l, err := link.NewFromID(id)
				if err != nil {
					return err
				}
				if err := errors.Join(l.Detach(), l.Close()); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// qdisc adds a qdisc to a workload's device, or removes it.
func (a *apps) qdisc(w *lab.Workload, kind string, change func(netlink.Qdisc) error) error {
	return a.Do(func() error {
		dev, err := device.Find(device.HostName(uint16(w.ID)))
		if err != nil {
			return err
		}
		return change(&netlink.GenericQdisc{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: dev.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
			QdiscType:  kind,
		})
	})
}

// programs lists what hangs on a workload's device, each as form and direction.
func (a *apps) programs(w *lab.Workload) (list []string) {
	a.t.Helper()
	err := a.Do(func() error {
		dev, err := device.Find(device.HostName(uint16(w.ID)))
		if err != nil {
			return err
		}
		found, err := attach.Programs(dev.Index)
		for _, p := range found {
			list = append(list, string(p.Form)+" "+string(p.Direction))
		}
		return err
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return list
}

// pins lists what is pinned, by path.
func (a *apps) pins() string {
	var list []string
	for _, pattern := range []string{"links/*", "maps-*/*"} {
		found, _ := filepath.Glob(filepath.Join(a.BPFRoot, pattern))
		list = append(list, found...)
	}
	return strings.Join(list, "\n")
}

// becomes waits until what is as wanted.
func becomes(t *testing.T, what string, is func() string, want string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got := is()
		if got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s:\n%s\nwant:\n%s", what, got, want)
		}
	}
}

const bothLinks, bothFilters = "tcx ingress, tcx egress", "clsact ingress, clsact egress"

// settle waits until app1's device has its programs as they stay.
func (a *apps) settle(want string) {
	a.t.Helper()
	for _, w := range []*lab.Workload{a.app1, a.app2, a.app3} {
		becomes(a.t, "programs of "+w.Name, func() string { return strings.Join(a.programs(w), ", ") }, want)
	}
}

// decides fails unless policy is in force: app2 reaches app1, app3 does not.
func (a *apps) decides(when string) {
	a.t.Helper()
	for _, p := range lab.Probes[:2] {
		lab.Reaches(a.t, p, when+": allowed peer", a.app2.Namespace, a.app1.IPv4, true)
		lab.Reaches(a.t, p, when+": denied peer", a.app3.Namespace, a.app1.IPv6, false)
	}
}

// denied says whether app3, which is denied, reaches app1.
func (a *apps) denied() string {
	err := a.app3.RoundTripUDP(within(a.t, 100*time.Millisecond), netip.AddrPortFrom(a.app1.IPv4, lab.ProbePort), []byte("hello"))
	if err == nil {
		return "open"
	}
	return "closed"
}

func tcpAndUDP(from string) string {
	return lab.AllowRule(from, `"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}, {"port": "80", "protocol": "UDP"}]}]`)
}

// TestWhatEnforcesComesBackWhenItIsTakenAway takes it away in all ways that a person or
// another tool may: within seconds it is there again, for the next agent too.
func TestWhatEnforcesComesBackWhenItIsTakenAway(t *testing.T) {
	for _, c := range []struct {
		name, hooks, settled string
		takeAway             func(*apps) error
	}{
		{"the BPF file system", "false", bothLinks, func(a *apps) error { return unix.Unmount(a.BPFRoot, 0) }},
		{"links", "false", bothLinks, func(a *apps) error { return errors.Join(a.detachLinks(a.app1), a.detachLinks(a.app3)) }},
		{"pins of links", "false", bothLinks, func(a *apps) error { return os.RemoveAll(filepath.Join(a.BPFRoot, "links")) }},
		{"all pins", "false", bothLinks, func(a *apps) error {
			sets, err := filepath.Glob(filepath.Join(a.BPFRoot, "maps-*"))
			for _, set := range append(sets, filepath.Join(a.BPFRoot, "links")) {
				err = errors.Join(err, os.RemoveAll(set))
			}
			return err
		}},
		{"clsact", "true", bothFilters, func(a *apps) error { return a.qdisc(a.app1, "clsact", netlink.QdiscDel) }},
		{"the BPF file system beside filters", "true", bothFilters, func(a *apps) error { return unix.Unmount(a.BPFRoot, 0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := start(t, "--legacy-hooks="+c.hooks)
			a.add(tcpAndUDP(fromApp2))
			lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
			a.settle(c.settled)
			conn, err := a.app2.DialTCP(within(t, 5*time.Second), netip.AddrPortFrom(a.app1.IPv4, lab.ProbePort))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			long := begin(conn)
			pins := a.pins()
			if err := c.takeAway(a); err != nil {
				t.Fatal(err)
			}
			becomes(t, "pins", a.pins, pins)
			a.settle(c.settled)
			becomes(t, "the denied peer", a.denied, "closed")
			a.decides("after they are back")
			if status := a.cli("status"); !strings.Contains(status, "Ok") {
				t.Errorf("status:\n%s", status)
			}
			a.killAgent()
			a.startAgent("--legacy-hooks=" + c.hooks)
			a.settle(c.settled)
			long.moves(t, "after the next agent's start", 5*time.Second)
			a.decides("after the next agent's start")
		})
	}
}

// TestProgramsWithOtherMapsAreReplaced mounts a BPF file system over the node's, so that
// the next agent finds neither maps nor links.
func TestProgramsWithOtherMapsAreReplaced(t *testing.T) {
	for hooks, settled := range map[string]string{"false": bothLinks, "true": bothFilters} {
		t.Run("legacy "+hooks, func(t *testing.T) {
			a := start(t, "--legacy-hooks="+hooks)
			a.add(tcpAndUDP(fromApp2))
			lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
			a.settle(settled)
			a.decides("before")
			a.killAgent()
			if err := unix.Mount("bpf", a.BPFRoot, "bpf", 0, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(a.BPFRoot, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			a.startAgent("--legacy-hooks=" + hooks)
			a.settle(settled)
			a.decides("after the start")
			a.load(tcpAndUDP(strings.Replace(fromApp2, "app2", "app3", 1)))
			lab.Reaches(t, lab.Probes[1], "peer that is allowed now", a.app3.Namespace, a.app1.IPv4, true)
			lab.Reaches(t, lab.Probes[1], "peer that is denied now", a.app2.Namespace, a.app1.IPv4, false)
		})
	}
}

// TestADeviceThatCannotBeEnforcedIsClosedAndSaidSo has a qdisc in the place of ours that
// sees one direction only.
func TestADeviceThatCannotBeEnforcedIsClosedAndSaidSo(t *testing.T) {
	a := start(t, "--legacy-hooks")
	a.add(tcpAndUDP(fromApp2))
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
	a.decides("before")
	if err := errors.Join(a.qdisc(a.app1, "clsact", netlink.QdiscDel), a.qdisc(a.app1, "ingress", netlink.QdiscAdd)); err != nil {
		t.Fatal(err)
	}
	name := device.HostName(uint16(a.app1.ID))
	status := func() string {
		result, err := a.CLI(within(t, 10*time.Second), "status")
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint("Failure: ", strings.Contains(result.Stdout, "Failure") && strings.Contains(result.Stdout, name))
	}
	becomes(t, "status", status, "Failure: true")
	becomes(t, "the denied peer", a.denied, "closed")
	lab.Reaches(t, lab.Probes[1], "a device that is not enforced", a.app2.Namespace, a.app1.IPv4, false)
	if message := a.refused(tcpAndUDP(fromApp2), "policy", "import", "-"); !strings.Contains(message, name) || !strings.Contains(message, "ingress qdisc") {
		t.Errorf("an import that cannot be enforced: %s", message)
	}
	if err := a.qdisc(a.app1, "ingress", netlink.QdiscDel); err != nil {
		t.Fatal(err)
	}
	becomes(t, "status", status, "Failure: false")
	a.settle(bothFilters)
	a.decides("after the qdisc is gone")
}

// TestADeviceWithAnotherAliasIsStillOurs restarts the agent, and removes the workload.
func TestADeviceWithAnotherAliasIsStillOurs(t *testing.T) {
	a := start(t)
	a.add(tcpAndUDP(fromApp2))
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
	rename := func(w *lab.Workload) {
		t.Helper()
		err := a.Do(func() error {
			dev, err := device.Find(device.HostName(uint16(w.ID)))
			if err != nil {
				return err
			}
			return netlink.LinkSetAlias(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: dev.Index}}, "somebody's")
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	rename(a.app1)
	a.killAgent()
	a.startAgent()
	a.decides("after the restart")
	rename(a.app1)
	if err := a.app1.Remove(within(t, 10*time.Second)); err != nil {
		t.Error(err)
	}
	if list := a.endpoints(); strings.Contains(list, "id=app1") {
		t.Errorf("endpoints after the removal:\n%s", list)
	}
}
