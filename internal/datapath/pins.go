// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cilium.local/cilium/internal/datapath/attach"
	"cilium.local/cilium/internal/datapath/prog"
	"cilium.local/cilium/internal/reconcile"
)

// WantedPins are the pins by which the next agent finds the maps and programs, as rows
// for Pins.
func (d *Datapath) WantedPins() (map[string]prog.Pin, error) { return d.loaded.WantedPins() }

// Pins is what is pinned, by the pin's name. Where the BPF file system is gone, writing
// a pin mounts one.
func (d *Datapath) Pins() reconcile.Target[string, prog.Pin] { return pins{d} }

type pins struct{ *Datapath }

func (p pins) Dump() (map[string]prog.Pin, error) { return p.loaded.Pins() }

func (p pins) Update(name string, _ prog.Pin) error {
	if err := attach.EnsureBPFFS(p.pinDir); err != nil {
		return err
	}
	return p.loaded.Pin(name)
}

func (p pins) Delete(name string) error { return p.loaded.Unpin(name) }
