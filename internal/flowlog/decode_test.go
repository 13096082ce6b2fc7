// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"bytes"
	"net/netip"
	"testing"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
)

func sample() []byte {
	e := encoder{dictionary: newDictionary(), ids: map[identity.ID]uint64{}}
	d := decision{
		key: key{
			source: party{netip.MustParseAddr("10.0.0.1"), 9, 0}, dest: party{netip.MustParseAddr("f00d::1"), 300, 7},
			port: l4.Port{Protocol: l4.TCP, Number: 443}, reason: 133, cookie: 3,
		},
		sourceLabels: []string{"reserved:world"}, ruleLabels: []string{"a:b=c"}, first: 5, last: 9, count: 4,
	}
	frame, _ := e.frame([]decision{d, d})
	return append([]byte(segmentMagic), frame...)
}

// FuzzFrame holds that no payload makes the decoder fall over, or take memory that
// is out of proportion.
func FuzzFrame(f *testing.F) {
	f.Add(sample()[len(segmentMagic)+frameHeader:])
	f.Add([]byte{entryLabels, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{entryRecord, 0, 0, 0, 6, 80})
	f.Fuzz(func(_ *testing.T, payload []byte) {
		var d decoder
		d.frame(payload, func(r *Record) {
			if r.Source == nil || r.Dest == nil {
				panic("a record without ends")
			}
		})
	})
}

func TestAnEncoderGoesOnWhereADecoderStopped(t *testing.T) {
	var d decoder
	text := sample()
	if sound := d.frames(text, func(*Record) {}); sound != len(text) {
		t.Fatalf("%d of %d bytes are sound", sound, len(text))
	}
	e := encoder{dictionary: d.dictionary(), ids: map[identity.ID]uint64{}}
	frame, n := e.frame([]decision{{
		key:          key{source: party{netip.MustParseAddr("10.0.0.1"), 9, 0}, dest: party{netip.MustParseAddr("f00d::1"), 300, 7}},
		sourceLabels: []string{"reserved:world"}, first: 11, last: 11, count: 1,
	}})
	if n != 1 || bytes.Contains(frame, []byte("reserved")) || len(frame) > frameHeader+8 {
		t.Errorf("known ends are defined again: %q", frame)
	}
	var last *Record
	var again decoder
	again.frames(append(text, frame...), func(r *Record) { last = r })
	if last == nil || last.First.UnixMilli() != 11 || last.Source.Labels[0] != "reserved:world" || last.Dest.Labels != nil {
		t.Errorf("read back %+v", last)
	}
}
