// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net"
	"testing"

	"cilium.local/cilium/internal/datapath/attach"
	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/table"
)

// BenchmarkComparison compares what hangs on 250 devices, as the agent does every few
// seconds, and the pins.
func BenchmarkComparison(b *testing.B) {
	for name, legacy := range map[string]bool{"links": false, "filters": true} {
		b.Run(name, func(b *testing.B) {
			dp, err := Open(Config{PinDir: bpffs(b), Constants: constants(), Sizes: smallSizes(), LegacyHooks: legacy}, discard())
			must(b, err)
			b.Cleanup(dp.Close)
			home := namespace(b, "node")
			wanted := attachMany(b, dp, home, 250)
			attachments, pins := dp.Attachments(wanted), dp.Pins()
			must(b, device.InNamespace(home, func() error {
				for b.Loop() {
					is, err := attachments.Dump()
					must(b, err)
					for dev, want := range wanted.All() {
						if is[dev] != want {
							b.Fatalf("%v has %v, want %v", dev, is[dev], want)
						}
					}
					_, err = pins.Dump()
					must(b, err)
				}
				return nil
			}))
		})
	}
}

// attachMany makes devices of workloads in the namespace that have their programs.
func attachMany(b *testing.B, dp *Datapath, home string, count uint16) *table.Table[Device, attach.State] {
	wanted := table.New[Device, attach.State]("attachments")
	gateway := constants().GatewayMAC
	must(b, device.InNamespace(home, func() error {
		for id := uint16(1); id <= count; id++ {
			index, _, err := device.CreatePair(device.PairSpec{
				Endpoint: id, HostName: device.HostName(id), PeerName: device.PeerName(id),
				HostMAC: gateway[:], PeerMAC: net.HardwareAddr{2, 0, 0, 0, 1, byte(id)}, MTU: 1500,
			})
			must(b, err)
			dev := Device{Index: index, Name: device.HostName(id)}
			must(b, dp.attachLinks(dev))
			state, err := dp.Wanted(dev)
			must(b, err)
			wanted.Upsert(dev, state)
		}
		return nil
	}))
	return wanted
}
