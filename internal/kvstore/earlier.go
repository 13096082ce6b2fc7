// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// DropEarlier gives up what earlier processes with this Config.LeaseFile left
// below the prefixes, but for keys that this one wants by now: it is deleted when
// the store answers, instead of when their leases end. What a process gave up
// while the store was away, and could not tell before it ended, is among it.
func (s *Store) DropEarlier(prefixes ...string) {
	l := s.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropBelow = prefixes
	l.kick()
}

// loadEarlier reads the leases of earlier processes. A file that cannot be read
// costs time, until these leases end.
func (l *leases) loadEarlier() {
	file := l.store.cfg.LeaseFile
	if file == "" {
		return
	}
	data, err := os.ReadFile(file)
	for text := range strings.FieldsSeq(string(data)) {
		id, parseErr := strconv.ParseInt(text, 16, 64)
		if parseErr != nil {
			err = fmt.Errorf("%s: %w", file, parseErr)
			break
		}
		l.earlier = append(l.earlier, clientv3.LeaseID(id))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.store.log.Warn("what an earlier run left in the key-value store stays until its lease ends", "error", err)
	}
}

// saveLeases writes down the leases that a later process has to look at. The
// caller holds mu. It need not survive the machine's death: leases end.
func (l *leases) saveLeases() {
	file := l.store.cfg.LeaseFile
	if file == "" {
		return
	}
	var text strings.Builder
	for _, id := range append(slices.Clone(l.earlier), l.id) {
		if id != 0 {
			fmt.Fprintf(&text, "%x\n", int64(id))
		}
	}
	err := os.WriteFile(file+".new", []byte(text.String()), 0o600)
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		l.store.log.Warn("a later run will not know this one's lease in the key-value store", "error", err)
	}
}

// deleteEarlier does what DropEarlier asked for.
func (l *leases) deleteEarlier(ctx context.Context) error {
	l.mu.Lock()
	earlier, below := slices.Clone(l.earlier), l.dropBelow
	l.mu.Unlock()
	if below == nil {
		return nil
	}
	for _, id := range earlier {
		if err := l.deleteUnder(ctx, id, below); err != nil {
			return err
		}
		l.mu.Lock()
		l.earlier = slices.DeleteFunc(l.earlier, func(other clientv3.LeaseID) bool { return other == id })
		l.saveLeases()
		l.mu.Unlock()
	}
	return nil
}

func (l *leases) deleteUnder(ctx context.Context, id clientv3.LeaseID, below []string) error {
	var keys []string
	err := l.store.do(ctx, "list", "keys of an earlier lease", func(ctx context.Context) error {
		resp, err := l.store.client.TimeToLive(ctx, id, clientv3.WithAttachedKeys())
		if err == nil {
			for _, key := range resp.Keys {
				keys = append(keys, string(key))
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	still := Cond{}
	for _, key := range keys {
		l.mu.Lock()
		_, wanted := l.keys[key]
		l.mu.Unlock()
		if wanted || !slices.ContainsFunc(below, func(prefix string) bool { return strings.HasPrefix(key, prefix) }) {
			continue
		}
		if err := l.store.writes.wait(ctx, 1, false); err != nil {
			return err
		}
		still.cmp = clientv3.Compare(clientv3.LeaseValue(key), "=", id)
		if _, err := l.store.commitNow(ctx, []Cond{still}, []Write{Remove(key)}, nil); err != nil {
			return err
		}
	}
	return nil
}
