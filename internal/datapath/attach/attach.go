// SPDX-License-Identifier: Apache-2.0

// Package attach puts BPF programs on a network device and keeps them there
// without the process that did it: by pinned tcx links where the kernel has
// them (6.6), else by clsact filters with a fixed handle and priority, which are
// replaced in place. An update never leaves a moment without a program.
//
// Devices are those of the calling process's network namespace.
package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Attacher attaches and detaches. It has no state but its configuration.
type Attacher struct {
	linkDir string
	legacy  bool
}

// New returns an Attacher that pins links in the folder links under pinDir,
// which must be on a bpffs. With legacy it uses clsact filters also where the
// kernel has tcx.
func New(pinDir string, legacy bool) *Attacher {
	return &Attacher{linkDir: filepath.Join(pinDir, "links"), legacy: legacy}
}

// direction is one of the two hooks of a device.
type direction struct {
	name   string
	tcx    ebpf.AttachType
	parent uint32 // of the clsact filter
}

// Attach makes ingress and egress the programs of the two directions, as the
// device sees them. Programs that an earlier process attached are replaced.
func (a *Attacher) Attach(ifindex int, ifname string, ingress, egress *ebpf.Program) error {
	if err := a.attach(ifindex, ifname, ingressHook, ingress); err != nil {
		return err
	}
	return a.attach(ifindex, ifname, egressHook, egress)
}

func (a *Attacher) attach(ifindex int, ifname string, d direction, program *ebpf.Program) error {
	if !a.legacy {
		err := a.attachLink(ifindex, ifname, d, program)
		if err == nil {
			return removeFilter(ifindex, d)
		}
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return fmt.Errorf("attach to %s of %s by tcx: %w", d.name, ifname, err)
		}
	}
	if err := replaceFilter(ifindex, d, program); err != nil {
		return fmt.Errorf("attach to %s of %s by clsact: %w", d.name, ifname, err)
	}
	return a.removeLink(ifname, d)
}

// attachLink updates the pinned link if it is this device's, and else makes a
// new one. A link outlives its device as an empty shell, so the name alone does
// not tell.
func (a *Attacher) attachLink(ifindex int, ifname string, d direction, program *ebpf.Program) error {
	path := a.path(ifname, d)
	pinned, err := link.LoadPinnedLink(path, nil)
	if err == nil {
		defer pinned.Close()
		if attachedTo(pinned) == ifindex {
			return pinned.Update(program)
		}
		if err := pinned.Unpin(); err != nil {
			return fmt.Errorf("remove stale link %s: %w", path, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open pinned link %s: %w", path, err)
	}
	fresh, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: program, Attach: d.tcx})
	if err != nil {
		return err
	}
	defer fresh.Close()
	if err := os.MkdirAll(a.linkDir, 0o700); err != nil {
		return fmt.Errorf("create %s: %w", a.linkDir, err)
	}
	if err := fresh.Pin(path); err != nil {
		return fmt.Errorf("pin %s: %w (is a bpffs mounted there?)", path, err)
	}
	return nil
}

// attachedTo returns the index of the link's device, or 0.
func attachedTo(l link.Link) int {
	info, err := l.Info()
	if err != nil || info.TCX() == nil {
		return 0
	}
	return int(info.TCX().Ifindex)
}

// Detach removes both programs. A device that is gone, or never had programs,
// is no error.
func (a *Attacher) Detach(ifindex int, ifname string) error {
	var failed []error
	for _, d := range []direction{ingressHook, egressHook} {
		failed = append(failed, a.removeLink(ifname, d), removeFilter(ifindex, d))
	}
	return errors.Join(failed...)
}

func (a *Attacher) removeLink(ifname string, d direction) error {
	path := a.path(ifname, d)
	// Without its pin and any open handle, the kernel removes the link.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove link %s: %w", path, err)
	}
	return nil
}

func (a *Attacher) path(ifname string, d direction) string {
	return filepath.Join(a.linkDir, ifname+"_"+d.name)
}
