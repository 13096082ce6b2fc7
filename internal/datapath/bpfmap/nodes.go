// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/abi"
)

// Node is the tunnel to a node: the addresses of both its ends.
type Node struct{ To, From netip.Addr }

// Nodes are the tunnels that packets are sent by, in slots from 1 on, and those whose
// packets are believed, which are the same.
type Nodes struct{ nodes, slots *ebpf.Map }

// NewNodes wraps the maps.
func NewNodes(nodes, slots *ebpf.Map) *Nodes { return &Nodes{nodes, slots} }

// Capacity is how many nodes there is room for.
func (n *Nodes) Capacity() int { return int(n.nodes.MaxEntries()) - 1 }

// Update puts a node into a slot. Packets from where the slot's node was before are
// not believed any more.
func (n *Nodes) Update(slot uint16, node Node) error {
	before, err := n.at(slot)
	if err != nil {
		return err
	}
	if before.To.IsValid() && before.To != node.To {
		if err := n.forget(slot, before.To); err != nil {
			return err
		}
	}
	value := abi.Node{To: abi.AddrFrom(node.To), From: abi.AddrFrom(node.From)}
	if err := n.nodes.Put(uint32(slot), &value); err != nil {
		return fullError("node map", node.To, n.nodes.MaxEntries(), err)
	}
	if err := n.slots.Put(abi.AddrFrom(node.To), uint32(slot)); err != nil {
		return fullError("node map", node.To, n.slots.MaxEntries(), err)
	}
	return nil
}

// Delete empties a slot; an empty one is no error.
func (n *Nodes) Delete(slot uint16) error {
	node, err := n.at(slot)
	if err != nil || !node.To.IsValid() {
		return err
	}
	if err := n.forget(slot, node.To); err != nil {
		return err
	}
	if err := n.nodes.Put(uint32(slot), &abi.Node{}); err != nil {
		return fmt.Errorf("node map: empty slot %d: %w", slot, err)
	}
	return nil
}

// forget has the slot's former address stand for nobody, unless it is in another slot
// by now.
func (n *Nodes) forget(slot uint16, addr netip.Addr) error {
	var present uint32
	err := n.slots.Lookup(abi.AddrFrom(addr), &present)
	if err == nil && present == uint32(slot) {
		err = n.slots.Delete(abi.AddrFrom(addr))
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("node map: forget %s: %w", addr, err)
	}
	return nil
}

// at returns the node in a slot; one without addresses if there is none.
func (n *Nodes) at(slot uint16) (Node, error) {
	var value abi.Node
	if err := n.nodes.Lookup(uint32(slot), &value); err != nil {
		return Node{}, fmt.Errorf("node map: read slot %d of %d: %w (is --nodes-max too small?)", slot, n.nodes.MaxEntries(), err)
	}
	if value.To == (abi.Addr{}) {
		return Node{}, nil
	}
	return Node{To: value.To.IP(), From: value.From.IP()}, nil
}

// Dump returns the slots that are taken.
func (n *Nodes) Dump() (map[uint16]Node, error) {
	rows := make(map[uint16]Node)
	var addr abi.Addr
	var slot uint32
	iterator := n.slots.Iterate()
	for iterator.Next(&addr, &slot) {
		node, err := n.at(uint16(slot))
		if err != nil {
			return nil, err
		}
		if node.To == addr.IP() {
			rows[uint16(slot)] = node
		}
	}
	if err := iterator.Err(); err != nil {
		return nil, fmt.Errorf("read the node map: %w", err)
	}
	return rows, nil
}
