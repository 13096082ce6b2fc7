// SPDX-License-Identifier: Apache-2.0

package label

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Set is a list of labels, sorted by source, key and value, without duplicates. A
// workload's has at most one label per source and key (NewSet); that of a rule, or
// what is asked for, may have several (Pairs). The zero value is the empty set.
type Set []Label

// NewSet returns the labels as a sorted set; of two labels with the same source
// and key the later one wins.
func NewSet(labels ...Label) Set {
	byKey := make(map[string]Label, len(labels))
	for _, l := range labels {
		byKey[l.FullKey()] = l
	}
	set := make(Set, 0, len(byKey))
	for _, l := range byKey {
		set = append(set, l)
	}
	slices.SortFunc(set, func(a, b Label) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Key, b.Key))
	})
	return set
}

// Pairs returns the labels as a sorted set, in which a source and key may have
// several values.
func Pairs(labels ...Label) Set {
	set := Set(slices.Clone(labels))
	slices.SortFunc(set, func(a, b Label) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Value, b.Value))
	})
	return slices.Compact(set)
}

// ParseSet parses each text as Parse does; of two values of a key the later wins.
func ParseSet(texts []string) (Set, error) {
	labels, err := parseAll(texts)
	return NewSet(labels...), err
}

// ParsePairs parses each text as Parse does, and keeps all values of a key.
func ParsePairs(texts []string) (Set, error) {
	labels, err := parseAll(texts)
	return Pairs(labels...), err
}

func parseAll(texts []string) ([]Label, error) {
	labels := make([]Label, 0, len(texts))
	for _, text := range texts {
		l, err := Parse(text)
		if err != nil {
			return nil, err
		}
		labels = append(labels, l)
	}
	return labels, nil
}

// Reserved returns the set {reserved:name}.
func Reserved(name string) Set {
	return Set{{Source: SourceReserved, Key: name}}
}

// Strings returns every label's text, in order.
func (s Set) Strings() []string {
	texts := make([]string, len(s))
	for i, l := range s {
		texts[i] = l.String()
	}
	return texts
}

// Key returns the text that names this set in the key-value store:
// "source:key=value;" for every label, sorted.
func (s Set) Key() string {
	var b strings.Builder
	for _, l := range s {
		b.WriteString(l.Source)
		b.WriteByte(':')
		b.WriteString(l.Key)
		b.WriteByte('=')
		b.WriteString(l.Value)
		b.WriteByte(';')
	}
	return b.String()
}

// ParseKey is the inverse of Key. It fails on text that Key cannot produce.
func ParseKey(text string) (Set, error) {
	var labels []Label
	for part := range strings.SplitSeq(strings.TrimSuffix(text, ";"), ";") {
		l, err := Parse(part)
		if err != nil {
			return nil, fmt.Errorf("label set %q: %w", text, err)
		}
		labels = append(labels, l)
	}
	set := NewSet(labels...)
	if set.Key() != text {
		return nil, fmt.Errorf("label set %q: not in canonical form, expected %q", text, set.Key())
	}
	return set, nil
}

// Get returns the first label that the selector key matches; see KeyMatches.
func (s Set) Get(source, key string) (Label, bool) {
	for _, l := range s {
		if l.KeyMatches(source, key) {
			return l, true
		}
	}
	return Label{}, false
}

// Carries reports whether the set has all the wanted labels. A wanted label
// without source matches every source; one without a value wants the empty value.
func (s Set) Carries(wanted Set) bool {
	for _, w := range wanted {
		if !slices.ContainsFunc(s, func(l Label) bool { return l.KeyMatches(w.Source, w.Key) && l.Value == w.Value }) {
			return false
		}
	}
	return true
}

// Equal reports whether both sets hold the same labels.
func (s Set) Equal(other Set) bool { return slices.Equal(s, other) }

// String returns the labels separated by blanks, for people.
func (s Set) String() string { return strings.Join(s.Strings(), " ") }
