// SPDX-License-Identifier: Apache-2.0

package carry

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"cilium.local/cilium/internal/datapath/layout"
)

// HashFlows is the flow table of the first layouts: a hash map from a flow's key to
// the rest of it.
type HashFlows struct {
	m     *ebpf.Map
	value layout.Struct
	row   layout.Struct
}

// NewHashFlows wraps such a map. Flow is the type of a row today, of which the key is
// a part by now.
func NewHashFlows(m *ebpf.Map, flow btf.Type) (*HashFlows, error) {
	key, value, err := layout.OfMap(m, &ebpf.MapSpec{Key: layout.Member(flow, "key"), Value: flow})
	if err != nil {
		return nil, err
	}
	return &HashFlows{m: m, value: value, row: value.With("key.", key)}, nil
}

// Row implements FlowSource.
func (f *HashFlows) Row() layout.Struct { return f.row }

// Each implements FlowSource.
func (f *HashFlows) Each(visit func(row []byte) error) error {
	row := make([]byte, f.row.Size)
	return each(f.m, 1, func(key, value []byte) error {
		copy(row, value)
		copy(row[f.value.Size:], key)
		return visit(row)
	})
}
