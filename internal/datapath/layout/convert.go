// SPDX-License-Identifier: Apache-2.0

package layout

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Converter writes rows of one shape as rows of another: each field gets what the
// field of its name has, and zero if there is none. A number that has become wider
// or narrower keeps its value, or as much of it as there is room for.
type Converter struct {
	size    uint32
	copies  []move
	numbers []move
}

type move struct{ to, toSize, from, fromSize uint32 }

// NewConverter compares two shapes. Former says under which name a field stood
// before that has another name today; it may be nil.
func NewConverter(to, from Struct, former func(path string) string) *Converter {
	c := &Converter{size: to.Size}
	places := make(map[string]Field, len(from.Fields))
	for _, f := range from.Fields {
		places[f.Path] = f
	}
	for _, f := range to.Fields {
		is, found := places[f.Path]
		if !found && former != nil {
			is, found = places[former(f.Path)]
		}
		switch m := (move{f.Offset, f.Size, is.Offset, is.Size}); {
		case !found:
		case f.Size == is.Size:
			c.copies = append(c.copies, m)
		case f.isNumber() && is.isNumber():
			c.numbers = append(c.numbers, m)
		}
	}
	c.copies = merge(c.copies)
	return c
}

func (f Field) isNumber() bool { return f.Size == 1 || f.Size == 2 || f.Size == 4 || f.Size == 8 }

// merge makes one copy of those that touch or overlap and go equally far.
func merge(moves []move) (merged []move) {
	slices.SortFunc(moves, func(a, b move) int { return cmp.Compare(a.to, b.to) })
	for _, m := range moves {
		if n := len(merged) - 1; n >= 0 && m.to <= merged[n].to+merged[n].toSize && m.to-m.from == merged[n].to-merged[n].from {
			merged[n].toSize = max(merged[n].toSize, m.to+m.toSize-merged[n].to)
			continue
		}
		merged = append(merged, m)
	}
	return merged
}

// Convert returns a row in the new shape.
func (c *Converter) Convert(from []byte) []byte {
	to := make([]byte, c.size)
	for _, m := range c.copies {
		copy(to[m.to:m.to+m.toSize], from[m.from:])
	}
	for _, m := range c.numbers {
		putNumber(to[m.to:m.to+m.toSize], number(from[m.from:m.from+m.fromSize]))
	}
	return to
}

func number(b []byte) uint64 {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.NativeEndian.Uint16(b))
	case 4:
		return uint64(binary.NativeEndian.Uint32(b))
	default:
		return binary.NativeEndian.Uint64(b)
	}
}

// putNumber writes the number, or the greatest that there is room for.
func putNumber(b []byte, n uint64) {
	n = min(n, ^uint64(0)>>(64-8*len(b)))
	switch len(b) {
	case 1:
		b[0] = byte(n)
	case 2:
		binary.NativeEndian.PutUint16(b, uint16(n))
	case 4:
		binary.NativeEndian.PutUint32(b, uint32(n))
	default:
		binary.NativeEndian.PutUint64(b, n)
	}
}

// Number reads a field of a row.
func (f Field) Number(row []byte) uint64 { return number(row[f.Offset : f.Offset+f.Size]) }

// PutNumber writes a field of a row.
func (f Field) PutNumber(row []byte, n uint64) { putNumber(row[f.Offset:f.Offset+f.Size], n) }
