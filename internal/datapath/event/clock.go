// SPDX-License-Identifier: Apache-2.0

package event

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// lookEvery is how old what is known of the wall clock may be.
const lookEvery = time.Second

// wallClock turns readings of the boot clock, which events bear, into wall time. It
// looks at the wall clock again and again, since that is set and adjusted.
type wallClock struct {
	read   func() (wall time.Time, boot time.Duration, err error)
	zero   time.Time // wall time at which the boot clock was zero, by the last look
	looked time.Duration
}

func newWallClock(read func() (time.Time, time.Duration, error)) (*wallClock, error) {
	c := &wallClock{read: read}
	err := c.look()
	return c, err
}

func (c *wallClock) look() error {
	wall, boot, err := c.read()
	if err == nil {
		c.zero, c.looked = wall.Add(-boot), boot
	}
	return err
}

// at is the wall time of a reading.
func (c *wallClock) at(boot time.Duration) time.Time {
	if boot-c.looked >= lookEvery {
		_ = c.look() // what was known before is good enough
	}
	return c.zero.Add(boot)
}

// readClocks reads the wall clock and the boot clock.
func readClocks() (time.Time, time.Duration, error) {
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Time{}, 0, fmt.Errorf("read the boot clock: %w", err)
	}
	return time.Now(), time.Duration(boot.Nano()), nil
}
