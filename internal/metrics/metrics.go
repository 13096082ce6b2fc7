// SPDX-License-Identifier: Apache-2.0

// Package metrics keeps the agent's Prometheus metrics in a registry of its own.
//
// What the kernel or a table already counts is read when somebody scrapes, from
// the functions in Sources; only durations are kept here. Names are those that
// dashboards of the original know. A Metrics is safe for concurrent use.
package metrics

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// Packets counts the packets of one outcome. Reason is empty for those that
// were forwarded; Direction is "INGRESS" or "EGRESS".
type Packets struct {
	Reason, Direction string
	Count, Bytes      uint64
}

// Sources are read at each scrape. Every function must be set.
type Sources struct {
	Packets        func() ([]Packets, error)
	EndpointStates func() map[string]int
	PolicyRevision func() uint64
	PolicyRules    func() int
	Identities     func() int
	EventsLost     func() uint64
	FlowEvents     func() map[string]uint64 // what happened to the flow table, by name
	Nodes          func() []NodeHealth
	Store          func() Store
}

// Store is the condition of the key-value store.
type Store struct {
	Up                bool
	Answered          time.Duration // since its last answer; 0 before the first
	Behind            time.Duration // of the watch that is furthest behind
	ToStore, ToDelete int           // keys that wait
}

// NodeHealth is what came of asking another node. Source is the node that asks.
type NodeHealth struct {
	SourceCluster, Source string
	Cluster, Name         string
	Reached               bool
	Latencies             []NodeLatency
}

// NodeLatency is how long a node took to answer at one of its addresses.
type NodeLatency struct {
	IP, Protocol string
	Secondary    bool // the node has another address, too, which counts as its first
	Gateway      bool // the address is that of the node among its workloads
	Latency      time.Duration
}

// Metrics is the agent's metrics. Make it with New.
type Metrics struct {
	registry *prometheus.Registry
	started  time.Time

	enforced  prometheus.Histogram
	imports   *prometheus.CounterVec
	kvstore   *prometheus.HistogramVec
	api       *prometheus.HistogramVec
	bootstrap prometheus.Gauge
}

// latency buckets in seconds, from half a millisecond to 8 s.
var latency = prometheus.ExponentialBuckets(0.0005, 2, 15)

// New returns metrics that read the sources.
func New(src Sources, version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		started:  time.Now(),
		enforced: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "cilium_policy_implementation_delay",
			Help:    "Time from the import of a policy until the kernel enforces it, in seconds.",
			Buckets: latency,
		}),
		imports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cilium_policy_change_total", Help: "Policy changes by outcome.",
		}, []string{"outcome"}),
		kvstore: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "cilium_kvstore_operations_duration_seconds",
			Help:    "Duration of operations on the key-value store, in seconds.",
			Buckets: latency,
		}, []string{"action", "outcome"}),
		api: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "cilium_agent_api_process_time_seconds",
			Help:    "Time to answer a request to the agent's API, in seconds.",
			Buckets: latency,
		}, []string{"path", "method", "return_code"}),
		bootstrap: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "cilium_agent_bootstrap_seconds",
			Help: "Time from the start of the agent until it was ready, in seconds.",
		}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "cilium_version", Help: "Version of the agent; the value is always 1.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	m.registry.MustRegister(m.enforced, m.imports, m.kvstore, m.api, m.bootstrap, info, &scraped{src: src})
	return m
}

// Ready notes that the agent is ready; the first call counts.
func (m *Metrics) Ready() { m.bootstrap.Set(time.Since(m.started).Seconds()) }

// PolicyEnforced notes a policy change that took d from request to kernel, or
// that failed.
func (m *Metrics) PolicyEnforced(d time.Duration, err error) {
	m.imports.WithLabelValues(outcome(err)).Inc()
	if err == nil {
		m.enforced.Observe(d.Seconds())
	}
}

// KVStore notes one operation on the store.
func (m *Metrics) KVStore(action string, d time.Duration, err error) {
	m.kvstore.WithLabelValues(action, outcome(err)).Observe(d.Seconds())
}

// API notes one request. The path is the route's pattern, not what was asked
// for, so that the number of series stays bounded.
func (m *Metrics) API(method, path string, code int, d time.Duration) {
	m.api.WithLabelValues(path, method, fmt.Sprint(code)).Observe(d.Seconds())
}

func outcome(err error) string {
	if err != nil {
		return "failure"
	}
	return "success"
}

// Handler serves the metrics in Prometheus' formats.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// Sample is one value of one series. A histogram gives two, NAME_count and NAME_sum.
type Sample struct {
	Name   string
	Labels map[string]string
	Value  float64
}

// Samples returns all present values.
func (m *Metrics) Samples() ([]Sample, error) {
	families, err := m.registry.Gather()
	var all []Sample
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			all = append(all, samplesOf(family.GetName(), metric)...)
		}
	}
	if err != nil {
		return all, fmt.Errorf("gather metrics: %w", err)
	}
	return all, nil
}

func samplesOf(name string, metric *dto.Metric) []Sample {
	labels := map[string]string{}
	for _, pair := range metric.GetLabel() {
		labels[pair.GetName()] = pair.GetValue()
	}
	switch {
	case metric.GetCounter() != nil:
		return []Sample{{name, labels, metric.GetCounter().GetValue()}}
	case metric.GetGauge() != nil:
		return []Sample{{name, labels, metric.GetGauge().GetValue()}}
	case metric.GetHistogram() != nil:
		h := metric.GetHistogram()
		return []Sample{
			{name + "_count", labels, float64(h.GetSampleCount())},
			{name + "_sum", labels, h.GetSampleSum()},
		}
	}
	return nil
}
