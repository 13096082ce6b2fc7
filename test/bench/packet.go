// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/datapath/prog"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// packetRepeat is how often the kernel runs a program for one sample.
const packetRepeat = 500_000

// loopback is the interface that the kernel's test run claims for a packet.
const loopback = 1

// packets measures what one packet costs in the kernel: the loaded program with
// its maps, run by the kernel over and over on one packet, beside an empty one.
func (b *bench) packets() error {
	pins := filepath.Join(b.BPFRoot, "bench")
	defer os.RemoveAll(pins)
	loaded, err := prog.Load(pins, prog.Constants{WorldIPv4: identity.World, WorldIPv6: identity.World},
		prog.DefaultSizes(), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer loaded.Close()
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return err
	}
	defer empty.Close() //nolint:errcheck // nothing to save
	if err := sender(loaded); err != nil {
		return err
	}
	if err := b.out.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(b.out, "\none packet in the kernel\tmedian\tempty program\tdifference")
	for _, family := range []struct{ name, src, dst string }{
		{"IPv4", "10.15.0.11", "192.0.2.1"}, {"IPv6", "f00d::a0f:0:0:11", "2001:db8::1"},
	} {
		for _, kind := range []struct {
			name  string
			dport uint16
		}{{"established flow", 80}, {"denied packet", 81}} {
			data, err := tcp(family.src, family.dst, kind.dport)
			if err != nil {
				return err
			}
			ours, base, err := pairs(loaded.FromWorkload, empty, data)
			if err != nil {
				return err
			}
			fmt.Fprintf(b.out, "%s, %s\t%d ns\t%d ns\t%d ns\n", kind.name, family.name, ours, base, ours-base)
		}
	}
	return b.out.Flush()
}

// sender makes a workload behind loopback known, which may reach port 80.
func sender(loaded *prog.Loaded) error {
	generation := bpfmap.NewGeneration(loaded.Maps.Control)
	policies := bpfmap.NewPolicies(loaded.Maps.Policies, loaded.Maps.PolicySpec, generation)
	defer policies.Close()
	err := policies.Apply(map[uint32]compile.Delta{2: compile.Whole(compile.Entries{
		{Direction: policy.Egress, Protocol: 6, Port: 80, PortBits: 16}: {
			policy.TierNormal: compile.NewCandidate(policy.Allow, 0, 2, compile.ResponseDrop),
		},
		{Direction: policy.Egress}: {compile.TierDefault: compile.NewCandidate(policy.Deny, 0, 2, compile.ResponseDrop)},
	})})
	if err != nil {
		return err
	}
	rows := bpfmap.NewEndpoints(loaded.Maps.Endpoints, generation)
	for _, ip := range []string{"10.15.0.11", "f00d::a0f:0:0:11"} {
		row := bpfmap.Endpoint{ID: 1, Identity: identity.MinAllocated, PolicyID: 2, IfIndex: loopback, MTU: 1500}
		if err := rows.Update(netip.MustParseAddr(ip), row); err != nil {
			return err
		}
	}
	return nil
}

// tcp is a segment in the middle of a connection. The first makes its flow.
func tcp(src, dst string, dport uint16) ([]byte, error) {
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}}
	segment := &layers.TCP{SrcPort: 40000, DstPort: layers.TCPPort(dport), ACK: true, Window: 1000}
	var ip gopacket.SerializableLayer
	if from := net.ParseIP(src); from.To4() != nil {
		eth.EthernetType = layers.EthernetTypeIPv4
		h := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: from, DstIP: net.ParseIP(dst)}
		_ = segment.SetNetworkLayerForChecksum(h)
		ip = h
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		h := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: from, DstIP: net.ParseIP(dst)}
		_ = segment.SetNetworkLayerForChecksum(h)
		ip = h
	}
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, segment)
	return buf.Bytes(), err
}

// pairs runs both programs in turn and returns the median of each, per packet.
func pairs(ours, empty *ebpf.Program, data []byte) (median, base time.Duration, err error) {
	const samples = 9
	var a, b []time.Duration
	for range samples {
		_, took, err := ours.Benchmark(data, packetRepeat, nil)
		if err != nil {
			return 0, 0, fmt.Errorf("run our program: %w", err)
		}
		a = append(a, took)
		if _, took, err = empty.Benchmark(data, packetRepeat, nil); err != nil {
			return 0, 0, fmt.Errorf("run the empty program: %w", err)
		}
		b = append(b, took)
	}
	return quantile(a, 0.5), quantile(b, 0.5), nil
}
