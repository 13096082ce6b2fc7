// SPDX-License-Identifier: Apache-2.0

// Package addresses tells nodes of each other's workloads through the key-value store:
// each writes down which of its addresses has which identity, and follows what the
// others have written.
package addresses

import (
	"encoding/json"
	"log/slog"
	"net/netip"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
)

// Prefix is that of the keys, which end with the address.
const Prefix = "cilium/state/ip/v1/default/"

// Row is an address with the identity of the workload that has it, on the node with
// the address Host in the network between the nodes.
type Row struct {
	Addr     netip.Addr
	Identity identity.ID
	Host     netip.Addr
}

// record is a row as it stands in the store.
type record struct {
	IP       netip.Addr
	Mask     []byte
	HostIP   netip.Addr
	ID       identity.ID
	Key      uint8
	Metadata string
}

// Encode returns what stands in the store about an address, and under which key.
func Encode(r Row) (key, value string, err error) {
	text, err := json.Marshal(record{IP: r.Addr, HostIP: r.Host, ID: r.Identity})
	return Prefix + r.Addr.String(), string(text), err
}

// Announcer tells other nodes of this node's workloads. Its methods do not wait for
// the store.
type Announcer struct {
	store *kvstore.Store
	host  netip.Addr
	log   *slog.Logger
}

// NewAnnouncer returns an announcer for the node with the address host in the network
// between the nodes. Without one nobody could reach the workloads, and nothing is told.
func NewAnnouncer(store *kvstore.Store, host netip.Addr, log *slog.Logger) *Announcer {
	return &Announcer{store, host, log}
}

// Announce says that an address has an identity. An address whose workload has none yet
// is told to nobody.
func (a *Announcer) Announce(addr netip.Addr, id identity.ID) {
	if !a.host.IsValid() {
		return
	}
	if id == identity.Unknown {
		a.Withdraw(addr)
		return
	}
	key, value, err := Encode(Row{addr, id, a.host})
	if err != nil {
		a.log.Error("an address is not announced", "address", addr, "error", err)
		return
	}
	a.store.Keep(key, value)
}

// Withdraw says that nobody has an address any more; while the store is away, later.
func (a *Announcer) Withdraw(addr netip.Addr) {
	if !a.host.IsValid() {
		return
	}
	a.store.Drop(Prefix + addr.String())
}
