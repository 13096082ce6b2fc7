// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"fmt"
	"strconv"
)

// Goal is a bound that a figure should keep. The zero value is no goal.
type Goal struct {
	Limit float64
	// Least says that the figure is to be at least the limit, and not at most.
	Least bool
	set   bool
}

// AtMost is a goal from above.
func AtMost(limit float64) Goal { return Goal{Limit: limit, set: true} }

// AtLeast is a goal from below.
func AtLeast(limit float64) Goal { return Goal{Limit: limit, Least: true, set: true} }

// Set tells whether there is a goal at all.
func (g Goal) Set() bool { return g.set }

// String is the goal in mathematics' words, empty for none.
func (g Goal) String() string {
	sign := "≤"
	switch {
	case !g.set:
		return ""
	case g.Least:
		sign = "≥"
	}
	return fmt.Sprintf("%s %s", sign, strconv.FormatFloat(g.Limit, 'g', -1, 64))
}

// Verdict says how a figure stands to its goal.
type Verdict int

// The verdicts.
const (
	NoGoal Verdict = iota
	Met            // the figure keeps the bound
	Open           // it does not, but the bound is within what it may be
	Missed         // all that it may be lies beyond the bound
)

// String is the verdict in a word.
func (v Verdict) String() string {
	return [...]string{"", "met", "open", "missed"}[v]
}

// Judge compares an estimate with the goal. Only what lies beyond the bound with
// its whole interval is missed: chance alone must not say so.
func (g Goal) Judge(e Estimate) Verdict {
	keeps := func(v float64) bool { return v <= g.Limit }
	best := e.Low
	if g.Least {
		keeps = func(v float64) bool { return v >= g.Limit }
		best = e.High
	}
	switch {
	case !g.set:
		return NoGoal
	case keeps(e.Value):
		return Met
	case keeps(best):
		return Open
	}
	return Missed
}
