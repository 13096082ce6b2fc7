// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"cilium.local/cilium/internal/datapath/attach"
	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/datapath/probe"
)

// forms returns how the programs hang on a workload's device, each form once.
func (l *live) forms(dev Device) (found []attach.Form) {
	must(l.t, device.InNamespace(l.home, func() error {
		programs, err := attach.Programs(dev.Index)
		for _, p := range programs {
			if !slices.Contains(found, p.Form) {
				found = append(found, p.Form)
			}
		}
		return err
	}))
	return found
}

func (l *live) device(id uint16) (dev Device) {
	must(l.t, device.InNamespace(l.home, func() error {
		found, err := device.Find(device.HostName(id))
		dev = Device{Index: found.Index, Name: found.Name}
		return err
	}))
	return dev
}

func (l *live) inHome(f func() error) { must(l.t, device.InNamespace(l.home, f)) }

// attachAnew lets a device be as a new one.
func (l *live) attachAnew(dev Device) {
	l.inHome(func() error { return l.Detach(dev) })
	l.inHome(func() error { return l.Attach(dev) })
	if got := l.forms(dev); !slices.Equal(got, []attach.Form{attach.Clsact}) {
		l.t.Fatalf("a new device has its programs as %v", got)
	}
}

// settling runs Settle in the node's namespace until the test ends.
func (l *live) settling() {
	ctx, stop := context.WithCancel(l.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- device.InNamespace(l.home, func() error { l.Settle(ctx, discard()); return nil })
	}()
	l.t.Cleanup(func() { stop(); must(l.t, <-done) })
}

func newUnsettled(t *testing.T) (*live, Device, Device) {
	features, err := probe.Probe()
	must(t, err)
	if !features.TCX {
		t.Skip("the kernel has no links to settle on")
	}
	l := newLive(t, false)
	first, second := l.device(1), l.device(2)
	l.attachAnew(first)
	l.attachAnew(second)
	return l, first, second
}

func TestNewDevicesSettleOnLinksWithoutAGap(t *testing.T) {
	l, first, second := newUnsettled(t)
	server := netip.AddrPortFrom(l.ipv4["app1"], 80)
	l.serve(l.workload["app1"], server)
	l.settling()
	settled := func() bool {
		want := []attach.Form{attach.TCX}
		return slices.Equal(l.forms(first), want) && slices.Equal(l.forms(second), want)
	}
	for end := time.Now().Add(10 * time.Second); !settled(); {
		must(t, ask(l.workload["app2"], server, 1000, time.Second))
		if time.Now().After(end) {
			t.Fatalf("still %v and %v", l.forms(first), l.forms(second))
		}
	}
	must(t, ask(l.workload["app2"], server, 1000, time.Second))
	adopted := false
	l.inHome(func() (err error) {
		adopted, err = l.attacher.Adopt(first.Index, first.Name, l.loaded.FromWorkload, l.loaded.ToWorkload)
		return err
	})
	if !adopted {
		t.Error("the links are not there for the next agent")
	}
}

func TestADetachedDeviceIsNotSettled(t *testing.T) {
	l, first, second := newUnsettled(t)
	l.inHome(func() error { return l.Detach(first) })
	l.settling()
	for end := time.Now().Add(10 * time.Second); !slices.Equal(l.forms(second), []attach.Form{attach.TCX}); {
		if time.Now().After(end) {
			t.Fatalf("the other device is still %v", l.forms(second))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if got := l.forms(first); len(got) != 0 {
		t.Errorf("programs are back as %v", got)
	}
}
