// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cilium.local/cilium/internal/endpoint"
)

func TestARestartChangesNothingOfALivingEndpoint(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	before := mustCreate(t, w.manager(t, dir), app1(t))
	w.takeCalls()

	m := w.manager(t, dir)
	if _, err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := m.Get(before.ID)
	if err != nil {
		t.Fatal(err)
	}
	ignore := cmp.Options{
		cmpopts.IgnoreFields(endpoint.Endpoint{}, "Log", "Created", "PolicyRevision"),
		cmpopts.EquateComparable(before.IPv4),
	}
	if diff := cmp.Diff(before, after, ignore); diff != "" {
		t.Errorf("endpoint changed (-before +after):\n%s", diff)
	}
	want := `claim endpoint 1
adopt container:id=app1
adopt-policy 6001
publish identity 1001 policy 6001
attach lxc1`
	if diff := cmp.Diff(want, w.takeCalls()); diff != "" {
		t.Errorf("steps (-want +is):\n%s", diff)
	}
}

func TestAnEndpointWhoseDeviceIsGoneIsCleanedUp(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	mustCreate(t, w.manager(t, dir), app1(t))
	delete(w.devices, "lxc1")
	w.takeCalls()
	m := w.manager(t, dir)
	alive, err := m.Load(t.Context())
	if err != nil || len(alive) != 0 {
		t.Fatalf("Load returned %v, %v", alive, err)
	}
	if calls := w.takeCalls(); !strings.Contains(calls, "withdraw 1") || !strings.Contains(calls, "flush 10.15.0.1") {
		t.Errorf("steps:\n%s", calls)
	}
	if _, err := os.Stat(filepath.Join(dir, "1.json")); err == nil {
		t.Error("the file is still there")
	}
	if e := mustCreate(t, m, app1(t)); e.ID != 2 {
		t.Errorf("number %d was used again at once", e.ID)
	}
}

func TestTornAndForeignFilesAreSetAsideAndTheOthersRestored(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	first := w.manager(t, dir)
	mustCreate(t, first, app1(t))
	mustCreate(t, first, endpoint.Spec{Labels: labels(t, "container:id=app2"), LabelsKnown: true})
	whole, err := os.ReadFile(filepath.Join(dir, "1.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"1.json": whole[:len(whole)/2],
		"3.json": nil,
		"4.json": []byte(strings.Replace(string(whole), `"version": 1`, `"version": 99`, 1)),
		"5.json": whole,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := w.manager(t, dir)
	alive, err := m.Load(t.Context())
	if err != nil || len(alive) != 1 || alive[0].ID != 2 {
		t.Fatalf("Load returned %v, %v", alive, err)
	}
	bad, _ := filepath.Glob(filepath.Join(dir, "*.bad"))
	if len(bad) != 4 {
		t.Errorf("set aside: %v", bad)
	}
}

func TestARestoredEndpointWhoseIdentityIsLostIsClosedAndIdentifiedAgain(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	mustCreate(t, w.manager(t, dir), app1(t))
	w.breakCall("adopt", errors.New("it stands for others now"))
	m := w.manager(t, dir)
	alive, err := m.Load(t.Context())
	if err != nil || len(alive) != 1 || alive[0].PolicyID != 0 || alive[0].Identity != 5 {
		t.Fatalf("Load returned %+v, %v", alive, err)
	}
}

func TestARestartDuringACreationRollsItBack(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	mustCreate(t, w.manager(t, dir), app1(t))
	path := filepath.Join(dir, "1.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), `"state": "ready"`, `"state": "creating"`, 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	alive, err := w.manager(t, dir).Load(t.Context())
	if err != nil || len(alive) != 0 {
		t.Fatalf("Load returned %v, %v", alive, err)
	}
	if _, err := w.Index("lxc1"); err == nil {
		t.Error("the device is still there")
	}
}
