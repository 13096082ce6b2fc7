// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"errors"
	"testing"

	"cilium.local/cilium/internal/endpoint"
)

func TestAnEndpointWhoseDeviceGoesIsRemovedAndOthersAreNot(t *testing.T) {
	w := newWorld()
	m := w.manager(t, t.TempDir())
	gone, stays := mustCreate(t, m, app1(t)), mustCreate(t, m, endpoint.Spec{
		Labels: labels(t, "container:id=app2"), LabelsKnown: true,
	})
	delete(w.devices, gone.Device.HostName)

	w.lookups = errors.New("netlink is busy")
	if err := m.RemoveGone(t.Context()); err == nil || len(m.List()) != 2 {
		t.Errorf("while nothing is known: %v, %d endpoints", err, len(m.List()))
	}
	w.lookups = nil
	if err := m.RemoveGone(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := m.List(); len(all) != 1 || all[0].ID != stays.ID {
		t.Errorf("endpoints: %v", all)
	}
	if n := w.leftovers()["address "+gone.IPv4.String()]; n != 0 {
		t.Errorf("the address %s is still held", gone.IPv4)
	}
}

func TestAContainerWhoseDeviceIsGoneCanBeMadeAgainAtOnce(t *testing.T) {
	w := newWorld()
	m := w.manager(t, t.TempDir())
	before := mustCreate(t, m, app1(t))
	if _, err := m.Create(t.Context(), app1(t)); err == nil {
		t.Fatal("made twice")
	}
	delete(w.devices, before.Device.HostName)
	mustCreate(t, m, app1(t))
	if n := len(m.List()); n != 1 {
		t.Errorf("%d endpoints", n)
	}
}
