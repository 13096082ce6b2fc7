// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// programNames are those of the data plane's programs. A link that no pin leads to,
// because the BPF file system was unmounted, or mounted over, is known by them.
var programNames = []string{"from_workload", "to_workload", "from_overlay", "to_overlay", "from_network"}

// heldLink is a link of ours that holds a program on a device.
type heldLink struct {
	link.Link
	id      link.ID
	program ebpf.ProgramID
	pinned  bool // by the name that the device has
}

func closeLinks(links []heldLink) {
	for _, l := range links {
		_ = l.Close()
	}
}

// held opens our links on one direction of a device: the one that its pin leads to, and
// then any other.
func (a *Attacher) held(ifindex int, ifname string, d Direction) ([]heldLink, error) {
	var links []heldLink
	pinned, err := openPin(a.pin(ifname, d), ifindex, d)
	if err != nil {
		return nil, err
	}
	var known []link.ID
	if pinned != nil {
		links, known = append(links, *pinned), append(known, pinned.id)
	}
	others, err := unpinned(ifindex, d, known)
	if err != nil {
		closeLinks(links)
		return nil, err
	}
	return append(links, others...), nil
}

// openPin opens the pinned link if it is on the device, else it returns nil. The kernel
// reports index 0 for a link whose device is gone.
func openPin(pin string, ifindex int, d Direction) (*heldLink, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // not there, or something that is not a link, which keep replaces
	}
	info, err := l.Info()
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("read what the pinned link %s is attached to: %w", pin, err)
	}
	tcx := info.TCX()
	if tcx == nil || int(tcx.Ifindex) != ifindex || ebpf.AttachType(tcx.AttachType) != d.tcx() {
		_ = l.Close()
		return nil, nil //nolint:nilnil // it is another device's
	}
	return &heldLink{Link: l, id: info.ID, program: info.Program, pinned: true}, nil
}

// lives tells whether the pinned link holds a program on a device.
func lives(pin string) bool {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return false
	}
	defer func() { _ = l.Close() }()
	info, err := l.Info()
	if err != nil {
		return true
	}
	tcx := info.TCX()
	return tcx != nil && tcx.Ifindex != 0
}

// unpinned opens the links that hold programs of ours on one direction of a device, but
// for those that are known, in the order in which they run.
func unpinned(ifindex int, d Direction, known []link.ID) (links []heldLink, err error) {
	programs, err := queryTCX(ifindex, d)
	if err != nil {
		return nil, err
	}
	for _, p := range programs {
		id, onLink := p.LinkID()
		if !onLink || slices.Contains(known, id) || !isOurs(p.ID) {
			continue
		}
		l, err := link.NewFromID(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went away just now
		}
		if err != nil {
			closeLinks(links)
			return nil, fmt.Errorf("open the link of the %s program %d of device %d: %w", d, p.ID, ifindex, err)
		}
		links = append(links, heldLink{Link: l, id: id, program: p.ID})
	}
	return links, nil
}

// queryTCX lists the programs of one direction in the order in which they run. A kernel
// without tcx has none, nor has a device that is gone.
func queryTCX(ifindex int, d Direction) ([]link.AttachedProgram, error) {
	result, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: d.tcx()})
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the %s programs of device %d: %w", d, ifindex, err)
	}
	return result.Programs, nil
}

// isOurs tells a program by its name. One that is gone is nobody's.
func isOurs(id ebpf.ProgramID) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return false
	}
	defer func() { _ = p.Close() }()
	info, err := p.Info()
	return err == nil && slices.Contains(programNames, info.Name)
}

// adopt puts the program into the link of ours that is on the device, pins it if need
// be, and removes any further one: the first that runs would decide.
func (a *Attacher) adopt(ifindex int, ifname string, d Direction, prog *ebpf.Program) (bool, error) {
	links, err := a.held(ifindex, ifname, d)
	if err != nil {
		return false, err
	}
	defer closeLinks(links)
	for i, l := range links {
		err := l.Update(prog)
		if errors.Is(err, unix.ENOLINK) {
			continue // the device went away just now, or somebody detached it
		}
		if err == nil && !l.pinned {
			err = a.keep(l, a.pin(ifname, d))
		}
		if err == nil {
			err = detachAll(links[i+1:])
		}
		if err != nil {
			return false, fmt.Errorf("update the program of the link %d: %w", l.id, err)
		}
		return true, nil
	}
	return false, nil
}

// removeUnpinned removes the links of ours that no pin leads to. The name guards against
// a device whose index was given to another one meanwhile.
func removeUnpinned(ifindex int, ifname string, d Direction) error {
	links, err := unpinned(ifindex, d, nil)
	if err != nil || len(links) == 0 {
		return err
	}
	defer closeLinks(links)
	if present, err := hasName(ifindex, ifname); err != nil || !present {
		return err
	}
	return detachAll(links)
}

func detachAll(links []heldLink) error {
	var failed []error
	for _, l := range links {
		if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
			failed = append(failed, fmt.Errorf("detach the link %d: %w", l.id, err))
		}
	}
	return errors.Join(failed...)
}

// keep pins the link in place of a stale one, which belongs to a device that is gone or
// has another name today.
func (a *Attacher) keep(l link.Link, pin string) error {
	if err := os.MkdirAll(a.links, 0o700); err != nil {
		return fmt.Errorf("make the folder of the pinned links: %w (is it on a bpffs?)", err)
	}
	if err := removeLink(pin); err != nil {
		return fmt.Errorf("remove the stale pin %s: %w", pin, err)
	}
	if err := l.Pin(pin); err != nil {
		return fmt.Errorf("pin the link at %s: %w", pin, err)
	}
	return nil
}
