// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"time"

	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
)

type addresses struct{ *World }

func (a addresses) Reserve(family, owner string) (netip.Addr, error) {
	addr := netip.MustParseAddr("10.15.0.99")
	if family == "ipv6" {
		addr = netip.MustParseAddr("f00d::a0f:0:0:99")
	}
	if _, taken := a.Reserved[addr]; taken {
		return addr, fmt.Errorf("%w: no free address is left in the %s range", apiserver.ErrExhausted, family)
	}
	a.Reserved[addr] = owner
	return addr, nil
}

func (a addresses) ReserveAddr(addr netip.Addr, owner string) error {
	if owner, taken := a.Reserved[addr]; taken {
		return fmt.Errorf("%w: address %s belongs to %s", apiserver.ErrConflict, addr, owner)
	}
	if !netip.MustParsePrefix("10.15.0.0/16").Contains(addr) {
		return fmt.Errorf("%w: address %s is out of the node's range 10.15.0.0/16", apiserver.ErrInvalid, addr)
	}
	a.Reserved[addr] = owner
	return nil
}

func (a addresses) ReleaseReserved(addr netip.Addr) error {
	if _, taken := a.Reserved[addr]; !taken {
		return fmt.Errorf("%w: address %s is not allocated", apiserver.ErrNotFound, addr)
	}
	delete(a.Reserved, addr)
	return nil
}

type tableReader struct{ *World }

func (t tableReader) Tables() []apiserver.TableInfo {
	var list []apiserver.TableInfo
	for _, name := range slices.Sorted(maps.Keys(t.TableMap)) {
		list = append(list, apiserver.TableInfo{Name: name, Kernel: t.TableMap[name].Kernel})
	}
	return list
}

func (t tableReader) Table(_ context.Context, name string) (*api.Table, error) {
	if table, ok := t.TableMap[name]; ok {
		return table, nil
	}
	return nil, fmt.Errorf("%w: no table %q", apiserver.ErrNotFound, name)
}

func (t tableReader) Flush(_ context.Context, name string) (int, error) {
	if name != "ct" {
		return 0, fmt.Errorf("%w: table %q holds wanted state, only ct can be flushed", apiserver.ErrInvalid, name)
	}
	return len(t.TableMap[name].Rows), nil
}

func tables() map[string]*api.Table {
	return map[string]*api.Table{
		"endpoint": {
			Name: "endpoint", Kernel: true, Keys: 1, Columns: []string{"ADDRESS", "ENDPOINT", "IDENTITY", "POLICY"},
			Rows: [][]string{{"10.15.0.11", "11", "311", "11"}, {"10.15.0.22", "22", "322", "22"}},
		},
		"ipcache": {
			Name: "ipcache", Kernel: true, Keys: 1, Columns: []string{"PREFIX", "IDENTITY"},
			Rows: [][]string{{"0.0.0.0/0", "world-ipv4"}, {"10.15.0.11/32", "311"}, {"10.15.0.0/16", "unmanaged"}},
		},
		"policy": {
			Name: "policy", Kernel: true, Keys: 6,
			Columns: []string{"POLICY", "FOR", "DIRECTION", "PEER", "PROTOCOL", "PORT", "VERDICT"},
			Rows: [][]string{
				{"11", "311", "ingress", "322", "TCP", "80", "allow"}, {"22", "322", "ingress", "any", "ANY", "any", "allow"},
			},
		},
		"ct": {
			Name: "ct", Kernel: true, Keys: 3, Columns: []string{"PROTOCOL", "SOURCE", "DESTINATION", "STATE"},
			Rows: [][]string{{"TCP", "10.15.0.22:40000", "10.15.0.11:80", "open"}},
		},
		"metrics": {
			Name: "metrics", Kernel: true, Keys: 2, Columns: []string{"REASON", "DIRECTION", "PACKETS", "BYTES"},
			Rows: [][]string{{"Policy denied", "ingress", "3", "222"}},
		},
		"ipam": {Name: "ipam", Keys: 1, Columns: []string{"ADDRESS", "OWNER"}, Rows: [][]string{{"10.15.0.11", "endpoint 11"}}},
	}
}

type store struct{ *World }

func (s store) Get(_ context.Context, key string) (string, error) {
	if value, ok := s.KeyValue[key]; ok {
		return value, nil
	}
	if strings.HasPrefix(key, "away") {
		return "", fmt.Errorf("%w: key-value store does not answer", apiserver.ErrUnavailable)
	}
	return "", fmt.Errorf("%w: no key %s", apiserver.ErrNotFound, key)
}

func (s store) List(_ context.Context, prefix string) ([]api.KeyValue, error) {
	var list []api.KeyValue
	for _, key := range slices.Sorted(maps.Keys(s.KeyValue)) {
		if strings.HasPrefix(key, prefix) {
			list = append(list, api.KeyValue{Key: key, Value: s.KeyValue[key]})
		}
	}
	return list, nil
}

