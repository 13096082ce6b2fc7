// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/binary"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
)

// lot remembers the columns of one change, by what has a part in them: peers of
// which the same is said are worked out once.
type lot struct {
	columns *columns
	known   map[string]*column
	key     []byte
}

// get returns the column of a peer, with a reference.
func (l *lot) get(e *Engine, s *subject, v *view, d policy.Direction, id identity.ID) *column {
	special := id == AnyPeer || id == identity.Host // say more than attachments do
	l.key = l.key[:0]
	e.about(s, d, id, func(a *attachment) {
		l.key = binary.LittleEndian.AppendUint64(l.key, a.number)
		// A port by name has another number at each peer.
		special = special || d == policy.Egress && a.set != nil && a.term.NamesPorts()
	})
	if special {
		return l.columns.share(e.compute(s, v, d, id))
	}
	if c, ok := l.known[string(l.key)]; ok {
		return l.columns.again(c)
	}
	c := l.columns.share(e.compute(s, v, d, id))
	if l.known == nil {
		l.known = map[string]*column{}
	}
	l.known[string(l.key)] = l.columns.again(c)
	return c
}

// free ends the references that the lot itself has.
func (l *lot) free() {
	for _, c := range l.known {
		l.columns.release(c)
	}
}
