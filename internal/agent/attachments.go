// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"cilium.local/cilium/internal/datapath"
	"cilium.local/cilium/internal/datapath/attach"
	"cilium.local/cilium/internal/datapath/prog"
	"cilium.local/cilium/internal/reconcile"
	"cilium.local/cilium/internal/table"
)

// compareAttachments is how long a device may be without its programs at most, after
// somebody took them away. A comparison of 250 devices takes some milliseconds.
const compareAttachments = 3 * time.Second

// attachments are the wanted programs on devices, and the pins by which they and their
// maps outlive the agent.
type attachments struct {
	dp      *datapath.Datapath
	devices *table.Table[datapath.Device, attach.State]
	pins    *table.Table[string, prog.Pin]

	devicesWriter *reconcile.Reconciler[datapath.Device, attach.State]
	pinsWriter    *reconcile.Reconciler[string, prog.Pin]
}

func newAttachments(dp *datapath.Datapath, log *slog.Logger) (*attachments, error) {
	t := &attachments{
		dp:      dp,
		devices: table.New[datapath.Device, attach.State]("attachments"),
		pins:    table.New[string, prog.Pin]("pins"),
	}
	pins, err := dp.WantedPins()
	if err != nil {
		return nil, err
	}
	for name, pin := range pins {
		t.pins.Upsert(name, pin)
	}
	t.pins.MarkComplete()
	t.devicesWriter = reconcile.New(t.devices, dp.Attachments(t.devices), reconcile.Options[attach.State]{
		Log: log, CompareEvery: compareAttachments, MaxBackoff: compareAttachments,
		Equal: func(want, is attach.State) bool { return want == is },
	})
	t.pinsWriter = reconcile.New(t.pins, dp.Pins(), reconcile.Options[prog.Pin]{
		Log: log, CompareEvery: compareAttachments, MaxBackoff: compareAttachments,
		Equal: func(want, is prog.Pin) bool { return want == is },
	})
	return t, nil
}

// Run keeps programs and pins in place until the context ends.
func (t *attachments) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return t.devicesWriter.Run(ctx) })
	group.Go(func() error { return t.pinsWriter.Run(ctx) })
	return group.Wait()
}

// want notes what a device should have.
func (t *attachments) want(dev datapath.Device) error {
	state, err := t.dp.Wanted(dev)
	if err == nil {
		t.devices.Upsert(dev, state)
	}
	return err
}

// attach waits until the device has its programs, or one try to put them there has failed.
func (t *attachments) attach(dev datapath.Device) error {
	if err := t.want(dev); err != nil {
		return err
	}
	return t.tried(dev)
}

// detach waits until the device has no programs, or one try to remove them has failed.
func (t *attachments) detach(dev datapath.Device) error {
	if _, wanted := t.devices.Delete(dev); !wanted {
		return t.dp.Detach(dev) // an earlier agent's
	}
	return t.tried(dev)
}

// attachWait is how long the kernel may take to attach programs, or to detach them.
const attachWait = 10 * time.Second

func (t *attachments) tried(dev datapath.Device) error {
	ctx, cancel := context.WithTimeout(context.Background(), attachWait)
	defer cancel()
	return t.devicesWriter.Tried(ctx, dev)
}

// missing says what is not enforced at this moment, nil for nothing.
func (t *attachments) missing() error {
	if err := t.devicesWriter.Status().LastError; err != nil {
		return fmt.Errorf("policy is not enforced on all devices: %w", err)
	}
	return nil
}

func (t *attachments) status() []reconcile.Status {
	return []reconcile.Status{t.devicesWriter.Status(), t.pinsWriter.Status()}
}

// openAttachments notes the devices that have their programs already: those which are
// not of workloads.
func (a *Agent) openAttachments(context.Context) (err error) {
	if a.attachments, err = newAttachments(a.dp, a.log); err != nil {
		return err
	}
	var errs []error
	for _, dev := range a.dp.OtherDevices() {
		errs = append(errs, a.attachments.want(dev))
	}
	return errors.Join(errs...)
}
