// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"cilium.local/cilium/internal/datapath/attach"
	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/reconcile"
	"cilium.local/cilium/internal/table"
)

// Wanted is what a device should have, as a row of the table that Attachments serves.
func (d *Datapath) Wanted(dev Device) (attach.State, error) {
	return attach.StateOf(d.programsOf(dev.Name))
}

// Attachments is what hangs on the devices that the table has. A program that is not
// this agent's, with maps of its own, is none. A device that is gone has all that it
// needs: nothing passes it. Devices that the table does not have are not looked at.
func (d *Datapath) Attachments(wanted *table.Table[Device, attach.State]) reconcile.Target[Device, attach.State] {
	return attachments{d, wanted}
}

// attachments implements reconcile.Target. It does not work while a device is settled,
// which has both forms for a moment.
type attachments struct {
	*Datapath
	wanted *table.Table[Device, attach.State]
}

func (a attachments) Dump() (map[Device]attach.State, error) {
	a.settler.busy.Lock()
	defer a.settler.busy.Unlock()
	is := make(map[Device]attach.State)
	for dev, want := range a.wanted.All() {
		state, err := a.attacher.State(dev.Index, dev.Name, want)
		if err != nil {
			return nil, err
		}
		if state == want && a.isWorkload(dev.Name) && device.IsDown(dev.Index) {
			state = attach.State{} // what it lacks is that Update sets it up
		}
		if state != want && isGone(dev) {
			state = want
		}
		is[dev] = state
	}
	return is, nil
}

// Update puts the programs on the device. A workload's device that cannot have them is
// set down, because it would be open, until it can.
func (a attachments) Update(dev Device, _ attach.State) error {
	a.settler.busy.Lock()
	defer a.settler.busy.Unlock()
	err := a.attachAny(dev)
	if !a.isWorkload(dev.Name) || err != nil && isGone(dev) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w; the device is down until it has them", errors.Join(err, device.SetUp(dev.Index, false)))
	}
	return device.SetUp(dev.Index, true)
}

// isGone tells that a device is certainly not there any more.
func isGone(dev Device) bool {
	exists, err := device.Exists(dev.Index)
	return err == nil && !exists
}

func (a attachments) Delete(dev Device) error { return a.Detach(dev) }

// attachAny puts onto a device what belongs there.
func (d *Datapath) attachAny(dev Device) error {
	switch p := d.programsOf(dev.Name); dev.Name {
	case OverlayName:
		return d.attacher.Attach(dev.Index, dev.Name, p.Ingress, p.Egress)
	case d.network:
		return d.attacher.AttachIngress(dev.Index, dev.Name, p.Ingress)
	}
	return d.Attach(dev)
}

func (d *Datapath) isWorkload(ifname string) bool {
	return ifname != OverlayName && ifname != d.network
}

// Reclaim gives devices of workloads, known by name and programs, their alias back that
// somebody has changed. It needs no agent.
func Reclaim() error {
	strays, err := device.Strays()
	for _, s := range strays {
		found, foundErr := attach.Has(s.Index)
		if foundErr == nil && found {
			foundErr = device.Mark(s)
		}
		err = errors.Join(err, foundErr)
	}
	return err
}
