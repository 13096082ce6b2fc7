// SPDX-License-Identifier: Apache-2.0

package idalloc

import "cilium.local/cilium/internal/identity"

// WithNumbers leaves so few numbers that nodes pick the same ones.
func WithNumbers(n int) Option {
	return func(a *Allocator) { a.last = a.first + identity.ID(n) - 1 }
}
