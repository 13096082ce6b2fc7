// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// quiet is how long no device may have come before the next one is settled:
// settling holds the kernel's network lock for two grace periods, some 20 ms, for
// which the next container would wait.
const quiet = 500 * time.Millisecond

// settler remembers the devices that have their programs the quick way.
type settler struct {
	mu      sync.Mutex
	pending map[Device]struct{}
	last    time.Time // when the newest one came
	wake    chan struct{}

	// busy is held while the attachment of a settled device changes.
	busy sync.Mutex
}

func newSettler() *settler {
	return &settler{pending: map[Device]struct{}{}, wake: make(chan struct{}, 1)}
}

func (s *settler) add(dev Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[dev] = struct{}{}
	s.last = time.Now()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *settler) remove(dev Device) (was bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, was = s.pending[dev]
	delete(s.pending, dev)
	return was
}

// next returns a device to settle now, or how long to wait before asking again;
// without either there is nothing to do.
func (s *settler) next(now time.Time) (dev Device, found bool, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait = quiet - now.Sub(s.last); len(s.pending) > 0 && wait > 0 {
		return Device{}, false, wait
	}
	for dev := range s.pending {
		return dev, true, 0
	}
	return Device{}, false, 0
}

// Settle gives the devices that came with filters their pinned links, one by one
// and while no other comes, until the context ends. A device that it fails for
// keeps its filters, which do the same.
func (d *Datapath) Settle(ctx context.Context, log *slog.Logger) {
	for {
		dev, found, wait := d.settler.next(time.Now())
		switch {
		case found:
			d.settle(dev, log)
		case wait > 0:
			pause(ctx, time.After(wait))
		default:
			pause(ctx, d.settler.wake)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func pause[T any](ctx context.Context, until <-chan T) {
	select {
	case <-ctx.Done():
	case <-until:
	}
}

func (d *Datapath) settle(dev Device, log *slog.Logger) {
	d.settler.busy.Lock()
	defer d.settler.busy.Unlock()
	if !d.settler.remove(dev) {
		return // detached meanwhile
	}
	if err := d.attachLinks(dev); err != nil {
		log.Debug("the device keeps its filters", "device", dev.Name, "error", err)
	}
}
