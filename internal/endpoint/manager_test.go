// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/identity"
)

func app1(t *testing.T) endpoint.Spec {
	return endpoint.Spec{
		Labels: labels(t, "container:id=app1", "container:noise=x"), LabelsKnown: true, NetNS: "/run/netns/a",
		External: endpoint.External{ContainerID: "0123456789abcdef", ContainerName: "web", DockerEndpointID: "d1"},
	}
}

func mustCreate(t *testing.T, m *endpoint.Manager, spec endpoint.Spec) endpoint.Endpoint {
	t.Helper()
	e, err := m.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestWhatIsNotedIsInTheLogOnce(t *testing.T) {
	m := newWorld().manager(t, t.TempDir())
	id := mustCreate(t, m, app1(t)).ID
	for _, message := range []string{"labels are left out", "labels are left out", ""} {
		if err := m.Note(id, message); err != nil {
			t.Fatal(err)
		}
	}
	e, err := m.Lookup("1")
	if err != nil {
		t.Fatal(err)
	}
	last := e.Log[len(e.Log)-1]
	if last.Message != "labels are left out" || last.State != endpoint.StateReady || e.Log[len(e.Log)-2].Message == last.Message {
		t.Errorf("log: %+v", e.Log)
	}
	if err := m.Note(id+1, "x"); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("an endpoint that is not there: %v", err)
	}
}

// TestPolicyAndProgramsAreInTheKernelBeforeTheEndpointIsKnown checks the order of
// what depends on each other; the device is made while the policy is on its way.
func TestPolicyAndProgramsAreInTheKernelBeforeTheEndpointIsKnown(t *testing.T) {
	w := newWorld()
	e := mustCreate(t, w.manager(t, t.TempDir()), app1(t))
	calls := strings.Split(w.takeCalls(), "\n")
	for _, order := range [][]string{
		{"claim endpoint 1", "allocate container:id=app1", "policy container:id=app1", "publish identity 1001 policy 6001", "configure /run/netns/a"},
		{"claim endpoint 1", "device lxc1", "attach lxc1", "publish identity 1001 policy 6001"},
	} {
		last := -1
		for _, step := range order {
			at := slices.Index(calls, step)
			if at <= last {
				t.Errorf("step %q is at %d, after one at %d, in %q", step, at, last, calls)
			}
			last = at
		}
	}
	if len(calls) != 7 {
		t.Errorf("%d steps: %q", len(calls), calls)
	}
	if e.State != endpoint.StateReady || e.Device.IfIndex == 0 || e.PolicyRevision != 1 {
		t.Errorf("endpoint %+v", e)
	}
}

func TestAFailedStepUndoesThoseBeforeItAndLeavesNothing(t *testing.T) {
	for _, name := range []string{"claim", "policy", "device", "publish", "attach", "configure"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			m := w.manager(t, t.TempDir())
			w.breakCall(name, errors.New("no room"))
			_, err := m.Create(t.Context(), app1(t))
			if err == nil || !strings.Contains(err.Error(), "no room") {
				t.Fatalf("Create returned %v", err)
			}
			if left := w.leftovers(); len(left) > 0 || len(w.wanted) > 0 {
				t.Errorf("left over: %v, rows %v", left, w.wanted)
			}
			if list := m.List(); len(list) > 0 {
				t.Errorf("still listed: %v", list)
			}
			w.breakCall(name, nil)
			if e := mustCreate(t, m, app1(t)); e.ID == 1 {
				t.Error("the number was used again at once")
			}
		})
	}
}

