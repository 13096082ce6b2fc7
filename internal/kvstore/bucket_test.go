// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"testing"
	"time"
)

func TestBucketLetsWaitersBorrowAndTheBackgroundWait(t *testing.T) {
	b, now := newBucket(100, 200), time.Unix(1000, 0)
	for i, step := range []struct {
		after  time.Duration
		n      int
		borrow bool
		want   time.Duration
	}{
		{0, 200, false, 0},                               // the burst
		{0, 50, false, 500 * time.Millisecond},           // 50 short
		{0, 100, true, 0},                                // 150 short, borrowed
		{0, 50, true, 0},                                 // 200 short, as much as may be
		{0, 10, true, 100 * time.Millisecond},            // more is not
		{time.Second, 1, false, 1110 * time.Millisecond}, // 211 short less 100
		{time.Hour, 200, false, 0},                       // full, and no fuller
		{0, 1, false, 10 * time.Millisecond},
		{-time.Hour, 0, false, 10 * time.Millisecond}, // no clock makes tokens
		{time.Second, 0, false, 0},
	} {
		now = now.Add(step.after)
		if got := b.take(now, step.n, step.borrow); got.Round(time.Millisecond) != step.want {
			t.Errorf("step %d: wait %s, want %s", i, got, step.want)
		}
	}
}
