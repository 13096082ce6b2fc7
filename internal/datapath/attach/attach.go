// SPDX-License-Identifier: Apache-2.0

// Package attach puts the two programs of a device in place, one for each
// direction, and takes them away again.
//
// There are two forms. From Linux 6.6 programs are held by tcx links, which are
// pinned, so that they stay when the agent ends and the next one updates them.
// Before, they are clsact filters with a name of ours, which the kernel keeps by
// itself, at a priority that nobody else uses. A filter is there in half a millisecond, a link after a
// grace period. In both forms a program is replaced in place: at no
// time does a packet pass without one. Changing the form puts the new one in
// place before the old one goes; while both are there, tcx decides.
package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Form is how a program is attached.
type Form string

// The two forms.
const (
	TCX    Form = "tcx"
	Clsact Form = "clsact"
)

// Direction is seen from the device: Ingress programs see what it receives,
// which on the host end of a workload's pair is what the workload sends.
type Direction string

// The two directions.
const (
	Ingress Direction = "ingress"
	Egress  Direction = "egress"
)

var directions = []Direction{Ingress, Egress}

func (d Direction) other() Direction {
	if d == Ingress {
		return Egress
	}
	return Ingress
}

func (d Direction) tcx() ebpf.AttachType {
	if d == Ingress {
		return ebpf.AttachTCXIngress
	}
	return ebpf.AttachTCXEgress
}

// Attacher attaches programs in one form. It may be used from several
// goroutines as long as they are about different devices. Devices are those of
// the calling thread's network namespace.
type Attacher struct {
	links string // folder of the pinned links
	form  Form
}

// New makes an attacher which pins links under pinDir/links. The folder pinDir
// must be on a bpffs: see EnsureBPFFS. With legacy, clsact filters are used even
// where the kernel knows tcx.
func New(pinDir string, legacy bool) *Attacher {
	a := &Attacher{links: filepath.Join(pinDir, "links"), form: TCX}
	if legacy {
		a.form = Clsact
	}
	return a
}

// Form is the form that the attacher uses.
func (a *Attacher) Form() Form { return a.form }

func (a *Attacher) pin(ifname string, d Direction) string {
	return filepath.Join(a.links, ifname+"_"+string(d))
}

// Attach puts both programs, of type SchedCLS, on the device, in place of those
// of an earlier call or of an earlier agent. When it fails on a device that had
// no programs it leaves none behind; a device that had some keeps one for each
// direction.
func (a *Attacher) Attach(ifindex int, ifname string, ingress, egress *ebpf.Program) error {
	results, err := a.attachBoth(ifindex, ifname, map[Direction]*ebpf.Program{Ingress: ingress, Egress: egress})
	if err != nil {
		return err
	}
	var failed []error
	for _, d := range directions {
		if err := results[d].err; err != nil {
			failed = append(failed, fmt.Errorf("attach the %s program to device %s (index %d) as %s: %w", d, ifname, ifindex, a.form, err))
		}
	}
	if len(failed) > 0 {
		for _, d := range directions {
			if results[d].fresh {
				failed = append(failed, a.detachOne(a.form, ifindex, ifname, d))
			}
		}
		return errors.Join(failed...)
	}
	// The device has our programs now, so the other form is superfluous.
	for _, d := range directions {
		if err := a.detachOne(a.form.other(), ifindex, ifname, d); err != nil {
			return fmt.Errorf("remove the former %s program from device %s (index %d): %w", d, ifname, ifindex, err)
		}
	}
	if a.form == TCX {
		return removeQdisc(ifindex, ifname)
	}
	return nil
}

// Adopt updates the programs of a device that has links of an earlier call or agent for
// both directions, pinned or not, and says whether it has. If not, or on an error,
// Attach is to follow.
func (a *Attacher) Adopt(ifindex int, ifname string, ingress, egress *ebpf.Program) (bool, error) {
	for d, program := range map[Direction]*ebpf.Program{Ingress: ingress, Egress: egress} {
		if adopted, err := a.adopt(ifindex, ifname, d, program); err != nil || !adopted {
			return false, err
		}
	}
	return true, nil
}

// result is the outcome of one direction; fresh says that it had no program of
// ours before.
type result struct {
	fresh bool
	err   error
}

// attachBoth attaches both directions. As links they are made at the same time,
// each on a thread in the caller's namespace: the kernel waits for a grace period
// in each call, some ten milliseconds, and two waits pass as one.
func (a *Attacher) attachBoth(ifindex int, ifname string, programs map[Direction]*ebpf.Program) (map[Direction]result, error) {
	results := make(map[Direction]result, len(programs))
	if a.form == Clsact {
		for d, program := range programs {
			fresh, err := a.attachOne(ifindex, ifname, d, program)
			results[d] = result{fresh, err}
		}
		return results, nil
	}
	here, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open the current network namespace: %w", err)
	}
	defer func() { _ = here.Close() }()
	var ingress result
	done := make(chan struct{})
	go func() {
		defer close(done)
		ingress.err = elsewhere(here, func() (err error) {
			ingress.fresh, err = a.attachOne(ifindex, ifname, Ingress, programs[Ingress])
			return err
		})
	}()
	fresh, err := a.attachOne(ifindex, ifname, Egress, programs[Egress])
	<-done
	results[Egress] = result{fresh, err}
	results[Ingress] = ingress
	return results, nil
}

