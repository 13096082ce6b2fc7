// SPDX-License-Identifier: Apache-2.0

package label

import (
	"fmt"
	"slices"
	"strings"
)

// Operator is how a Requirement compares.
type Operator string

// The operators of match expressions.
const (
	In           Operator = "In"
	NotIn        Operator = "NotIn"
	Exists       Operator = "Exists"
	DoesNotExist Operator = "DoesNotExist"
)

// Requirement is one condition on a label set. A Source of SourceAny or
// SourceUnspec matches labels of every source.
type Requirement struct {
	Source, Key string
	Operator    Operator
	Values      []string
}

// Selector is a list of requirements that must all hold. The zero value matches
// every set.
type Selector struct{ Requirements []Requirement }

// Matches reports whether the set meets every requirement. A key that is missing
// meets NotIn and DoesNotExist.
func (s Selector) Matches(set Set) bool {
	for i := range s.Requirements {
		if !s.Requirements[i].matches(set) {
			return false
		}
	}
	return true
}

func (r *Requirement) matches(set Set) bool {
	found, inValues := false, false
	for _, l := range set {
		if l.KeyMatches(r.Source, r.Key) {
			found = true
			inValues = inValues || slices.Contains(r.Values, l.Value)
		}
	}
	switch r.Operator {
	case In:
		return inValues
	case NotIn:
		return !inValues
	case Exists:
		return found
	case DoesNotExist:
		return !found
	}
	return false
}

// Names reports whether some requirement demands a label of the source itself,
// not of any source. One that only rules labels out names none.
func (s Selector) Names(source string) bool {
	return slices.ContainsFunc(s.Requirements, func(r Requirement) bool {
		return r.Source == source && (r.Operator == In || r.Operator == Exists)
	})
}

// String returns the requirements in a form for people, such as
// "any:id=app1, k8s:tier in (a, b)"; an empty selector is "{}".
func (s Selector) String() string {
	if len(s.Requirements) == 0 {
		return "{}"
	}
	texts := make([]string, len(s.Requirements))
	for i, r := range s.Requirements {
		texts[i] = r.String()
	}
	return strings.Join(texts, ", ")
}

// String returns the requirement in a form for people.
func (r Requirement) String() string {
	source := r.Source
	if source == SourceUnspec {
		source = SourceAny
	}
	key := source + ":" + r.Key
	switch r.Operator {
	case In:
		if len(r.Values) == 1 {
			return strings.TrimSuffix(key+"="+r.Values[0], "=")
		}
		return fmt.Sprintf("%s in (%s)", key, strings.Join(r.Values, ", "))
	case NotIn:
		return fmt.Sprintf("%s not in (%s)", key, strings.Join(r.Values, ", "))
	case Exists:
		return key + " exists"
	}
	return key + " does not exist"
}
