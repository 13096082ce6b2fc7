// SPDX-License-Identifier: Apache-2.0

// Package identity defines the numeric security identities: the number that
// stands for a set of labels in policy, in BPF maps and on the wire.
package identity

import (
	"fmt"
	"slices"
	"strconv"

	"cilium.local/cilium/internal/label"
)

// ID is a numeric security identity. 256–65535 are allocated cluster-wide, with
// the cluster number in bits 16–23; from LocalBase upward they are node-local
// and never leave the node.
type ID uint32

// Reserved identities. Unknown is the wildcard peer in policy keys.
const (
	Unknown       ID = 0
	Host          ID = 1
	World         ID = 2
	Unmanaged     ID = 3
	Health        ID = 4
	Init          ID = 5
	RemoteNode    ID = 6
	KubeAPIServer ID = 7
	Ingress       ID = 8
	WorldIPv4     ID = 9
	WorldIPv6     ID = 10
)

// Ranges of allocated identities.
const (
	MinAllocated ID = 256
	MaxAllocated ID = 65535
	LocalBase    ID = 0x01000000
)

var reservedNames = map[ID]string{
	Unknown: "unknown", Host: "host", World: "world", Unmanaged: "unmanaged",
	Health: "health", Init: "init", RemoteNode: "remote-node",
	KubeAPIServer: "kube-apiserver", Ingress: "ingress",
	WorldIPv4: "world-ipv4", WorldIPv6: "world-ipv6",
}

// Identity is an ID with the labels it stands for.
type Identity struct {
	ID     ID
	Labels label.Set
}

// IsReserved reports whether the ID is one of the fixed reserved identities.
func (id ID) IsReserved() bool { return id > Unknown && id <= WorldIPv6 }

// HasPolicy reports whether the ID is one of workloads, which have a policy, or
// of nobody in particular: labels without an identity are a workload's.
func (id ID) HasPolicy() bool {
	return id == Unknown || id == Init || id == Health || id >= MinAllocated && id < LocalBase
}

// IsWorld reports whether the ID stands for addresses outside the cluster.
func (id ID) IsWorld() bool { return id == World || id == WorldIPv4 || id == WorldIPv6 }

// Name returns the reserved name, or the number.
func (id ID) Name() string {
	if name, ok := reservedNames[id]; ok {
		return name
	}
	return strconv.FormatUint(uint64(id), 10)
}

// Parse reads a number or a reserved name.
func Parse(text string) (ID, error) {
	for id, name := range reservedNames {
		if name == text {
			return id, nil
		}
	}
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("identity %q: neither a number nor a reserved name such as host or world", text)
	}
	return ID(n), nil
}

// Reserved returns the reserved identities, by number, without Unknown.
// WorldIPv4 and WorldIPv6 also carry reserved:world, so that a selector of the
// world entity matches them.
func Reserved() []Identity {
	all := make([]Identity, 0, len(reservedNames))
	for id := Host; id <= WorldIPv6; id++ {
		labels := label.Reserved(reservedNames[id])
		if id == WorldIPv4 || id == WorldIPv6 {
			labels = label.NewSet(append(slices.Clone(labels), label.Reserved("world")...)...)
		}
		all = append(all, Identity{ID: id, Labels: labels})
	}
	return all
}
