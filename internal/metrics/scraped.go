// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// nodeLabels say who asked which node.
var nodeLabels = []string{"source_cluster", "source_node_name", "target_cluster", "target_node_name", "target_node_type", "type"}

// Descriptions of what is read at scrape time.
var (
	forwardCount   = describe("cilium_forward_count_total", "Packets forwarded.", "direction")
	forwardBytes   = describe("cilium_forward_bytes_total", "Bytes forwarded.", "direction")
	dropCount      = describe("cilium_drop_count_total", "Packets dropped.", "reason", "direction")
	dropBytes      = describe("cilium_drop_bytes_total", "Bytes dropped.", "reason", "direction")
	endpointState  = describe("cilium_endpoint_state", "Endpoints by state.", "endpoint_state")
	policyRevision = describe("cilium_policy_max_revision", "Revision of the policy in force.")
	policyRules    = describe("cilium_policy_count", "Number of policy rules in force.")
	identityCount  = describe("cilium_identity_count", "Number of identities known.")
	flowEvents     = describe("cilium_flow_table_events_total", "Flows that were made, decided again, evicted while alive, or refused for want of a row.", "event")
	nodeStatus     = describe("cilium_node_connectivity_status", "Whether another node has answered the last questions, 1 or 0.", nodeLabels...)
	nodeLatency    = describe("cilium_node_connectivity_latency_seconds", "Time until another node's last answer, in seconds.", append(nodeLabels, "target_node_ip", "protocol", "address_type")...)
	storeUp        = describe("cilium_kvstore_up", "Whether the key-value store answered the last question, 1 or 0.")
	storeAnswer    = describe("cilium_kvstore_last_answer_seconds", "Time since the key-value store's last answer; missing before the first.")
	storeBehind    = describe("cilium_kvstore_watch_lag_seconds", "How long the watch of the key-value store that is furthest behind has been so.")
	storeWaiting   = describe("cilium_kvstore_waiting_keys", "Keys that wait to be written to the key-value store.", "action")
	eventsLost     = describe("cilium_monitor_events_lost_total", "Data plane events that found no room on their way to a reader.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// scraped is a prometheus.Collector over Sources.
type scraped struct{ src Sources }

// Describe implements prometheus.Collector.
func (*scraped) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		forwardCount, forwardBytes, dropCount, dropBytes, endpointState,
		policyRevision, policyRules, identityCount, flowEvents, eventsLost, nodeStatus, nodeLatency,
		storeUp, storeAnswer, storeBehind, storeWaiting,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (s *scraped) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	packets, err := s.src.Packets()
	if err != nil {
		out <- prometheus.NewInvalidMetric(forwardCount, err)
	}
	for _, p := range packets {
		if p.Reason == "" {
			counter(forwardCount, p.Count, p.Direction)
			counter(forwardBytes, p.Bytes, p.Direction)
			continue
		}
		counter(dropCount, p.Count, p.Reason, p.Direction)
		counter(dropBytes, p.Bytes, p.Reason, p.Direction)
	}
	for state, n := range s.src.EndpointStates() {
		gauge(endpointState, float64(n), state)
	}
	gauge(policyRevision, float64(s.src.PolicyRevision()))
	gauge(policyRules, float64(s.src.PolicyRules()))
	gauge(identityCount, float64(s.src.Identities()))
	for event, n := range s.src.FlowEvents() {
		counter(flowEvents, n, event)
	}
	counter(eventsLost, s.src.EventsLost())
	collectStore(s.src.Store(), gauge)
	for _, n := range s.src.Nodes() {
		collectNode(n, gauge)
	}
}

func collectStore(st Store, gauge func(*prometheus.Desc, float64, ...string)) {
	up := 0.0
	if st.Up {
		up = 1
	}
	gauge(storeUp, up)
	if st.Answered > 0 {
		gauge(storeAnswer, st.Answered.Seconds())
	}
	gauge(storeBehind, st.Behind.Seconds())
	gauge(storeWaiting, float64(st.ToStore), "store")
	gauge(storeWaiting, float64(st.ToDelete), "delete")
}

func collectNode(n NodeHealth, gauge func(*prometheus.Desc, float64, ...string)) {
	where := "remote_intra_cluster"
	if n.Cluster != n.SourceCluster {
		where = "remote_inter_cluster"
	}
	labels := []string{n.SourceCluster, n.Source, n.Cluster, n.Name, where, "node"}
	reached := 0.0
	if n.Reached {
		reached = 1
	}
	gauge(nodeStatus, reached, labels...)
	for _, l := range n.Latencies {
		kind := "primary"
		if l.Secondary {
			kind = "secondary"
		}
		of := slices.Clone(labels)
		if l.Gateway {
			of[len(of)-1] = "endpoint"
		}
		gauge(nodeLatency, l.Latency.Seconds(), append(of, l.IP, l.Protocol, kind)...)
	}
}
