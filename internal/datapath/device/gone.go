// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Exists tells whether the caller's namespace has a device of that index. The kernel
// does not give an index out again before it has used all others.
func Exists(index int) (bool, error) {
	_, err := netlink.LinkByIndex(index)
	if IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find device %d: %w", index, err)
	}
	return true, nil
}

// WatchRemovals calls report after devices have left the namespace in which the caller
// is now, and at least every so often, since events may be lost, until the context ends.
func WatchRemovals(ctx context.Context, every time.Duration, report func()) error {
	ns, err := netns.Get()
	if err != nil {
		return fmt.Errorf("watch devices: open the namespace: %w", err)
	}
	defer func() { _ = ns.Close() }()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var updates chan netlink.LinkUpdate
	done := make(chan struct{})
	defer func() { close(done) }()
	for {
		if updates == nil {
			updates = make(chan netlink.LinkUpdate, 64)
			options := netlink.LinkSubscribeOptions{Namespace: &ns, ErrorCallback: func(error) {}}
			if err := netlink.LinkSubscribeWithOptions(updates, done, options); err != nil {
				updates = nil // the ticks remain, and the next one tries again
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case u, ok := <-updates:
			if !ok { // the kernel's queue has overflowed
				updates = nil
			} else if u.Header.Type != unix.RTM_DELLINK {
				continue
			}
		case <-tick.C:
		}
		report()
	}
}
