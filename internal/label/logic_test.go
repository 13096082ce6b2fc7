// SPDX-License-Identifier: Apache-2.0

package label_test

import (
	"math/rand/v2"
	"testing"

	"cilium.local/cilium/internal/label"
)

func drawSelector(r *rand.Rand) label.Selector {
	var s label.Selector
	for range r.IntN(4) {
		q := label.Requirement{
			Source:   pick(r, "any", "unspec", "k8s", "container"),
			Key:      pick(r, "a", "b"),
			Operator: pick(r, label.In, label.NotIn, label.Exists, label.DoesNotExist),
		}
		if q.Operator == label.In || q.Operator == label.NotIn {
			for range 1 + r.IntN(3) {
				q.Values = append(q.Values, pick(r, "1", "2", "3"))
			}
		}
		s.Requirements = append(s.Requirements, q)
	}
	return s
}

func pick[T any](r *rand.Rand, options ...T) T { return options[r.IntN(len(options))] }

// everySet is every set of labels that the drawn selectors can tell apart.
func everySet() []label.Set {
	sets := []label.Set{nil}
	for _, source := range []string{"k8s", "container", "other"} {
		for _, key := range []string{"a", "b"} {
			for _, s := range sets {
				for _, value := range []string{"1", "2", "3", "4"} {
					sets = append(sets, label.NewSet(append(s[:len(s):len(s)], label.Label{Source: source, Key: key, Value: value})...))
				}
			}
		}
	}
	return sets
}

// TestLogicIsNeverWrong holds what is said of selectors against all sets.
func TestLogicIsNeverWrong(t *testing.T) {
	sets := everySet()
	r := rand.New(rand.NewPCG(3, 3))
	implied, impossible := 0, 0
	for range 2000 {
		a, b := drawSelector(r), drawSelector(r)
		implies, never := a.Implies(b), a.Impossible()
		if implies && len(b.Requirements) > 0 {
			implied++
		}
		if never {
			impossible++
		}
		for _, set := range sets {
			switch {
			case !implies && !never || !a.Matches(set):
			case never:
				t.Fatalf("%s is said to match nothing, but matches %s", a, set)
			case !b.Matches(set):
				t.Fatalf("%s is said to imply %s, but %s tells them apart", a, b, set)
			}
		}
	}
	if implied < 50 || impossible < 50 {
		t.Errorf("only %d implications and %d contradictions were seen", implied, impossible)
	}
}

func TestLogicSeesWhatPeopleWrite(t *testing.T) {
	one := func(source, key string, operator label.Operator, values ...string) label.Selector {
		return label.Selector{Requirements: []label.Requirement{{Source: source, Key: key, Operator: operator, Values: values}}}
	}
	both := func(a, b label.Selector) label.Selector {
		return label.Selector{Requirements: append(a.Requirements[:1:1], b.Requirements...)}
	}
	a, ab := one("unspec", "id", label.In, "a"), one("any", "id", label.In, "a", "b")
	for _, s := range []label.Selector{
		both(a, one("unspec", "id", label.NotIn, "a")), both(ab, one("unspec", "id", label.NotIn, "a", "b", "c")),
		both(one("k8s", "id", label.In, "a"), one("k8s", "id", label.In, "b")), both(a, one("any", "id", label.DoesNotExist)),
		both(one("k8s", "id", label.Exists), one("any", "id", label.DoesNotExist)),
	} {
		if !s.Impossible() {
			t.Errorf("%s is thought to be possible", s)
		}
	}
	if both(a, one("any", "id", label.In, "b")).Impossible() {
		t.Error("two sources can give one key two values")
	}
	if !a.Implies(ab) || ab.Implies(a) || !a.Implies(label.Selector{}) || !a.Implies(one("any", "id", label.Exists)) {
		t.Error("a subset of values is not seen")
	}
}
