// SPDX-License-Identifier: Apache-2.0

// Package bpfmap gives the data plane's maps their types: rows in terms of the
// rest of the agent on one side, the C structs on the other. Every write that
// can change a decision ends with a new generation, so that tracked flows are
// decided again.
//
// The agent is the only writer of these maps. All types are safe for concurrent
// use.
package bpfmap

import (
	"fmt"
	"sync"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/abi"
)

// Generation is the number under which packets are decided. Programs read it
// once per packet: its lowest bit selects one of two banks of policy maps, and a
// flow whose decision carries another generation is decided again.
type Generation struct {
	mu      sync.Mutex
	control *ebpf.Map
}

// NewGeneration wraps the control map.
func NewGeneration(control *ebpf.Map) *Generation { return &Generation{control: control} }

// Advance makes every cached decision stale. It is called after the write that
// changed what the decision depends on.
func (g *Generation) Advance() error {
	_, err := g.add(2)
	return err
}

// bank returns the bank of policy slots in force, 0 or 1.
func (g *Generation) bank() (uint32, error) {
	generation, err := g.add(0)
	return generation & 1, err
}

// flip puts the other bank in force for every packet from now on.
func (g *Generation) flip() error {
	_, err := g.add(1)
	return err
}

func (g *Generation) add(n uint32) (uint32, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var control abi.Control
	if err := g.control.Lookup(uint32(0), &control); err != nil {
		return 0, fmt.Errorf("read the generation: %w", err)
	}
	if n == 0 {
		return control.Generation, nil
	}
	control.Generation += n
	if err := g.control.Put(uint32(0), &control); err != nil {
		return 0, fmt.Errorf("write the generation: %w", err)
	}
	return control.Generation, nil
}
