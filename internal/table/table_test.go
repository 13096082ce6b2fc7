// SPDX-License-Identifier: Apache-2.0

package table_test

import (
	"maps"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cilium.local/cilium/internal/table"
)

type change = table.Change[string, int]

func TestRowsAndRevisions(t *testing.T) {
	tb := table.New[string, int]("numbers")
	if tb.Name() != "numbers" || tb.Revision() != 0 || tb.Len() != 0 {
		t.Fatalf("a new table is not empty: %s revision %d, %d rows", tb.Name(), tb.Revision(), tb.Len())
	}
	if rev := tb.Upsert("a", 1); rev != 1 {
		t.Errorf("first revision is %d, want 1", rev)
	}
	tb.Upsert("b", 2)
	if rev := tb.Upsert("a", 3); rev != 3 {
		t.Errorf("third revision is %d, want 3", rev)
	}
	if v, rev, ok := tb.Get("a"); v != 3 || rev != 3 || !ok {
		t.Errorf("Get(a) = %d, %d, %t; want 3, 3, true", v, rev, ok)
	}
	if rev, existed := tb.Delete("a"); rev != 4 || !existed {
		t.Errorf("Delete(a) = %d, %t; want 4, true", rev, existed)
	}
	if rev, existed := tb.Delete("a"); rev != 4 || existed {
		t.Errorf("second Delete(a) = %d, %t; want 4, false", rev, existed)
	}
	if _, _, ok := tb.Get("a"); ok {
		t.Error("a deleted row is still found")
	}
	if diff := cmp.Diff(map[string]int{"b": 2}, maps.Collect(tb.All())); diff != "" {
		t.Error(diff)
	}
}

func TestSnapshotIterationMayChangeTheTable(t *testing.T) {
	tb := table.New[string, int]("numbers")
	tb.Upsert("a", 1)
	tb.Upsert("b", 2)
	for k := range tb.All() {
		tb.Delete(k)
		tb.Upsert(k+k, 0)
	}
	if diff := cmp.Diff(map[string]int{"aa": 0, "bb": 0}, tb.Snapshot()); diff != "" {
		t.Error(diff)
	}
}

func TestChangedSignalsEveryKindOfChange(t *testing.T) {
	tb := table.New[string, int]("numbers")
	steps := map[string]func(){
		"upsert":   func() { tb.Upsert("a", 1) },
		"delete":   func() { tb.Upsert("x", 1); tb.Delete("x") },
		"complete": tb.MarkComplete,
	}
	for name, step := range steps {
		changed := tb.Changed()
		select {
		case <-changed:
			t.Errorf("signal before %s", name)
		default:
		}
		step()
		select {
		case <-changed:
		default:
			t.Errorf("no signal after %s", name)
		}
	}
	quiet := tb.Changed()
	tb.MarkComplete()
	tb.Delete("never stored")
	select {
	case <-quiet:
		t.Error("signal although nothing changed")
	default:
	}
}

func TestCursorReportsEachKeyOnceAndInOrder(t *testing.T) {
	tb := table.New[string, int]("numbers")
	tb.Upsert("old", 1)
	c := tb.Follow()
	defer c.Close()
	tb.Upsert("a", 1)
	tb.Upsert("b", 1)
	tb.Upsert("a", 2)
	tb.Upsert("gone", 1)
	tb.Delete("gone")
	got, rev := c.Next()
	want := []change{{Key: "old", Value: 1, Revision: 1}, {Key: "b", Value: 1, Revision: 3}, {Key: "a", Value: 2, Revision: 4}}
	if diff := cmp.Diff(want, got); diff != "" || rev != 6 {
		t.Errorf("revision %d, %s", rev, diff)
	}
	tb.Delete("b")
	tb.Upsert("c", 1)
	tb.Delete("c")
	tb.Upsert("c", 2)
	got, _ = c.Next()
	want = []change{{Key: "b", Revision: 7, Deleted: true}, {Key: "c", Value: 2, Revision: 10}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, _ = c.Next(); got != nil {
		t.Errorf("changes without a change: %v", got)
	}
}

// Whatever happens and whenever each cursor reads, replaying a cursor's changes
// gives the table.
func TestReplayEqualsTableInEveryOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tb := table.New[int, int]("model")
		model := map[int]int{}
		cursors := map[*table.Cursor[int, int]]map[int]int{}
		read := func(c *table.Cursor[int, int]) {
			changes, _ := c.Next()
			for _, ch := range changes {
				if ch.Deleted {
					delete(cursors[c], ch.Key)
				} else {
					cursors[c][ch.Key] = ch.Value
				}
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			k := rapid.IntRange(0, 5).Draw(t, "key")
			switch rapid.IntRange(0, 5).Draw(t, "op") {
			case 0, 1:
				v := rapid.IntRange(0, 9).Draw(t, "value")
				tb.Upsert(k, v)
				model[k] = v
			case 2, 3:
				tb.Delete(k)
				delete(model, k)
			case 4:
				cursors[tb.Follow()] = map[int]int{}
			case 5:
				for c := range cursors {
					if rapid.Bool().Draw(t, "reads") {
						read(c)
					}
				}
			}
			if diff := cmp.Diff(model, tb.Snapshot()); diff != "" || tb.Len() != len(model) {
				t.Fatalf("%d rows: %s", tb.Len(), diff)
			}
		}
		for c := range cursors {
			read(c)
			if diff := cmp.Diff(model, cursors[c]); diff != "" {
				t.Fatal(diff)
			}
			c.Close()
		}
	})
}

func TestConcurrentWritersAndReaders(t *testing.T) {
	tb := table.New[int, int]("busy")
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 500 {
				tb.Upsert(w*1000+i, i)
				if i%2 == 0 {
					tb.Delete(w*1000 + i)
				}
			}
		})
	}
	c := tb.Follow()
	defer c.Close()
	seen := map[int]bool{}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for finished := false; !finished; {
		select {
		case <-done:
			finished = true
		case <-tb.Changed():
		}
		changes, _ := c.Next()
		for _, ch := range changes {
			if ch.Deleted {
				delete(seen, ch.Key)
			} else {
				seen[ch.Key] = true
			}
		}
	}
	if len(seen) != 1000 || tb.Len() != 1000 {
		t.Errorf("%d rows followed, %d in the table, want 1000", len(seen), tb.Len())
	}
}

func BenchmarkUpsertAndFollow(b *testing.B) {
	tb := table.New[int, int]("bench")
	c := tb.Follow()
	defer c.Close()
	for i := range 50000 {
		tb.Upsert(i, 0)
	}
	c.Next()
	for i := 0; b.Loop(); i++ {
		tb.Upsert(i%50000, i)
		if changes, _ := c.Next(); len(changes) != 1 {
			b.Fatal("lost a change")
		}
	}
}
