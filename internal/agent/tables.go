// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/reconcile"
)

// tables implements apiserver.Tables: everything that has rows, by name.
type tables struct{ a *Agent }

// reader fills the rows of a table.
type reader struct {
	info    apiserver.TableInfo
	columns []string
	rows    func() ([][]string, error)
}

func (t tables) all() []reader {
	a := t.a
	kernel := func(name string, columns []string, rows func() ([][]string, error)) reader {
		return reader{apiserver.TableInfo{Name: name, Kernel: true}, columns, rows}
	}
	own := func(name string, columns []string, rows func() ([][]string, error)) reader {
		return reader{apiserver.TableInfo{Name: name}, columns, rows}
	}
	return []reader{
		kernel("endpoint", []string{"ADDRESS", "ENDPOINT", "IDENTITY", "POLICY", "IFINDEX", "MAC", "MTU"}, a.endpointRows),
		kernel("ipcache", []string{"PREFIX", "IDENTITY", "TUNNEL TO"}, a.ipcacheRows),
		kernel("policy", []string{"POLICY", "FOR", "DIRECTION", "PEER", "PROTOCOL", "PORT", "TIER", "PRIORITY", "VERDICT", "RULE"}, a.policyRows),
		kernel("ct", []string{"PROTOCOL", "SOURCE", "DESTINATION", "FROM", "TO", "STATE", "VERDICT", "PACKETS", "BYTES", "EXPIRES"}, a.flowRows),
		kernel("metrics", []string{"REASON", "DIRECTION", "PACKETS", "BYTES"}, a.counterRows),
		own("addresses", []string{"PREFIX", "IDENTITY", "SOURCE", "LABELS"}, a.addressRows),
		own("ipam", []string{"ADDRESS", "OWNER"}, a.ipamRows),
		own("reconcilers", []string{"TABLE", "WANTED", "APPLIED", "FAILING", "REPAIRED", "ERROR"}, a.reconcilerRows),
	}
}

// Tables lists the tables.
func (t tables) Tables() []apiserver.TableInfo {
	var list []apiserver.TableInfo
	for _, r := range t.all() {
		list = append(list, r.info)
	}
	return list
}

// Table reads one table, with its rows in order.
func (t tables) Table(_ context.Context, name string) (*api.Table, error) {
	for _, r := range t.all() {
		if r.info.Name != name {
			continue
		}
		rows, err := r.rows()
		if err != nil {
			return nil, err
		}
		if rows == nil {
			rows = [][]string{}
		}
		return &api.Table{Name: name, Columns: r.columns, Rows: rows}, nil
	}
	return nil, fmt.Errorf("%w: no table %q", apiserver.ErrNotFound, name)
}

// Flush forgets all tracked flows; no other table is a cache.
func (t tables) Flush(_ context.Context, name string) (int, error) {
	if name != "ct" {
		return 0, fmt.Errorf("%w: table %q holds wanted state, only ct can be flushed", apiserver.ErrInvalid, name)
	}
	return t.a.dp.Flows().Flush(netip.Addr{})
}

func (a *Agent) endpointRows() ([][]string, error) {
	rows, err := a.dp.Endpoints().Dump()
	if err != nil {
		return nil, err
	}
	var out [][]string
	for _, addr := range sorted(rows, netip.Addr.Compare) {
		e := rows[addr]
		mac := fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", e.MAC[0], e.MAC[1], e.MAC[2], e.MAC[3], e.MAC[4], e.MAC[5])
		out = append(out, []string{
			addr.String(), text(e.ID), e.Identity.Name(), text(e.PolicyID), text(e.IfIndex), mac, text(e.MTU),
		})
	}
	return out, nil
}

func (a *Agent) ipcacheRows() ([][]string, error) {
	rows, err := a.dp.Addresses().Dump()
	if err != nil {
		return nil, err
	}
	var out [][]string
	for _, prefix := range sorted(rows, comparePrefix) {
		row := rows[prefix]
		node := ""
		if row.Node != 0 {
			node = a.peers.tunnelTo(row.Node)
		}
		out = append(out, []string{prefix.String(), row.Identity.Name(), node})
	}
	return out, nil
}

func (a *Agent) addressRows() ([][]string, error) {
	rows := a.rows.ipcache.All()
	var out [][]string
	for _, prefix := range sorted(rows, comparePrefix) {
		row := rows[prefix]
		labels := ""
		if id, ok := a.identities.Lookup(row.Identity); ok {
			labels = id.Labels.String()
		}
		out = append(out, []string{prefix.String(), row.Identity.Name(), row.Source.String(), labels})
	}
	return out, nil
}

func (a *Agent) ipamRows() ([][]string, error) {
	rows := a.book.Dump()
	var out [][]string
	for _, addr := range sorted(rows, netip.Addr.Compare) {
		out = append(out, []string{addr.String(), rows[addr]})
	}
	return out, nil
}

func (a *Agent) flowRows() ([][]string, error) {
	flows, err := a.dp.Flows().All()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(flows, func(x, y bpfmap.Flow) int { return int(x.Created - y.Created) })
	var out [][]string
	for _, f := range flows {
		verdict := "allowed"
		if f.Denied != 0 {
			verdict = f.Denied.String()
		}
		out = append(out, []string{
			f.Protocol.String(), flowAddr(&f, f.Source.Addr), flowAddr(&f, f.Destination.Addr),
			f.Source.Identity.Name(), f.Destination.Identity.Name(), f.State.String(), verdict,
			text(f.Source.Packets + f.Destination.Packets), text(f.Source.Bytes + f.Destination.Bytes),
			f.Expires.Round(time.Second).String(),
		})
	}
	return out, nil
}

func flowAddr(f *bpfmap.Flow, addr netip.AddrPort) string {
	if f.Protocol.HasPorts() {
		return addr.String()
	}
	return addr.Addr().String()
}

func (a *Agent) counterRows() ([][]string, error) {
	packets, err := a.packets()
	var out [][]string
	for _, p := range packets {
		reason := p.Reason
		if reason == "" {
			reason = "forwarded"
		}
		out = append(out, []string{reason, p.Direction, text(p.Count), text(p.Bytes)})
	}
	return out, err
}

// reconcilers tells how all that is wanted of this node's kernel stands.
func (a *Agent) reconcilers() []reconcile.Status {
	return slices.Concat(a.attachments.status(), a.rows.status(), a.hostRows.status(), a.peers.status())
}

func (a *Agent) reconcilerRows() ([][]string, error) {
	var out [][]string
	for _, s := range a.reconcilers() {
		message := ""
		if s.LastError != nil {
			message = s.LastError.Error()
		}
		out = append(out, []string{s.Table, text(s.Wanted), text(s.Applied), text(s.Failing), text(s.Repaired), message})
	}
	return out, nil
}

func sorted[K comparable, V any](rows map[K]V, compare func(K, K) int) []K {
	keys := make([]K, 0, len(rows))
	for k := range rows {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	return keys
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

func text[N ~int | ~uint8 | ~uint16 | ~uint32 | ~uint64](n N) string {
	return strconv.FormatUint(uint64(n), 10)
}
