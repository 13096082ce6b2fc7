// SPDX-License-Identifier: Apache-2.0

package device

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
)

// InNamespace runs fn on a thread that is in the network namespace at path, for
// as long as fn runs. Goroutines that fn starts are elsewhere; sockets that it
// opens stay in the namespace. A thread that cannot go back is thrown away
// instead of being used for something else in the wrong place.
func InNamespace(path string, fn func() error) error {
	target, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer func() { _ = target.Close() }()

	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		origin, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open the current network namespace: %w", err)
			return
		}
		defer func() { _ = origin.Close() }()
		if err := netns.Set(target); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace %s: %w", path, err)
			return
		}
		// A panic, or a goroutine that ends itself as tests do, must not leave
		// the caller waiting.
		err = fmt.Errorf("work in network namespace %s ended early", path)
		defer func() {
			// Without the unlock the runtime ends the thread with the goroutine.
			if netns.Set(origin) == nil {
				runtime.UnlockOSThread()
			}
			done <- err
		}()
		err = fn()
	}()
	return <-done
}
