// SPDX-License-Identifier: Apache-2.0

package carry

import (
	"fmt"
	"strings"

	"cilium.local/cilium/internal/datapath/layout"
)

// FlowTable is the flow table of this agent's layout. Rows are of the shape Row, in
// which the fields of the key begin with "key.".
type FlowTable interface {
	Row() layout.Struct
	// Find returns a copy of the row with the key that the row has, nil for none.
	Find(row []byte) ([]byte, error)
	// Put writes a row, in place of one with its key, as one whose decision is stale. It
	// says false if there is no room.
	Put(row []byte) (bool, error)
}

// FlowSource is a flow table of an earlier layout.
type FlowSource interface {
	Row() layout.Struct
	// Each visits every row. The slice is valid until visit returns.
	Each(visit func(row []byte) error) error
}

// Flows brings the new table up to date with an old one in which programs still
// write. A row that the new table has is left alone if a packet has been there since
// it was copied; but where both tables opened the flow, the old one knows better who
// began it. Rows silent since a time of the monotonic clock, in nanoseconds, are not
// looked at. It returns how many rows it wrote, and how many found no room.
func Flows(to FlowTable, from FlowSource, since uint64) (written, refused int, err error) {
	is, was := clockOf(to.Row()), clockOf(from.Row())
	convert := layout.NewConverter(to.Row(), from.Row(), formerFlowField)
	busy, _ := to.Row().Field("busy")
	err = from.Each(func(old []byte) error {
		if was.lastSeen(old) < since {
			return nil
		}
		row := convert.Convert(old)
		if busy.Size > 0 {
			busy.PutNumber(row, 0) // whoever was writing does so in the old row
		}
		is.fill(row, was.lastSeen(old))
		present, err := to.Find(row)
		if err != nil {
			return err
		}
		if present != nil && is.created(present) == is.created(row) && is.lastSeen(present) >= is.lastSeen(row) {
			return nil
		}
		room, err := to.Put(row)
		if room {
			written++
		} else {
			refused++
		}
		return err
	})
	if err != nil {
		return written, refused, fmt.Errorf("carry flows over: %w", err)
	}
	return written, refused, nil
}

// clock is where a row says when it was made and used.
type clock struct{ made, used []layout.Field }

func clockOf(s layout.Struct) (c clock) {
	for _, f := range s.Fields {
		switch {
		case f.Path == "created":
			c.made = append(c.made, f)
		case f.Path == "last_seen" || strings.HasPrefix(f.Path, "side[") && strings.HasSuffix(f.Path, ".last_seen"):
			c.used = append(c.used, f)
		}
	}
	return c
}

func (c clock) created(row []byte) uint64 { return latest(c.made, row) }

func (c clock) lastSeen(row []byte) uint64 { return latest(c.used, row) }

func latest(fields []layout.Field, row []byte) (last uint64) {
	for _, f := range fields {
		last = max(last, f.Number(row))
	}
	return last
}

// fill says when a flow was used where the old layout had one time for both ends, so
// that the row got none.
func (c clock) fill(row []byte, lastSeen uint64) {
	if c.lastSeen(row) != 0 {
		return
	}
	for _, f := range c.used {
		f.PutNumber(row, lastSeen)
	}
}

// formerFlowField knows the names that fields of a flow had in earlier layouts.
func formerFlowField(path string) string {
	if rest, ok := strings.CutPrefix(path, "side["); ok {
		return "end[" + rest
	}
	return ""
}
