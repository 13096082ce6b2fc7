// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"encoding/binary"
	"hash/crc32"
	"strings"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
)

// A segment begins with segmentMagic. Frames follow: the length of the payload,
// its CRC-32C, and the payload, which is a row of entries. An entry begins with
// what it is: a definition (a label set, an end or a rule, which later entries of
// the segment name by the order in which they came), or a record, whose first byte
// also says which of its parts follow. Numbers are varints.
const segmentMagic = "cilium flows 1\n\x00"

const frameHeader = 8

// Kinds of entries. The bits of a record are added to entryRecord.
const (
	entryLabels = 1
	entryEnd    = 2
	entryRule   = 3
	entryRecord = 0x80

	recordEgress = 0x01 // the last word was the source's
	recordRule   = 0x02 // a rule follows
	recordReason = 0x04 // a drop reason follows
	recordFolded = 0x08 // a count and a duration follow
)

// maxFrame is how long a frame gets before the next begins, in bytes.
const maxFrame = 64 << 10

// labelSeparator cannot be part of a label.
const labelSeparator = "\n"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// endKey and ruleKey are definitions, with the number of their label set.
type endKey struct {
	party
	labels uint64
}

type ruleKey struct {
	cookie uint32
	labels uint64
}

// dictionary numbers what a segment has defined so far.
type dictionary struct {
	labels map[string]uint64
	ends   map[endKey]uint64
	rules  map[ruleKey]uint64
	last   int64 // time of the last record, to which the next one's is relative
}

func newDictionary() *dictionary {
	return &dictionary{labels: map[string]uint64{}, ends: map[endKey]uint64{}, rules: map[ruleKey]uint64{}}
}

// encoder makes frames of one segment. The label sets of identities are looked up
// by number for as long as the encoder lives, which is one batch.
type encoder struct {
	*dictionary
	buf []byte
	ids map[identity.ID]uint64
}

// frame appends decisions to an empty frame until it is long enough, and returns
// how many it took. The frame is valid until the next call.
func (e *encoder) frame(list []decision) ([]byte, int) {
	e.buf = append(e.buf[:0], make([]byte, frameHeader)...)
	n := 0
	for n < len(list) && len(e.buf) < maxFrame {
		e.decision(&list[n])
		n++
	}
	payload := e.buf[frameHeader:]
	binary.LittleEndian.PutUint32(e.buf, uint32(len(payload)))
	binary.LittleEndian.PutUint32(e.buf[4:], crc32.Checksum(payload, castagnoli))
	return e.buf, n
}

func (e *encoder) decision(d *decision) {
	source := e.end(&d.source, d.sourceLabels)
	dest := e.end(&d.dest, d.destLabels)
	kind := byte(entryRecord)
	rule := uint64(0)
	if d.cookie != 0 {
		kind |= recordRule
		rule = e.rule(d)
	}
	if d.direction == flow.Egress {
		kind |= recordEgress
	}
	if d.reason != 0 {
		kind |= recordReason
	}
	if d.count > 1 {
		kind |= recordFolded
	}
	e.buf = append(e.buf, kind)
	e.buf = binary.AppendVarint(e.buf, d.first-e.last)
	e.last = d.first
	e.put(source)
	e.put(dest)
	e.buf = append(e.buf, byte(d.port.Protocol))
	e.put(uint64(d.port.Number))
	if kind&recordRule != 0 {
		e.put(rule)
	}
	if kind&recordReason != 0 {
		e.buf = append(e.buf, byte(d.reason))
	}
	if kind&recordFolded != 0 {
		e.put(d.count)
		e.put(uint64(d.last - d.first))
	}
}

func (e *encoder) put(n uint64) { e.buf = binary.AppendUvarint(e.buf, n) }

// end returns the number of an end, which it defines when it is new.
func (e *encoder) end(p *party, labels []string) uint64 {
	set, ok := e.ids[p.identity]
	if !ok {
		set = e.labelSet(labels)
		e.ids[p.identity] = set
	}
	k := endKey{*p, set}
	n, ok := e.ends[k]
	if ok {
		return n
	}
	n = uint64(len(e.ends))
	e.ends[k] = n
	addr := p.addr.AsSlice()
	e.buf = append(e.buf, entryEnd, byte(len(addr)))
	e.buf = append(e.buf, addr...)
	e.put(uint64(p.identity))
	e.put(uint64(p.endpoint))
	e.put(set)
	return n
}

func (e *encoder) rule(d *decision) uint64 {
	k := ruleKey{d.cookie, e.labelSet(d.ruleLabels)}
	n, ok := e.rules[k]
	if ok {
		return n
	}
	n = uint64(len(e.rules))
	e.rules[k] = n
	e.buf = append(e.buf, entryRule)
	e.put(uint64(k.cookie))
	e.put(k.labels)
	return n
}

func (e *encoder) labelSet(labels []string) uint64 {
	text := strings.Join(labels, labelSeparator)
	n, ok := e.labels[text]
	if ok {
		return n
	}
	n = uint64(len(e.labels))
	e.labels[text] = n
	e.buf = append(e.buf, entryLabels)
	e.put(uint64(len(text)))
	e.buf = append(e.buf, text...)
	return n
}