func TestWithoutAStoreTheEndpointIsClosedAndSettlesLater(t *testing.T) {
	w := newWorld()
	m := w.manager(t, t.TempDir())
	w.breakCall("allocate", errors.New("store unreachable"))
	e := mustCreate(t, m, app1(t))
	if e.State != endpoint.StateWaitingForIdentity || e.Identity != 5 {
		t.Fatalf("endpoint %+v", e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	w.breakCall("allocate", nil)
	deadline := time.Now().Add(3 * time.Second)
	for e.State != endpoint.StateReady && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
		e, _ = m.Get(e.ID)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if e.State != endpoint.StateReady || e.IdentityLabels.String() != "container:id=app1" {
		t.Errorf("endpoint %+v", e)
	}
	if held := w.leftovers()["identity reserved:init"]; held != 0 {
		t.Errorf("identity init still held %d times", held)
	}
}

func TestRetriesSlowDownWhileTheStoreIsAway(t *testing.T) {
	w := newWorld()
	m := w.manager(t, t.TempDir())
	w.breakCall("allocate", errors.New("store unreachable"))
	e := mustCreate(t, m, app1(t))
	w.takeCalls()
	ctx, cancel := context.WithTimeout(t.Context(), 800*time.Millisecond)
	defer cancel()
	if err := m.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if tries := strings.Count(w.takeCalls(), "allocate"); tries == 0 || tries > 4 {
		t.Errorf("%d tries in 800 ms", tries)
	}
	if e, _ = m.Get(e.ID); len(e.Log) > 4 {
		t.Errorf("log: %v", e.Log)
	}
}

func TestUnknownLabelsKeepAnEndpointClosedUntilTheyAreSet(t *testing.T) {
	w := newWorld()
	m := w.manager(t, t.TempDir())
	e := mustCreate(t, m, endpoint.Spec{External: endpoint.External{DockerEndpointID: "d1"}})
	if e.State != endpoint.StateWaitingForIdentity || e.Identity != 5 {
		t.Fatalf("endpoint %+v", e)
	}
	w.takeCalls()
	if err := m.SetContainer(t.Context(), e.ID, "0123456789abcdef", "web", labels(t, "container:id=app2")); err != nil {
		t.Fatal(err)
	}
	e, err := m.Lookup("container-name:web")
	if err != nil || e.State != endpoint.StateReady {
		t.Fatalf("endpoint %+v, %v", e, err)
	}
	calls := strings.Split(w.takeCalls(), "\n")
	if len(calls) != 5 || !strings.HasPrefix(calls[1], "policy ") || !strings.HasPrefix(calls[2], "publish ") ||
		calls[3] != "drop-policy 5" || calls[4] != "release reserved:init" {
		t.Errorf("steps: %q", calls)
	}
}

func TestAWorkloadKnownToHaveNoLabelsGetsAnIdentityOfItsOwn(t *testing.T) {
	m := newWorld().manager(t, t.TempDir())
	e := mustCreate(t, m, endpoint.Spec{LabelsKnown: true, Labels: labels(t, "container:noise=x")})
	if e.State != endpoint.StateReady || e.IdentityLabels.String() != "unspec:unlabelled" {
		t.Errorf("endpoint %+v", e)
	}
}

func TestLabelsThatDoNotMatterChangeNoIdentity(t *testing.T) {
	w := newWorld()
	m := w.manager(t, t.TempDir())
	e := mustCreate(t, m, app1(t))
	w.takeCalls()
	if err := m.SetLabels(t.Context(), e.ID, labels(t, "container:id=app1", "container:noise=y")); err != nil {
		t.Fatal(err)
	}
	if calls := w.takeCalls(); calls != "" {
		t.Errorf("calls: %s", calls)
	}
}

func TestLabelsOfAPersonJoinThoseOfTheWorkload(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	m := w.manager(t, dir)
	e := mustCreate(t, m, app1(t))
	if err := m.SetUserLabels(t.Context(), e.ID, labels(t, "unspec:quarantined")); err != nil {
		t.Fatal(err)
	}
	m = w.manager(t, dir)
	if _, err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e, _ = m.Get(e.ID); e.IdentityLabels.String() != "container:id=app1 unspec:quarantined" || len(e.UserLabels) != 1 {
		t.Errorf("endpoint %+v", e)
	}
}

func TestAPolicyThatTheKernelRefusesClosesARelabelledEndpoint(t *testing.T) {
	w := newWorld()
	m := w.manager(t, t.TempDir())
	e := mustCreate(t, m, app1(t))
	w.breakCall("policy", errors.New("map full"))
	w.takeCalls()
	err := m.SetLabels(t.Context(), e.ID, labels(t, "container:id=app9"))
	if err == nil || !strings.Contains(err.Error(), "map full") {
		t.Fatalf("SetLabels returned %v", err)
	}
	if calls := w.takeCalls(); !strings.Contains(calls, "publish identity 1001 policy 0") {
		t.Errorf("not closed:\n%s", calls)
	}
	if e, _ = m.Get(e.ID); e.State != endpoint.StateNotReady || e.PolicyID != 0 {
		t.Errorf("endpoint %+v", e)
	}
	if h := e.Health(1); h.Overall != endpoint.HealthFailure || !h.Connected {
		t.Errorf("health %+v", h)
	}
}

func TestAnIdentityThatOthersGotIsTakenAwayAndChosenAnew(t *testing.T) {
	w := newWorld()
	m := w.manager(t, t.TempDir())
	e := mustCreate(t, m, app1(t))
	w.takeCalls()
	w.numbers["container:id=app1;"] = 2000
	if err := m.Revoke(t.Context(), identity.Identity{ID: e.Identity, Labels: e.IdentityLabels}); err != nil {
		t.Fatal(err)
	}
	if calls := w.takeCalls(); calls != "publish identity 5 policy 0\ndrop-policy 1001" {
		t.Errorf("steps:\n%s", calls)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := m.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if e, _ = m.Get(e.ID); e.Identity != 2000 || e.State != endpoint.StateReady {
		t.Errorf("endpoint %+v", e)
	}
}

func TestReservedLabelsAreRefused(t *testing.T) {
	m := newWorld().manager(t, t.TempDir())
	spec := app1(t)
	spec.Labels = labels(t, "reserved:host")
	if _, err := m.Create(t.Context(), spec); !errors.Is(err, endpoint.ErrInvalid) {
		t.Errorf("Create returned %v", err)
	}
}

func TestDeleteTakesTheDeviceAwayBeforeItsProgramsAndGivesEverythingBack(t *testing.T) {
	w := newWorld()
	m := w.manager(t, t.TempDir())
	e := mustCreate(t, m, app1(t))
	w.takeCalls()
	if err := m.Delete(t.Context(), e.ID); err != nil {
		t.Fatal(err)
	}
	want := `delete-device lxc1
detach lxc1
withdraw 1
flush 10.15.0.1
drop-policy 1001
release container:id=app1
unclaim endpoint 1 [10.15.0.1]`
	if diff := cmp.Diff(want, w.takeCalls()); diff != "" {
		t.Errorf("steps (-want +is):\n%s", diff)
	}
	if left := w.leftovers(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if err := m.Delete(t.Context(), e.ID); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("second Delete returned %v", err)
	}
}

func TestDeleteGoesOnAfterAFailedStepAndReportsIt(t *testing.T) {
	w := newWorld()
	m := w.manager(t, t.TempDir())
	e := mustCreate(t, m, app1(t))
	w.breakCall("withdraw", errors.New("map is gone"))
	err := m.Delete(t.Context(), e.ID)
	if err == nil || !strings.Contains(err.Error(), "map is gone") {
		t.Errorf("Delete returned %v", err)
	}
	// The kernel may have a row that names the policy, whose number thus stays taken.
	if left := fmt.Sprint(w.leftovers()); len(m.List()) != 0 || left != "map[policy 1001:1]" {
		t.Errorf("left over: %v %v", m.List(), left)
	}
}

func TestACreationThatCannotBeWithdrawnKeepsThePolicyNumber(t *testing.T) {
	w := newWorld()
	m := w.manager(t, t.TempDir())
	w.breakCall("configure", errors.New("no such namespace"))
	w.breakCall("withdraw", errors.New("map is gone"))
	if _, err := m.Create(t.Context(), app1(t)); err == nil {
		t.Error("Create succeeds")
	}
	if left := fmt.Sprint(w.leftovers()); left != "map[policy 1001:1]" {
		t.Errorf("left over: %v", left)
	}
}

func TestTracingThatFailsIsNotWanted(t *testing.T) {
	w := newWorld()
	m := w.manager(t, t.TempDir())
	e := mustCreate(t, m, app1(t))
	w.breakCall("publish", errors.New("timeout"))
	if err := m.SetTraced(t.Context(), e.ID, true); err == nil || w.wanted[e.ID].Traced {
		t.Errorf("SetTraced returned %v, wanted is %+v", err, w.wanted[e.ID])
	}
}

func TestANewPolicyIsLetGoWhenNoRowNamesItAnyMore(t *testing.T) {
	for name, want := range map[string]string{
		"publish once":   "publish identity 1002 policy 6002\nrelease container:id=app9\npublish identity 1001 policy 0\ndrop-policy 1001\ndrop-policy 1002",
		"publish always": "publish identity 1002 policy 6002\nrelease container:id=app9\npublish identity 1001 policy 0",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			m := w.manager(t, t.TempDir())
			e := mustCreate(t, m, app1(t))
			w.takeCalls()
			w.breakCall("publish", errors.New("map full"))
			w.once = name == "publish once"
			if err := m.SetLabels(t.Context(), e.ID, labels(t, "container:id=app9")); err == nil {
				t.Error("SetLabels succeeds")
			}
			if calls := w.takeCalls(); !strings.HasSuffix(calls, want) {
				t.Errorf("calls:\n%s", calls)
			}
		})
	}
}

func TestWhatBelongsToAnotherEndpointIsRefusedByName(t *testing.T) {
	m := newWorld().manager(t, t.TempDir())
	mustCreate(t, m, app1(t))
	for what, spec := range map[string]endpoint.Spec{
		"the number":          {ID: 1},
		"Docker endpoint d1":  {External: endpoint.External{DockerEndpointID: "d1"}},
		"address 10.15.0.1":   {IPv4: netip.MustParseAddr("10.15.0.1")},
		"container 012345678": {External: endpoint.External{ContainerID: "0123456789abcdef"}},
	} {
		_, err := m.Create(t.Context(), spec)
		if !errors.Is(err, endpoint.ErrConflict) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: Create returned %v", what, err)
		}
	}
}

