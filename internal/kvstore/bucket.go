// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"sync"
	"time"
)

// bucket limits the rate of writes. Background writes wait for their tokens;
// those that somebody waits for borrow as many as the bucket holds, and then
// wait, too. So a store that comes back is not flooded by what many nodes have
// kept for it, and a new workload is not queued behind that.
type bucket struct {
	rate, size float64 // tokens a second, and at most

	mu     sync.Mutex
	tokens float64 // negative: borrowed
	at     time.Time
}

func newBucket(rate, size int) *bucket {
	return &bucket{rate: float64(rate), size: float64(size), tokens: float64(size)}
}

// take pays for n writes, and returns how long to wait before they may be made.
func (b *bucket) take(now time.Time, n int, borrow bool) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if passed := now.Sub(b.at).Seconds(); b.at.IsZero() || passed < 0 {
		b.at = now
	} else {
		b.tokens, b.at = min(b.size, b.tokens+passed*b.rate), now
	}
	b.tokens -= float64(n)
	short := -b.tokens
	if borrow {
		short -= b.size
	}
	return time.Duration(max(0, short) / b.rate * float64(time.Second))
}

// wait takes and waits, or until ctx ends.
func (b *bucket) wait(ctx context.Context, n int, borrow bool) error {
	pause := b.take(time.Now(), n, borrow)
	if pause == 0 {
		return nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
