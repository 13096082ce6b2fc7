// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/internal/metrics"
)

func sources() metrics.Sources {
	return metrics.Sources{
		Packets: func() ([]metrics.Packets, error) {
			return []metrics.Packets{
				{Direction: "EGRESS", Count: 7, Bytes: 700},
				{Reason: "Policy denied", Direction: "INGRESS", Count: 3, Bytes: 180},
			}, nil
		},
		EndpointStates: func() map[string]int { return map[string]int{"ready": 2} },
		PolicyRevision: func() uint64 { return 5 },
		PolicyRules:    func() int { return 4 },
		Identities:     func() int { return 12 },
		EventsLost:     func() uint64 { return 1 },
		Store: func() metrics.Store {
			return metrics.Store{Up: true, Answered: 3 * time.Second, Behind: 2 * time.Second, ToStore: 4, ToDelete: 5}
		},
		FlowEvents: func() map[string]uint64 { return map[string]uint64{"refused": 6} },
		Nodes: func() []metrics.NodeHealth {
			return []metrics.NodeHealth{
				{SourceCluster: "default", Source: "n1", Cluster: "default", Name: "n2", Reached: true, Latencies: []metrics.NodeLatency{
					{IP: "172.16.0.2", Protocol: "icmp", Latency: time.Millisecond}, {IP: "fd00::2", Protocol: "http", Secondary: true, Latency: 2 * time.Millisecond},
				}},
				{SourceCluster: "default", Source: "n1", Cluster: "east", Name: "n3"},
			}
		},
	}
}

func scrape(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func TestScrapeReadsTheSourcesAndTheDurations(t *testing.T) {
	m := metrics.New(sources(), "1.2.3")
	m.Ready()
	m.PolicyEnforced(3*time.Millisecond, nil)
	m.PolicyEnforced(time.Second, errors.New("too large"))
	m.KVStore("get", time.Millisecond, nil)
	m.API("PUT", "/policy", 200, time.Millisecond)
	text := scrape(t, m)
	for _, line := range []string{
		`cilium_forward_count_total{direction="EGRESS"} 7`,
		`cilium_drop_count_total{direction="INGRESS",reason="Policy denied"} 3`,
		`cilium_drop_bytes_total{direction="INGRESS",reason="Policy denied"} 180`,
		`cilium_endpoint_state{endpoint_state="ready"} 2`,
		`cilium_policy_max_revision 5`,
		`cilium_identity_count 12`,
		`cilium_kvstore_up 1`,
		`cilium_kvstore_last_answer_seconds 3`,
		`cilium_kvstore_watch_lag_seconds 2`,
		`cilium_kvstore_waiting_keys{action="store"} 4`,
		`cilium_kvstore_waiting_keys{action="delete"} 5`,
		`cilium_flow_table_events_total{event="refused"} 6`,
		`cilium_node_connectivity_status{source_cluster="default",source_node_name="n1",target_cluster="default",target_node_name="n2",target_node_type="remote_intra_cluster",type="node"} 1`,
		`cilium_node_connectivity_status{source_cluster="default",source_node_name="n1",target_cluster="east",target_node_name="n3",target_node_type="remote_inter_cluster",type="node"} 0`,
		`cilium_node_connectivity_latency_seconds{address_type="primary",protocol="icmp",source_cluster="default",source_node_name="n1",target_cluster="default",target_node_ip="172.16.0.2",target_node_name="n2",target_node_type="remote_intra_cluster",type="node"} 0.001`,
		`cilium_node_connectivity_latency_seconds{address_type="secondary",protocol="http",source_cluster="default",source_node_name="n1",target_cluster="default",target_node_ip="fd00::2",target_node_name="n2",target_node_type="remote_intra_cluster",type="node"} 0.002`,
		`cilium_policy_implementation_delay_count 1`,
		`cilium_policy_change_total{outcome="failure"} 1`,
		`cilium_kvstore_operations_duration_seconds_count{action="get",outcome="success"} 1`,
		`cilium_agent_api_process_time_seconds_count{method="PUT",path="/policy",return_code="200"} 1`,
		`cilium_version{version="1.2.3"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

func TestKernelCountersThatCannotBeReadLeaveTheOthers(t *testing.T) {
	src := sources()
	src.Packets = func() ([]metrics.Packets, error) { return nil, errors.New("map is gone") }
	text := scrape(t, metrics.New(src, "x"))
	if !strings.Contains(text, "cilium_policy_max_revision 5") {
		t.Errorf("other metrics are missing:\n%s", text)
	}
}

func TestSamplesListEverySeriesOnce(t *testing.T) {
	m := metrics.New(sources(), "x")
	m.PolicyEnforced(time.Second, nil)
	samples, err := m.Samples()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]float64{}
	for _, s := range samples {
		byName[s.Name] += s.Value
	}
	if byName["cilium_policy_implementation_delay_sum"] != 1 || byName["cilium_forward_bytes_total"] != 700 {
		t.Errorf("samples: %v", byName)
	}
}