func TestLookupKnowsEveryKindOfName(t *testing.T) {
	m := newWorld().manager(t, t.TempDir())
	mustCreate(t, m, app1(t))
	for _, ref := range []string{
		"1", "container-id:0123456789abcdef", "container-id:01234567", "container-name:web",
		"docker-endpoint:d1", "ipv4:10.15.0.1",
	} {
		if e, err := m.Lookup(ref); err != nil || e.ID != 1 {
			t.Errorf("Lookup(%q) = %d, %v", ref, e.ID, err)
		}
	}
	for _, ref := range []string{"0", "x", "70000", "ipv4:f00d::1", "ipv6:10.15.0.1", "colour:red", "container-name:"} {
		if _, err := m.Lookup(ref); !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("Lookup(%q) returned %v", ref, err)
		}
	}
	if _, err := m.Lookup("container-id:0123"); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("a short container id gave %v", err)
	}
}

func TestRevisionWaitEndsWhenAllEndpointsHaveIt(t *testing.T) {
	m := newWorld().manager(t, t.TempDir())
	mustCreate(t, m, app1(t))
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := m.WaitRevision(short, 7); err == nil || !strings.Contains(err.Error(), "[1]") {
		t.Errorf("WaitRevision returned %v", err)
	}
	m.Realized(7)
	if err := m.WaitRevision(t.Context(), 7); err != nil {
		t.Error(err)
	}
}