// elsewhere runs f on a thread in the namespace, which goes back after it. One
// that cannot stays locked, so that the runtime ends it.
func elsewhere(namespace netns.NsHandle, f func() error) error {
	runtime.LockOSThread()
	origin, err := netns.Get()
	if err == nil {
		defer func() { _ = origin.Close() }()
		err = netns.Set(namespace)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the caller's network namespace: %w", err)
	}
	err = f()
	if netns.Set(origin) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

func (f Form) other() Form {
	if f == TCX {
		return Clsact
	}
	return TCX
}

// Detach removes both programs in either form, and the pins. A device that is
// gone is no error: its name still finds the pins.
func (a *Attacher) Detach(ifindex int, ifname string) error {
	var errs []error
	for _, d := range directions {
		for _, form := range []Form{TCX, Clsact} {
			errs = append(errs, a.detachOne(form, ifindex, ifname, d))
		}
	}
	errs = append(errs, removeQdisc(ifindex, ifname))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach the programs from device %s (index %d): %w", ifname, ifindex, err)
	}
	return nil
}

// AttachIngress likewise puts a program on what the device receives only. Others that
// hang there, not ours, stay as they are, and what is ours runs after them.
func (a *Attacher) AttachIngress(ifindex int, ifname string, program *ebpf.Program) error {
	if _, err := a.attachOne(ifindex, ifname, Ingress, program); err != nil {
		return fmt.Errorf("attach the ingress program to device %s (index %d) as %s: %w", ifname, ifindex, a.form, err)
	}
	if err := a.detachOne(a.form.other(), ifindex, ifname, Ingress); err != nil {
		return fmt.Errorf("remove the former ingress program from device %s (index %d): %w", ifname, ifindex, err)
	}
	return nil
}

// Forget removes the pins of a device that is gone. Links that still hold programs on
// one stay, because it would be open without: it has another name by now.
func (a *Attacher) Forget(ifname string) error {
	var errs []error
	for _, d := range directions {
		if !lives(a.pin(ifname, d)) {
			errs = append(errs, removeLink(a.pin(ifname, d)))
		}
	}
	return errors.Join(errs...)
}

func (a *Attacher) attachOne(ifindex int, ifname string, d Direction, prog *ebpf.Program) (fresh bool, err error) {
	if a.form == Clsact {
		return replaceFilter(ifindex, d, prog)
	}
	return a.attachLink(ifindex, ifname, d, prog)
}

func (a *Attacher) detachOne(form Form, ifindex int, ifname string, d Direction) error {
	if form == Clsact {
		return removeFilter(ifindex, ifname, d)
	}
	return errors.Join(removeLink(a.pin(ifname, d)), removeUnpinned(ifindex, ifname, d))
}

// attachLink updates the link of ours that this device has, and makes a new one
// otherwise.
func (a *Attacher) attachLink(ifindex int, ifname string, d Direction, prog *ebpf.Program) (fresh bool, err error) {
	adopted, err := a.adopt(ifindex, ifname, d, prog)
	if err != nil || adopted {
		return false, err
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: prog, Attach: d.tcx()})
	if err != nil {
		return false, err
	}
	// Closing lets go of the descriptor; the pin keeps the link.
	defer func() { _ = l.Close() }()
	return true, a.keep(l, a.pin(ifname, d))
}

// removeLink detaches a pinned link at once, whoever else holds it open.
func removeLink(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		defer func() { _ = l.Close() }()
		if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
			return fmt.Errorf("detach the link %s: %w", pin, err)
		}
	}
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the pin %s: %w", pin, err)
	}
	return nil
}

// Attached is a program found on a device.
type Attached struct {
	Direction Direction
	Form      Form
	Program   ebpf.ProgramID
}

// Programs lists all programs on the device, ours or not: in each direction
// those of tcx first, in the order in which they run.
func Programs(ifindex int) ([]Attached, error) {
	var found []Attached
	for _, d := range directions {
		programs, err := queryTCX(ifindex, d)
		if err != nil {
			return nil, err
		}
		for _, p := range programs {
			found = append(found, Attached{Direction: d, Form: TCX, Program: p.ID})
		}
		filters, err := listFilters(ifindex, d)
		if err != nil {
			return nil, err
		}
		for _, f := range filters {
			found = append(found, Attached{Direction: d, Form: Clsact, Program: ebpf.ProgramID(f.Id)})
		}
	}
	return found, nil
}
