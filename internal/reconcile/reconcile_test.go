// SPDX-License-Identifier: Apache-2.0

package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"cilium.local/cilium/internal/reconcile"
	"cilium.local/cilium/internal/table"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is a target in memory whose writes can be made to fail.
type store struct {
	mu     sync.Mutex
	rows   map[string]int
	broken map[string]error // by key; "" breaks Dump
	writes []string
}

func newStore(rows map[string]int) *store {
	return &store{rows: maps.Clone(rows), broken: map[string]error{}}
}

func (s *store) Update(k string, v int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, fmt.Sprintf("%s=%d", k, v))
	if err := s.broken[k]; err != nil {
		return err
	}
	s.rows[k] = v
	return nil
}

func (s *store) Delete(k string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, "-"+k)
	if err := s.broken[k]; err != nil {
		return err
	}
	delete(s.rows, k)
	return nil
}

func (s *store) Dump() (map[string]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.rows), s.broken[""]
}

func (s *store) breakRow(k string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken[k] = err
}

func (s *store) set(k string, v int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[k] = v
}

func (s *store) takeWrites() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := strings.Join(s.writes, " ")
	s.writes = nil
	return text
}

func (s *store) expect(t *testing.T, want map[string]int) {
	t.Helper()
	is, _ := s.Dump()
	if diff := cmp.Diff(want, is); diff != "" {
		t.Errorf("target differs (-want +is):\n%s", diff)
	}
}

// run starts a reconciler in the present synctest bubble; it ends with the test.
func run(t *testing.T, tb *table.Table[string, int], s *store) *reconcile.Reconciler[string, int] {
	t.Helper()
	r := reconcile.New(tb, s, reconcile.Options[int]{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	synctest.Wait()
	return r
}

func TestAppliesChangesAndWaitReturnsOnlyThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb, s := table.New[string, int]("rows"), newStore(map[string]int{})
		rev := tb.Upsert("a", 1)
		r := reconcile.New(tb, s, reconcile.Options[int]{})
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Wait(short, rev); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Wait before Run returned %v", err)
		}
		r = run(t, tb, s)
		if err := r.Wait(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
		s.expect(t, map[string]int{"a": 1})
		tb.Upsert("b", 2)
		rev, _ = tb.Delete("a")
		if err := r.Wait(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
		s.expect(t, map[string]int{"b": 2})
		if st := r.Status(); st.Applied != 3 || st.Failing != 0 || st.LastError != nil {
			t.Errorf("status %+v", st)
		}
	})
}

func TestRestartWritesOnlyDifferencesAndPrunesOnlyWhenComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := table.New[string, int]("rows")
		s := newStore(map[string]int{"same": 1, "changed": 1, "restored later": 3, "leftover": 9})
		tb.Upsert("same", 1)
		tb.Upsert("changed", 2)
		r := run(t, tb, s)
		if got := s.takeWrites(); got != "changed=2" {
			t.Errorf("writes at start: %q", got)
		}
		time.Sleep(time.Hour)
		s.expect(t, map[string]int{"same": 1, "changed": 2, "restored later": 3, "leftover": 9})
		s.takeWrites()

		tb.Upsert("restored later", 3)
		tb.MarkComplete()
		if err := r.WaitPruned(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.expect(t, map[string]int{"same": 1, "changed": 2, "restored later": 3})
		if !r.Status().Pruned {
			t.Error("status does not say that leftovers are gone")
		}
	})
}

func TestFailingRowIsRetriedWithGrowingWaitsAndHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb, s := table.New[string, int]("rows"), newStore(map[string]int{})
		r := run(t, tb, s)
		s.breakRow("bad", errors.New("map full"))
		bad := tb.Upsert("bad", 1)
		tb.Upsert("good", 1)
		if err := r.WaitKey(t.Context(), "good"); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := r.Wait(short, bad)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "update row bad of table rows: map full") {
			t.Fatalf("Wait for a failing row returned %v", err)
		}
		// 0, 50, 150, 350 … 6350 ms: eight tries in ten seconds.
		if tries := strings.Count(s.takeWrites(), "bad=1"); tries != 8 {
			t.Errorf("%d tries in 10 s, want 8", tries)
		}
		if st := r.Status(); st.Failing != 1 || st.LastError == nil || time.Since(st.Since) != 10*time.Second {
			t.Errorf("status %+v", st)
		}
		tb.Upsert("bad", 2)
		s.breakRow("bad", nil)
		if err := r.WaitKey(t.Context(), "bad"); err != nil {
			t.Fatal(err)
		}
		if err := r.Wait(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
		s.expect(t, map[string]int{"bad": 2, "good": 1})
		if st := r.Status(); st.Failing != 0 || st.LastError != nil {
			t.Errorf("status after recovery %+v", st)
		}
	})
}

