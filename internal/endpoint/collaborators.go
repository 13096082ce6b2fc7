// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"context"
	"net/netip"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
)

// Addresses is the address book of the node.
type Addresses interface {
	// Claim gives the owner the wanted addresses; when both are invalid it
	// chooses one of each family that the node has. A wanted address that was
	// reserved before, by a caller of the IPAM API, goes to the owner.
	Claim(owner string, ipv4, ipv6 netip.Addr) (netip.Addr, netip.Addr, error)
	// Release takes the owner's claim back; reserved addresses stay reserved.
	Release(owner string, addrs ...netip.Addr)
}

// Identities turns label sets into numbers. Allocate may block on the store
// until the context ends; reserved sets never do.
type Identities interface {
	Allocate(ctx context.Context, labels label.Set) (identity.ID, error)
	Release(ctx context.Context, labels label.Set) error
	// Adopt counts one use of a number that was allocated before a restart,
	// without asking the store.
	Adopt(id identity.Identity) error
}

// Policies keeps one compiled policy in the kernel per identity that is in use.
type Policies interface {
	// Acquire returns once the policy of the identity is in the kernel, under
	// the returned number and for the returned rule revision.
	Acquire(ctx context.Context, id identity.Identity) (policyID uint32, revision uint64, err error)
	// Adopt counts one use under the number that the kernel already holds it
	// by, and returns the number in force from now on. The policy itself
	// reaches the kernel before Resume.
	Adopt(id identity.Identity, policyID uint32) (uint32, error)
	// Release ends one use; the last one removes the policy from the kernel.
	Release(id identity.ID)
}

// Devices makes and removes the veth pair of an endpoint.
type Devices interface {
	// Create makes the pair and returns the index of the host end.
	Create(e Endpoint) (ifindex int, err error)
	// Configure adds the host's routes and, when the device names a network
	// namespace, moves the container end there and sets it up.
	Configure(e Endpoint) error
	// Delete removes the pair and the routes; a missing device is no error.
	Delete(e Endpoint) error
	// Index returns the index of the host end, or an error when it is gone.
	Index(hostName string) (int, error)
	// Exists tells whether the kernel has a device of that index; an error says that
	// it is not known.
	Exists(ifindex int) (bool, error)
}

// Datapath is the kernel side of an endpoint.
type Datapath interface {
	// Publish makes the endpoint and its addresses known to the kernel and
	// returns once they are. It also replaces what was published before.
	Publish(ctx context.Context, e Endpoint) error
	// Withdraw is the opposite of Publish; unknown endpoints are no error.
	Withdraw(ctx context.Context, e Endpoint) error
	// Attach puts the programs on the device, or adopts those already there.
	Attach(e Endpoint) error
	// Detach removes the programs and their pins; a missing device is no error.
	Detach(e Endpoint) error
	// Flush forgets the tracked flows of an address.
	Flush(addr netip.Addr) error
}