func (s store) Set(_ context.Context, key, value string) error {
	s.KeyValue[key] = value
	return nil
}

func (s store) Delete(ctx context.Context, key string, recursive bool) (int, error) {
	list, _ := s.List(ctx, key)
	n := 0
	for _, kv := range list {
		if recursive || kv.Key == key {
			delete(s.KeyValue, kv.Key)
			n++
		}
	}
	return n, nil
}

func healthy() api.StatusResponse {
	ok := func(msg string) *api.Status { return &api.Status{State: api.SeverityOk, Msg: msg} }
	return api.StatusResponse{
		Cilium: ok("OK"), KVStore: ok("embedded etcd"), Datapath: ok("tcx"), Policy: ok("revision 1"),
		ContainerRuntime: &api.Status{State: api.SeverityDisabled, Msg: "no Docker socket given"},
		Forwarding:       &api.Status{State: api.SeverityWarning, Msg: "net.ipv4.ip_forward is off: addresses outside answer only with it"},
		FlowLog:          ok("0.5 of 32 MiB, 1200 decisions since the start"),
		IPAM: &api.IPAMStatus{
			IPv4: []string{"10.15.0.11", "10.15.0.22", "10.15.0.33"}, IPv4Range: "10.15.0.0/16",
			IPv6: []string{"f00d::a0f:0:0:b"}, IPv6Range: "f00d::a0f:0:0:0/96",
			Allocations: map[string]string{"10.15.0.11": "endpoint 11", "10.15.0.22": "endpoint 22"},
		},
		NodeMonitor: &api.MonitorStatus{Lost: 2, Readers: 1, CPUs: 2},
		Cluster:     &api.ClusterStatus{Self: "node1", Nodes: append([]api.NodeElement{{Name: "node1", Cluster: "default"}}, others()...)},
		Endpoints:   &api.EndpointStateCounts{Total: 3, ByState: map[string]int{"ready": 3}},
		Controllers: []api.ControllerStatus{
			{Name: "endpoints", Status: &api.ControllerStatusStatus{SuccessCount: 4, LastSuccessTimestamp: &Start}},
			{Name: "ipcache", Status: &api.ControllerStatusStatus{FailureCount: 1, ConsecutiveFailureCount: 1, LastFailureMsg: "map is full"}},
		},
		Version: "v1",
	}
}

// others are two nodes, one of which does not answer.
func others() []api.NodeElement {
	probe := func(protocol, ip string, latency time.Duration) api.NodeProbe {
		return api.NodeProbe{Protocol: protocol, IP: ip, Latency: int64(latency), Asked: Start, Reached: &Start}
	}
	silent := probe("http", "172.16.0.3", 0)
	silent.Error = "connection refused"
	range4 := func(ip, prefix string) *api.NodeAddressing {
		return &api.NodeAddressing{IPv4: &api.NodeAddressingElement{Enabled: true, IP: ip, AllocRange: prefix, AddressType: "gateway"}}
	}
	address := func(ip string) []api.NodeAddressingElement {
		return []api.NodeAddressingElement{{Enabled: true, IP: ip, AddressType: "node"}}
	}
	return []api.NodeElement{
		{
			Name: "node3", Cluster: "default", PrimaryAddress: range4("10.17.0.1", "10.17.0.0/16"), SecondaryAddresses: address("172.16.0.3"),
			Health: []api.NodeProbe{probe("icmp", "172.16.0.3", 310*time.Microsecond), silent},
		},
		{
			Name: "node4", Cluster: "default", PrimaryAddress: range4("10.18.0.1", "10.18.0.0/16"), SecondaryAddresses: address("172.16.0.4"),
			Health: []api.NodeProbe{probe("icmp", "172.16.0.4", 240*time.Microsecond), probe("http", "172.16.0.4", 1300*time.Microsecond)},
		},
		{Name: "node5", Cluster: "east", PrimaryAddress: range4("10.19.0.1", "10.19.0.0/16"), SecondaryAddresses: address("172.16.0.5")},
	}
}

func configuration() api.DaemonConfiguration {
	element := func(ip, ipRange string) *api.NodeAddressingElement {
		return &api.NodeAddressingElement{Enabled: true, IP: ip, AllocRange: ipRange}
	}
	realized := &api.DaemonConfigurationSpec{PolicyEnforcement: "default"}
	return api.DaemonConfiguration{
		Spec: realized,
		Status: &api.DaemonConfigurationStatus{
			Realized: realized, DatapathMode: "veth", DeviceMTU: 1500,
			Immutable: api.ConfigurationMap{"allow-localhost": "false", "state-dir": "/var/run/cilium"},
			Addressing: &api.NodeAddressing{
				IPv4: element("10.15.0.1", "10.15.0.0/16"), IPv6: element("f00d::a0f:0:0:1", "f00d::a0f:0:0:0/96"),
			},
			KVStoreConfiguration: &api.KVStoreConfiguration{Type: "etcd", Options: map[string]string{"mode": "embedded"}},
		},
	}
}
