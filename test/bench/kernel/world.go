// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath"
	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/datapath/prog"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
	"cilium.local/cilium/test/lab"
)

// loopback is the interface that a test run claims for its packet.
const loopback = 1

// The world's workloads: one client, and 256 servers with a policy that opens one
// port to the client.
const (
	clientID, serverID         = identity.MinAllocated, identity.MinAllocated + 1
	firstOther                 = identity.MinAllocated + 2
	clientPolicy, serverPolicy = 2, 4
	servers                    = 256
	openPort, closedPort       = 80, 81
	firstPort                  = 1024
)

// World is a data plane with its maps, attached to the loopback of a namespace, and
// a reader of its events.
type World struct {
	node   *lab.Node
	dp     *datapath.Datapath
	entry  *ebpf.Program
	cancel context.CancelFunc
	read   chan error
}

// NewWorld makes one with so many rules about the servers, and so many identities
// of others, with an address each. Each rule names the identities of one
// application and one port of their own; the first is that about the client.
func NewWorld(node *lab.Node, name string, rules, identities int) (w *World, err error) {
	w = &World{node: node, read: make(chan error, 1)}
	w.dp, err = datapath.Open(datapath.Config{
		PinDir:    filepath.Join(node.BPFRoot, name),
		Constants: prog.Constants{WorldIPv4: identity.World, WorldIPv6: identity.World},
		Sizes:     prog.DefaultSizes(),
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	go func() { w.read <- w.dp.Events(ctx, func(flow.Event) {}) }()
	if err := errors.Join(w.rows(identities), w.policies(rules, identities)); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	// What is measured is what the kernel runs for a packet of a device.
	err = node.Do(func() (err error) {
		lo := datapath.Device{Index: loopback, Name: "lo"}
		if err := w.dp.Attach(lo); err != nil {
			return err
		}
		w.entry, err = attached()
		return errors.Join(err, w.dp.Detach(lo))
	})
	if err == nil {
		err = w.establish()
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Entry is the program at which a packet of a workload begins.
func (w *World) Entry() *ebpf.Program { return w.entry }

// Close ends the reader and lets go of programs and maps. What is pinned goes with
// the node.
func (w *World) Close() error {
	w.cancel()
	err := <-w.read
	if w.entry != nil {
		err = errors.Join(err, w.entry.Close())
	}
	w.dp.Close()
	return err
}

func client(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.MustParseAddr("f00d::a0f:0:0:11")
	}
	return netip.MustParseAddr("10.15.0.11")
}

func server(ipv6 bool, i int) netip.Addr {
	if ipv6 {
		return netip.MustParseAddr(fmt.Sprintf("f00d::a0f:0:1:%x", i))
	}
	return netip.AddrFrom4([4]byte{10, 15, 1, byte(i)})
}

// rows makes the workloads and the others' addresses known.
func (w *World) rows(identities int) error {
	rows := w.dp.Endpoints()
	for _, ipv6 := range []bool{false, true} {
		row := bpfmap.Endpoint{ID: 1, Identity: clientID, PolicyID: clientPolicy, IfIndex: loopback, MTU: 1500}
		if err := rows.Update(client(ipv6), row); err != nil {
			return err
		}
		for i := range servers {
			row := bpfmap.Endpoint{ID: uint16(2 + i), Identity: serverID, PolicyID: serverPolicy, IfIndex: loopback, MTU: 1500}
			if err := rows.Update(server(ipv6, i), row); err != nil {
				return err
			}
		}
	}
	addresses := w.dp.Addresses()
	for i := range identities {
		addr := netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)})
		if err := addresses.Update(netip.PrefixFrom(addr, addr.BitLen()), bpfmap.Address{Identity: firstOther + identity.ID(i)}); err != nil {
			return err
		}
	}
	return nil
}

func labels(values ...string) label.Set {
	var all []label.Label
	for _, v := range values {
		l, _ := label.Parse(label.SourceContainer + ":" + v)
		all = append(all, l)
	}
	return label.NewSet(all...)
}

// policies compiles the rules as the agent does.
func (w *World) policies(count, identities int) error {
	const allow = `{"endpointSelector": {"matchLabels": {"role": "server"}}, "ingress": [{
		"fromEndpoints": [{"matchLabels": {"%s": "%s"}}], "toPorts": [{"ports": [{"port": "%d", "protocol": "TCP"}]}]}]}`
	texts := "[" + fmt.Sprintf(allow, "role", "client", openPort)
	for i := 1; i < count; i++ {
		texts += "," + fmt.Sprintf(allow, "app", fmt.Sprint(i), 10000+i)
	}
	rules, err := policy.Parse("bench.json", []byte(texts+"]"))
	if err != nil {
		return err
	}
	for i, r := range rules {
		r.Cookie = uint32(i + 1)
	}
	all := []identity.Identity{{ID: clientID, Labels: labels("role=client")}, {ID: serverID, Labels: labels("role=server")}}
	for i := range identities {
		all = append(all, identity.Identity{ID: firstOther + identity.ID(i), Labels: labels(fmt.Sprintf("app=%d", i%max(count, 1)), fmt.Sprintf("copy=%d", i))})
	}
	changes := map[uint32]compile.Delta{}
	for number, subject := range map[uint32]identity.Identity{clientPolicy: all[0], serverPolicy: all[1]} {
		changes[number] = compile.Whole(compile.Compile(subject.Labels, rules, all, policy.Options{Mode: policy.ModeDefault}))
	}
	return w.dp.Policies().Apply(changes)
}

// establish opens all the flows that Random chooses from, in IPv4, and the one that
// Hot is about in IPv6.
func (w *World) establish() error {
	for i := range Flows {
		if err := w.open(false, i&0xff, uint16(firstPort+i>>8)); err != nil {
			return err
		}
	}
	return w.open(true, 0, firstPort)
}

// open is a connection's first three packets.
func (w *World) open(ipv6 bool, to int, port uint16) error {
	request := segment{from: client(ipv6), to: server(ipv6, to), sport: port, dport: openPort, flags: flagSYN}
	answer := segment{from: request.to, to: request.from, sport: openPort, dport: port, flags: flagSYN | flagACK}
	last := request
	last.flags = flagACK
	for _, s := range []segment{request, answer, last} {
		action, err := w.entry.Run(&ebpf.RunOptions{Data: s.frame()})
		if err != nil {
			return fmt.Errorf("open a flow: %w", err)
		}
		if action != actionRedirect {
			return fmt.Errorf("open a flow: the programs say %d to a packet from %s to %s, want %d", action, s.from, s.to, actionRedirect)
		}
	}
	return nil
}
