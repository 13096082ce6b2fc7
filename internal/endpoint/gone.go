// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"errors"
)

// RemoveGone deletes the endpoints whose device the kernel does not have any more: their
// workloads' namespaces went without anybody saying so. Their addresses and containers
// may be used again.
func (m *Manager) RemoveGone(ctx context.Context) error {
	var errs []error
	for _, e := range m.List() {
		if ctx.Err() != nil || !connected(&e) {
			continue
		}
		there, err := m.with.Devices.Exists(e.Device.IfIndex)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if there {
			continue
		}
		m.log.Warn("the device of an endpoint is gone: the endpoint is removed", "endpoint", e.ID,
			"device", e.Device.HostName, "container", e.External.ContainerID)
		if err := m.Delete(ctx, e.ID); err != nil && !errors.Is(err, ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// connected says that the endpoint has a device that nobody is making or removing.
func connected(e *Endpoint) bool { return restorable(e.State) && e.Device.IfIndex != 0 }