func TestFailedDeleteIsRetriedAndOvertakenByNewRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb, s := table.New[string, int]("rows"), newStore(map[string]int{})
		tb.Upsert("a", 1)
		r := run(t, tb, s)
		s.breakRow("a", errors.New("busy"))
		tb.Delete("a")
		synctest.Wait()
		if r.Status().Failing != 1 {
			t.Fatal("failed delete is not booked")
		}
		s.breakRow("a", nil)
		rev := tb.Upsert("a", 5)
		if err := r.Wait(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		s.expect(t, map[string]int{"a": 5})
	})
}

func TestComparisonRepairsWhatOthersChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb, s := table.New[string, int]("rows"), newStore(map[string]int{})
		tb.Upsert("a", 1)
		tb.MarkComplete()
		r := run(t, tb, s)
		s.set("a", 7)
		s.set("intruder", 1)
		time.Sleep(6 * time.Minute)
		s.expect(t, map[string]int{"a": 1})
		if st := r.Status(); st.Repaired != 2 {
			t.Errorf("status counts %d repaired rows, want 2", st.Repaired)
		}
	})
}

func TestUnreadableTargetIsStillWrittenAndComparedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb, s := table.New[string, int]("rows"), newStore(map[string]int{"leftover": 1})
		s.breakRow("", errors.New("no such map"))
		tb.Upsert("a", 1)
		tb.Upsert("b", 1)
		tb.MarkComplete()
		r := run(t, tb, s)
		if err := r.WaitKey(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if st := r.Status(); st.LastError == nil || st.Pruned || st.Since.IsZero() {
			t.Errorf("status %+v", st)
		}
		s.breakRow("", nil)
		tb.Delete("b") // arrives together with the first comparison that works
		if err := r.WaitPruned(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.expect(t, map[string]int{"a": 1})
	})
}

func TestFailedPruneIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb, s := table.New[string, int]("rows"), newStore(map[string]int{"leftover": 1})
		s.breakRow("leftover", errors.New("busy"))
		tb.MarkComplete()
		r := run(t, tb, s)
		if r.Status().Pruned {
			t.Error("pruned although the delete failed")
		}
		s.breakRow("leftover", nil)
		if err := r.WaitPruned(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.expect(t, map[string]int{})
	})
}

// Output depends on the state, not on the path to it: after any history with
// failures, restarts and foreign writes, the target equals the table.
func TestTargetEqualsTableAfterAnyHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		keys := rapid.SampledFrom([]string{"a", "b", "c", ""})
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) [3]any {
			return [3]any{rapid.IntRange(0, 6).Draw(rt, "op"), keys.Draw(rt, "key"), rapid.IntRange(0, 3).Draw(rt, "value")}
		}), 1, 25).Draw(rt, "steps")
		synctest.Test(t, func(t *testing.T) {
			tb, s := table.New[string, int]("rows"), newStore(map[string]int{"left": 1})
			ctx, cancel := context.WithCancel(t.Context())
			r := reconcile.New(tb, s, reconcile.Options[int]{})
			done := make(chan error)
			go func() { done <- r.Run(ctx) }()
			for _, step := range steps {
				op, k, v := step[0].(int), step[1].(string), step[2].(int)
				switch op {
				case 0, 1:
					tb.Upsert(k, v)
				case 2:
					tb.Delete(k)
				case 3:
					s.breakRow(k, errors.New("broken"))
				case 4:
					s.breakRow(k, nil)
				case 5:
					s.set(k, v)
				case 6:
					time.Sleep(time.Duration(v) * time.Minute)
				}
			}
			for _, k := range []string{"a", "b", "c", ""} {
				s.breakRow(k, nil)
			}
			tb.MarkComplete()
			time.Sleep(6 * time.Minute)
			s.expect(t, tb.Snapshot())
			if err := r.Wait(ctx, tb.Revision()); err != nil {
				t.Error(err)
			}
			cancel()
			<-done
		})
	})
}
