// SPDX-License-Identifier: Apache-2.0

package event

import (
	"errors"
	"testing"
	"time"
)

func TestEventsBearTheTimeThatTheWallClockIsSetTo(t *testing.T) {
	wall, boot := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), 100*time.Second
	var failure error
	c, err := newWallClock(func() (time.Time, time.Duration, error) { return wall, boot, failure })
	if err != nil {
		t.Fatal(err)
	}
	pass := func(d time.Duration) { wall, boot = wall.Add(d), boot+d }
	check := func(when string) {
		t.Helper()
		if got := c.at(boot); !got.Equal(wall) {
			t.Errorf("%s: %s, want %s", when, got, wall)
		}
	}
	check("at the start")
	pass(5 * time.Second)
	check("later")
	for _, jump := range []time.Duration{24 * time.Hour, -48 * time.Hour} {
		wall = wall.Add(jump)
		pass(2 * time.Second)
		check("after a jump of " + jump.String())
	}
	if got, want := c.at(boot-500*time.Millisecond), wall.Add(-500*time.Millisecond); !got.Equal(want) {
		t.Errorf("an event that waited: %s, want %s", got, want)
	}
	failure = errors.New("no clock")
	pass(2 * time.Second)
	check("while the clocks cannot be read")
}
