// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"cilium.local/cilium/internal/addresses"
	"cilium.local/cilium/internal/agent/ipcache"
	"cilium.local/cilium/internal/datapath"
	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/reconcile"
	"cilium.local/cilium/internal/table"
)

// rows are the wanted rows of the kernel's endpoint table and ipcache, with the
// reconcilers that write them. It implements endpoint.Datapath.
type rows struct {
	dp        *datapath.Datapath
	programs  *attachments
	endpoints *table.Table[netip.Addr, bpfmap.Endpoint]
	addresses *table.Table[netip.Prefix, bpfmap.Address]
	ipcache   *ipcache.Cache
	announce  *addresses.Announcer // to other nodes

	log      *slog.Logger
	capacity int         // of the table of addresses
	running  atomic.Bool // the writers are, so that waiting for them ends

	endpointsWriter *reconcile.Reconciler[netip.Addr, bpfmap.Endpoint]
	addressesWriter *reconcile.Reconciler[netip.Prefix, bpfmap.Address]
}

func newRows(dp *datapath.Datapath, programs *attachments, capacity int, log *slog.Logger) *rows {
	r := &rows{
		dp: dp, programs: programs, log: log, capacity: capacity,
		endpoints: table.New[netip.Addr, bpfmap.Endpoint]("endpoints"),
		addresses: table.New[netip.Prefix, bpfmap.Address]("ipcache"),
	}
	r.ipcache = ipcache.New(r.addresses)
	// Without these an IPv4 address, which the kernel's table has in its IPv6 form,
	// would be part of a rule's ::/0.
	r.ipcache.Set(ipcache.World, netip.MustParsePrefix("0.0.0.0/0"), identity.WorldIPv4)
	r.ipcache.Set(ipcache.World, netip.MustParsePrefix("::/0"), identity.WorldIPv6)
	r.endpointsWriter = reconcile.New(r.endpoints, dp.Endpoints(), reconcile.Options[bpfmap.Endpoint]{Log: log})
	r.addressesWriter = reconcile.New(r.addresses, dp.Addresses(), reconcile.Options[bpfmap.Address]{Log: log})
	return r
}

// stage writes the wanted rows of an endpoint without waiting for the kernel.
func (r *rows) stage(e endpoint.Endpoint) {
	row := bpfmap.Endpoint{
		ID: e.ID, Identity: e.Identity, PolicyID: e.PolicyID,
		IfIndex: e.Device.IfIndex, MTU: e.Device.MTU, Traced: e.Traced,
	}
	copy(row.MAC[:], e.Device.MAC)
	for _, addr := range e.Addresses() {
		if old, _, ok := r.endpoints.Get(addr); !ok || old != row {
			r.endpoints.Upsert(addr, row)
		}
		r.ipcache.Set(ipcache.Local, whole(addr), e.Identity)
		r.announce.Announce(addr, e.Identity)
	}
}

// complete says that every row of this node that should exist was staged.
func (r *rows) complete() { r.endpoints.MarkComplete() }

// completeAddresses says so of what other nodes have, too.
func (r *rows) completeAddresses() { r.addresses.MarkComplete() }

// Publish stages the rows and waits until the kernel has them.
func (r *rows) Publish(ctx context.Context, e endpoint.Endpoint) error {
	r.stage(e)
	for _, addr := range e.Addresses() {
		if err := r.endpointsWriter.WaitKey(ctx, addr); err != nil {
			return err
		}
		if err := r.addressesWriter.WaitKey(ctx, whole(addr)); err != nil {
			return err
		}
	}
	return nil
}

// Withdraw removes the rows, the address first, and waits until they are gone.
func (r *rows) Withdraw(ctx context.Context, e endpoint.Endpoint) error {
	var errs []error
	for _, addr := range e.Addresses() {
		if row, _, ok := r.endpoints.Get(addr); !ok || row.ID != e.ID {
			continue
		}
		r.announce.Withdraw(addr)
		if r.ipcache.Unset(ipcache.Local, whole(addr)) {
			errs = append(errs, r.addressesWriter.WaitKey(ctx, whole(addr)))
		}
		r.endpoints.Delete(addr)
		errs = append(errs, r.endpointsWriter.WaitKey(ctx, addr))
	}
	return errors.Join(errs...)
}

// Attach puts the programs on the endpoint's device.
func (r *rows) Attach(e endpoint.Endpoint) error {
	return r.programs.attach(datapath.Device{Index: e.Device.IfIndex, Name: e.Device.HostName})
}

// Detach removes the programs and their pins.
func (r *rows) Detach(e endpoint.Endpoint) error {
	return r.programs.detach(datapath.Device{Index: e.Device.IfIndex, Name: e.Device.HostName})
}

// Flush forgets the tracked flows of an address.
func (r *rows) Flush(addr netip.Addr) error {
	_, err := r.dp.Flows().Flush(addr)
	return err
}

// Put makes prefixes those of identities, and waits until the kernel has them.
func (r *rows) Put(ids []identity.Identity) error {
	have := r.addresses.Len()
	if have+len(ids) > r.capacity {
		return fmt.Errorf("the rules name %d prefixes that are new, but the table of addresses holds %d and has %d; "+
			"name fewer prefixes or raise --ipcache-max", len(ids), r.capacity, have)
	}
	for _, id := range ids {
		r.ipcache.Set(ipcache.CIDR, policy.LabelledPrefix(id.Labels), id.ID)
	}
	return r.waitPrefixes(ids)
}

// Remove takes prefixes from identities, and waits until the kernel forgot them.
func (r *rows) Remove(ids []identity.Identity) error {
	for _, id := range ids {
		r.ipcache.Unset(ipcache.CIDR, policy.LabelledPrefix(id.Labels))
	}
	return r.waitPrefixes(ids)
}

// prefixWait is how long the kernel may take to write down prefixes.
const prefixWait = 10 * time.Second

func (r *rows) waitPrefixes(ids []identity.Identity) error {
	if !r.running.Load() {
		return nil // before the start rows are only staged
	}
	ctx, cancel := context.WithTimeout(context.Background(), prefixWait)
	defer cancel()
	for _, id := range ids {
		if err := r.addressesWriter.WaitKey(ctx, policy.LabelledPrefix(id.Labels)); err != nil {
			return fmt.Errorf("write down who is behind %s: %w", policy.LabelledPrefix(id.Labels), err)
		}
	}
	return nil
}

// setHost makes the addresses those of the node itself.
func (r *rows) setHost(addrs []netip.Addr) {
	prefixes := make([]netip.Prefix, 0, len(addrs))
	for _, addr := range addrs {
		prefixes = append(prefixes, whole(addr))
	}
	r.ipcache.Replace(ipcache.Host, prefixes, identity.Host)
}

// settle waits until the kernel has all rows and no others. Rows that it does not take
// are reported by their writers, and tried again later.
func (r *rows) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, prefixWait)
	defer cancel()
	err := errors.Join(
		r.endpointsWriter.WaitPruned(ctx), r.endpointsWriter.Wait(ctx, r.endpoints.Revision()),
		r.addressesWriter.WaitPruned(ctx), r.addressesWriter.Wait(ctx, r.addresses.Revision()))
	if err != nil {
		r.log.Warn("maps of a new layout come into force without some rows", "error", err)
	}
}

// status tells how the kernel's tables stand against the wanted rows.
func (r *rows) status() []reconcile.Status {
	return []reconcile.Status{r.endpointsWriter.Status(), r.addressesWriter.Status()}
}

func whole(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }
