// SPDX-License-Identifier: Apache-2.0

package agent

import "sync"

// maxMemo bounds what a memo remembers; beyond it everything is asked for again.
const maxMemo = 4096

// memo remembers what was found out about a key, for events that come by the
// thousand and are about few. What a key stands for must not change.
type memo[K comparable, V any] struct {
	mu    sync.RWMutex
	known map[K]V
}

// get returns what is remembered, or what find says; a failure is not remembered.
func (m *memo[K, V]) get(key K, find func(K) (V, bool)) V {
	m.mu.RLock()
	value, ok := m.known[key]
	m.mu.RUnlock()
	if ok {
		return value
	}
	if value, ok = find(key); !ok {
		return value
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= maxMemo {
		m.known = map[K]V{}
	}
	m.known[key] = value
	return value
}
