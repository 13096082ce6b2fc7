// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"strings"
	"time"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
)

// decoder reads the frames of one segment. What does not make sense ends a frame:
// it was written by nobody of ours. A visited record is valid during the visit.
type decoder struct {
	labels [][]string
	texts  []string
	ends   []*End
	rules  []*Rule
	// The same as the encoder knows them.
	endKeys  []endKey
	ruleKeys []ruleKey
	last     int64

	out Record // the one being read
}

// frames visits the records of a segment's text, and returns how much of it is
// sound.
func (d *decoder) frames(text []byte, visit func(*Record)) int {
	if len(text) < len(segmentMagic) || string(text[:len(segmentMagic)]) != segmentMagic {
		return 0
	}
	at := len(segmentMagic)
	for len(text)-at >= frameHeader {
		size := binary.LittleEndian.Uint32(text[at:])
		rest := text[at+frameHeader:]
		if uint64(size) > uint64(len(rest)) {
			break
		}
		payload := rest[:size]
		if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(text[at+4:]) || !d.frame(payload, visit) {
			break
		}
		at += frameHeader + int(size)
	}
	return at
}

func (d *decoder) frame(payload []byte, visit func(*Record)) bool {
	c := cursor{rest: payload}
	for len(c.rest) > 0 && !c.bad {
		switch kind := c.byte(); {
		case kind == entryLabels:
			d.labelSet(&c)
		case kind == entryEnd:
			d.end(&c)
		case kind == entryRule:
			d.rule(&c)
		case kind&entryRecord != 0:
			if r := d.record(&c, kind); !c.bad {
				visit(r)
			}
		default:
			c.bad = true
		}
	}
	return !c.bad
}

func (d *decoder) labelSet(c *cursor) {
	text := string(c.bytes(c.number()))
	var labels []string
	if text != "" {
		labels = strings.Split(text, labelSeparator)
	}
	d.texts = append(d.texts, text)
	d.labels = append(d.labels, labels)
}

func (d *decoder) end(c *cursor) {
	addr, _ := netip.AddrFromSlice(c.bytes(uint64(c.byte())))
	k := endKey{party: party{addr, identity.ID(c.number()), uint16(c.number())}, labels: c.number()}
	if k.labels >= uint64(len(d.labels)) {
		c.bad = true
		return
	}
	d.endKeys = append(d.endKeys, k)
	d.ends = append(d.ends, &End{Addr: addr, Identity: k.identity, Endpoint: k.endpoint, Labels: d.labels[k.labels]})
}

func (d *decoder) rule(c *cursor) {
	k := ruleKey{cookie: uint32(c.number()), labels: c.number()}
	if k.labels >= uint64(len(d.labels)) {
		c.bad = true
		return
	}
	d.ruleKeys = append(d.ruleKeys, k)
	d.rules = append(d.rules, &Rule{Cookie: k.cookie, Labels: d.labels[k.labels]})
}

func (d *decoder) record(c *cursor, kind byte) *Record {
	first := d.last + c.signed()
	source, dest := c.number(), c.number()
	r := &d.out
	*r = Record{Count: 1, Port: l4.Port{Protocol: l4.Protocol(c.byte()), Number: uint16(c.number())}}
	if source >= uint64(len(d.ends)) || dest >= uint64(len(d.ends)) {
		c.bad = true
		return nil
	}
	r.Source, r.Dest = d.ends[source], d.ends[dest]
	if kind&recordEgress != 0 {
		r.Direction = flow.Egress
	}
	if kind&recordRule != 0 {
		rule := c.number()
		if rule >= uint64(len(d.rules)) {
			c.bad = true
			return nil
		}
		r.Rule = d.rules[rule]
	}
	if kind&recordReason != 0 {
		r.Reason, r.Verdict = flow.DropReason(c.byte()), flow.Denied
	}
	last := first
	if kind&recordFolded != 0 {
		r.Count = c.number()
		last += int64(c.number())
	}
	d.last = first
	r.First, r.Last = time.UnixMilli(first), time.UnixMilli(last)
	return r
}

// dictionary returns what an encoder needs to go on where the decoder stopped.
func (d *decoder) dictionary() *dictionary {
	dict := newDictionary()
	dict.last = d.last
	for i, text := range d.texts {
		dict.labels[text] = uint64(i)
	}
	for i, k := range d.endKeys {
		dict.ends[k] = uint64(i)
	}
	for i, k := range d.ruleKeys {
		dict.rules[k] = uint64(i)
	}
	return dict
}

// cursor reads numbers and bytes, and remembers when there was none.
type cursor struct {
	rest []byte
	bad  bool
}

func (c *cursor) byte() byte {
	if len(c.rest) == 0 {
		c.bad = true
		return 0
	}
	b := c.rest[0]
	c.rest = c.rest[1:]
	return b
}

func (c *cursor) bytes(n uint64) []byte {
	if n > uint64(len(c.rest)) {
		c.bad = true
		return nil
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) number() uint64 {
	n, size := binary.Uvarint(c.rest)
	return n & c.skip(size)
}

func (c *cursor) signed() int64 {
	n, size := binary.Varint(c.rest)
	return n & int64(c.skip(size))
}

// skip leaves the bytes of a number behind. It returns a mask: all bits, or none
// when there was no number.
func (c *cursor) skip(size int) uint64 {
	if size <= 0 {
		c.bad = true
		c.rest = nil
		return 0
	}
	c.rest = c.rest[size:]
	return ^uint64(0)
}
