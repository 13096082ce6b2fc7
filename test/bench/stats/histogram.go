// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"math"
	"math/bits"
)

// perOctave is how many buckets share a power of two: a value is known to within
// one part in so many.
const (
	octaveBits = 6
	perOctave  = 1 << octaveBits
)

// Histogram counts durations, in nanoseconds, in buckets that grow with them. The
// zero value is empty. It is made for recording in a loop: adding is some
// nanoseconds, and allocates only when a value is larger than all before.
type Histogram struct {
	Counts []uint32 `json:"counts"`
}

// bucket keeps the leading bits of a value: small ones are their own bucket.
func bucket(v uint64) int {
	shift := max(0, bits.Len64(v)-octaveBits-1)
	return shift<<octaveBits + int(v>>shift)
}

// middleOf is the value that stands for a bucket.
func middleOf(b int) float64 {
	if b < 2*perOctave {
		return float64(b)
	}
	shift := b>>octaveBits - 1
	return float64(uint64(b-shift<<octaveBits)<<shift) + float64(uint64(1)<<shift)/2
}

// Add counts one duration; a negative one counts as none.
func (h *Histogram) Add(nanoseconds int64) {
	b := bucket(uint64(max(0, nanoseconds)))
	if b >= len(h.Counts) {
		h.Counts = append(h.Counts, make([]uint32, b+1-len(h.Counts))...)
	}
	h.Counts[b]++
}

// Merge adds another's counts.
func (h *Histogram) Merge(other Histogram) {
	if missing := len(other.Counts) - len(h.Counts); missing > 0 {
		h.Counts = append(h.Counts, make([]uint32, missing)...)
	}
	for i, n := range other.Counts {
		h.Counts[i] += n
	}
}

// Total is how many durations were counted.
func (h *Histogram) Total() uint64 {
	var total uint64
	for _, n := range h.Counts {
		total += uint64(n)
	}
	return total
}

// Quantile is by nearest rank, to within the width of a bucket, in nanoseconds.
func (h *Histogram) Quantile(q float64) float64 {
	total := h.Total()
	if total == 0 {
		return math.NaN()
	}
	rank := max(1, uint64(math.Ceil(q*float64(total))))
	var seen uint64
	for b, n := range h.Counts {
		if seen += uint64(n); seen >= rank {
			return middleOf(b)
		}
	}
	return math.NaN()
}