func TestARefusedPolicyShowsOnEndpointsUntilOneIsRealized(t *testing.T) {
	m := newWorld().manager(t, t.TempDir())
	e := mustCreate(t, m, app1(t))
	m.Failed(errors.New("10001 entries do not fit"))
	if e, _ = m.Get(e.ID); e.State != endpoint.StateNotReady {
		t.Errorf("state %s", e.State)
	}
	m.Realized(1)
	if e, _ = m.Get(e.ID); e.State != endpoint.StateReady {
		t.Errorf("state %s", e.State)
	}
}

func TestTheStatusLogIsBounded(t *testing.T) {
	m := newWorld().manager(t, t.TempDir())
	e := mustCreate(t, m, app1(t))
	for range 200 {
		m.Failed(errors.New("x"))
		m.Realized(2)
	}
	if e, _ = m.Get(e.ID); len(e.Log) != 64 {
		t.Errorf("%d lines", len(e.Log))
	}
}

func TestStatesFollowOnlyAsTheLifeOfAnEndpointAllows(t *testing.T) {
	for _, s := range endpoint.States {
		dying := s == endpoint.StateDisconnecting || s == endpoint.StateDisconnected
		if got := endpoint.CanFollow(s, endpoint.StateDisconnecting); got == dying {
			t.Errorf("%s may be deleted: %v", s, got)
		}
	}
	if endpoint.CanFollow(endpoint.StateCreating, endpoint.StateReady) {
		t.Error("creating skips the policy")
	}
}
