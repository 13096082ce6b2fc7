// SPDX-License-Identifier: Apache-2.0

package label

import "slices"

// Implies reports whether every set that the selector matches is matched by the
// other one too. It looks at requirements one by one: it may miss that it is so,
// but never says so wrongly.
func (s Selector) Implies(other Selector) bool {
	for _, o := range other.Requirements {
		if !slices.ContainsFunc(s.Requirements, func(r Requirement) bool { return r.implies(o) }) {
			return false
		}
	}
	return true
}

// Impossible reports whether no set can match, because requirements exclude each
// other. It may miss that, but never says so wrongly.
func (s Selector) Impossible() bool {
	return slices.ContainsFunc(s.Requirements, func(r Requirement) bool {
		switch r.Operator {
		case In:
			return !slices.ContainsFunc(r.Values, func(value string) bool { return s.leaves(r, value) })
		case Exists:
			return slices.ContainsFunc(s.Requirements, func(o Requirement) bool {
				return o.Operator == DoesNotExist && o.covers(r)
			})
		}
		return false
	})
}

// leaves reports whether a label that meets the requirement by this value can meet
// the others.
func (s Selector) leaves(r Requirement, value string) bool {
	return !slices.ContainsFunc(s.Requirements, func(o Requirement) bool {
		switch o.Operator {
		case In:
			return r.isSingle() && o.Source == r.Source && o.Key == r.Key && !slices.Contains(o.Values, value)
		case NotIn:
			return o.covers(r) && slices.Contains(o.Values, value)
		case DoesNotExist:
			return o.covers(r)
		}
		return false
	})
}

func (r Requirement) implies(o Requirement) bool {
	switch o.Operator {
	case In:
		return r.Operator == In && o.covers(r) && within(r.Values, o.Values)
	case Exists:
		return (r.Operator == In || r.Operator == Exists) && o.covers(r)
	case DoesNotExist:
		return r.Operator == DoesNotExist && r.covers(o)
	case NotIn:
		switch r.Operator {
		case DoesNotExist:
			return r.covers(o)
		case NotIn:
			return r.covers(o) && within(o.Values, r.Values)
		case In:
			return r.isSingle() && r.Source == o.Source && r.Key == o.Key && disjoint(r.Values, o.Values)
		}
	}
	return false
}

// covers reports whether every label that the other's key names is one that this
// key names.
func (r Requirement) covers(o Requirement) bool {
	return r.Key == o.Key && (!r.isSingle() || r.Source == o.Source)
}

// isSingle reports whether a set has at most one label that the key names.
func (r Requirement) isSingle() bool { return r.Source != SourceAny && r.Source != SourceUnspec }

func within(values, others []string) bool {
	return !slices.ContainsFunc(values, func(v string) bool { return !slices.Contains(others, v) })
}

func disjoint(values, others []string) bool {
	return !slices.ContainsFunc(values, func(v string) bool { return slices.Contains(others, v) })
}
