// SPDX-License-Identifier: Apache-2.0

// Package apitest serves the agent's API from memory, for tests of the handlers,
// the client and the command line. There is no kernel, no store and no policy
// engine behind it: the answers are a small fixed world that requests can change.
package apitest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/metrics"
	"cilium.local/cilium/internal/observe"
)

// Start is the time of everything in the world.
var Start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// World is the memory behind the API. Tests may set its fields before Serve.
type World struct {
	mu sync.Mutex
	// StatusResponse and Config are answered as they are.
	StatusResponse api.StatusResponse
	Config         api.DaemonConfiguration
	EndpointList   []endpoint.Endpoint
	IdentityList   []identity.Identity
	Reserved       map[netip.Addr]string
	Documents      []apiserver.Document
	RevisionNumber uint64
	// RefuseImport, when set, is the error of every import.
	RefuseImport error
	// Traced is the last query that was asked.
	Traced   apiserver.TraceQuery
	KeyValue map[string]string
	TableMap map[string]*api.Table
	Hub      *observe.Hub
}

// NewWorld returns a world of three endpoints: app1, which a rule closes but for
// app2, and app3 without a rule.
func NewWorld() *World {
	w := &World{
		StatusResponse: healthy(),
		Config:         configuration(),
		IdentityList:   identity.Reserved(),
		Reserved:       map[netip.Addr]string{},
		RevisionNumber: 1,
		KeyValue:       map[string]string{"cilium/state/identities/v1/id/300": "container:id=app1;"},
		TableMap:       tables(),
	}
	w.Hub = observe.New(observe.Config{Node: "node1", Names: observe.Names{
		Labels: func(id identity.ID) []string {
			known, _ := identities{w}.Lookup(id)
			return known.Labels.Strings()
		},
		Rule: func(uint32) observe.Rule {
			return observe.Rule{Labels: []string{"unspec:name=l3-rule"}, Log: "closed", Origin: "l3-rule.json:1 (rule 1)"}
		},
		Interface: func(ifindex int) string { return fmt.Sprintf("lxc%05x", ifindex-100) },
		Endpoint: func(addr netip.Addr) uint16 {
			for _, e := range w.EndpointList {
				if e.IPv4 == addr || e.IPv6 == addr {
					return e.ID
				}
			}
			return 0
		},
	}}, Start)
	for i, id := range []uint16{11, 22, 33} {
		w.addEndpoint(id, fmt.Sprintf("app%d", i+1))
	}
	return w
}

func (w *World) addEndpoint(id uint16, app string) {
	labels := label.NewSet(label.Label{Source: label.SourceContainer, Key: "id", Value: app})
	known := identity.Identity{ID: identity.ID(300 + uint32(id)), Labels: labels}
	w.IdentityList = append(w.IdentityList, known)
	w.EndpointList = append(w.EndpointList, endpoint.Endpoint{
		ID: id, Labels: labels, LabelsKnown: true, IdentityLabels: labels, Identity: known.ID,
		External: endpoint.External{ContainerID: strings.Repeat(app, 16), ContainerName: app, DockerEndpointID: "de-" + app},
		PolicyID: uint32(id), PolicyRevision: 1,
		IPv4: netip.AddrFrom4([4]byte{10, 15, 0, byte(id)}), IPv6: netip.MustParseAddr(fmt.Sprintf("f00d::a0f:0:0:%x", id)),
		Device: endpoint.Device{
			HostName: fmt.Sprintf("lxc%05x", id), PeerName: fmt.Sprintf("tmp%05x", id), IfIndex: 100 + int(id), MTU: 1500,
			HostMAC: []byte{2, 0, 0, 0, 0, 1}, MAC: []byte{2, 0, 0, 0, 1, byte(id)},
		},
		State: endpoint.StateReady, Created: Start,
		Log: []endpoint.StatusChange{
			{Time: Start, Code: endpoint.CodeOK, Message: "endpoint requested", State: endpoint.StateCreating},
			{Time: Start.Add(20 * time.Millisecond), Code: endpoint.CodeOK, Message: "connected", State: endpoint.StateReady},
		},
	})
}

// Agent returns the world as the server sees it.
func (w *World) Agent() apiserver.Agent {
	return apiserver.Agent{
		Node: node{w}, Endpoints: endpoints{w}, Identities: identities{w}, Addresses: addresses{w},
		Policy: policy{w}, Events: w.Hub, Tables: tableReader{w}, Store: store{w},
		Samples: func() ([]metrics.Sample, error) {
			return []metrics.Sample{
				{Name: "cilium_policy_max_revision", Value: 1},
				{Name: "cilium_endpoint_state", Labels: map[string]string{"endpoint_state": "ready"}, Value: 3},
			}, nil
		},
	}
}

// Serve answers the world's API until the test ends, and returns the socket.
func Serve(t *testing.T, w *World) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "cilium.sock")
	l, err := apiserver.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- apiserver.New(w.Agent(), slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("API server: %v", err)
		}
	})
	return socket
}

// Drop hands a drop of app3's packet to app1 to the monitors.
func (w *World) Drop() {
	w.Hub.Receive(flow.Event{
		Type: flow.TypeDrop, Time: Start, Reason: flow.DropPolicy, Endpoint: 11, Hash: 0xabcd,
		SourceIdentity: 333, DestIdentity: 311, Proto: 6, TCPFlags: 2,
		Source: netip.MustParseAddrPort("10.15.0.33:40000"), Dest: netip.MustParseAddrPort("10.15.0.11:80"),
		File: "policy.h", Line: 53, Length: 74, Ifindex: 133, Capture: []byte{1, 2, 3},
	})
}

type node struct{ *World }

func (n node) Status(context.Context) *api.StatusResponse {
	n.mu.Lock()
	defer n.mu.Unlock()
	status := n.StatusResponse
	return &status
}

func (n node) Configuration() *api.DaemonConfiguration { return &n.Config }

func (n node) Configure(_ context.Context, spec *api.DaemonConfigurationSpec) error {
	for name := range spec.Options {
		return fmt.Errorf("%w: option %q is unknown; cilium config lists the options", apiserver.ErrInvalid, name)
	}
	n.Config.Status.Realized.PolicyEnforcement = spec.PolicyEnforcement
	return nil
}

func (n node) Addressing() *api.NodeAddressing { return n.Config.Status.Addressing }

func (n node) Nodes() []api.NodeElement {
	return append([]api.NodeElement{{Name: "node1", Cluster: "default", PrimaryAddress: n.Addressing()}}, others()...)
}

// DeleteNode knows of node2, which is gone; node1 is there.
func (n node) DeleteNode(_ context.Context, name string, force bool) (*api.NodeDeletion, error) {
	switch name {
	case "node1":
		if force {
			return &api.NodeDeletion{Ranges: []string{"10.15.1.0/24"}}, nil
		}
		return nil, fmt.Errorf("%w: the node is registered", apiserver.ErrConflict)
	case "node2":
		return &api.NodeDeletion{Ranges: []string{"10.15.2.0/24"}}, nil
	}
	return nil, fmt.Errorf("%w: node %s has claimed no range", apiserver.ErrNotFound, name)
}

type endpoints struct{ *World }

func (e endpoints) List() []endpoint.Endpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.EndpointList)
}

func (e endpoints) Lookup(ref string) (endpoint.Endpoint, error) {
	for _, ep := range e.List() {
		x := ep.External
		names := []string{
			fmt.Sprint(ep.ID), "container-id:" + x.ContainerID, "container-name:" + x.ContainerName,
			"docker-endpoint:" + x.DockerEndpointID, "ipv4:" + ep.IPv4.String(), "ipv6:" + ep.IPv6.String(),
		}
		if slices.Contains(names, ref) {
			return ep, nil
		}
	}
	if strings.HasPrefix(ref, "bad") {
		return endpoint.Endpoint{}, fmt.Errorf("%w: %q names nothing", endpoint.ErrInvalid, ref)
	}
	return endpoint.Endpoint{}, fmt.Errorf("%w: no endpoint %q", endpoint.ErrNotFound, ref)
}

func (e endpoints) Create(_ context.Context, spec endpoint.Spec) (endpoint.Endpoint, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ep := range e.EndpointList {
		if ep.ID == spec.ID || spec.IPv4.IsValid() && ep.IPv4 == spec.IPv4 {
			return ep, fmt.Errorf("%w: address %s belongs to endpoint %d", endpoint.ErrConflict, spec.IPv4, ep.ID)
		}
	}
	ep := endpoint.Endpoint{
		ID: spec.ID, External: spec.External, Labels: spec.Labels, LabelsKnown: spec.LabelsKnown,
		IPv4: spec.IPv4, IPv6: spec.IPv6, State: endpoint.StateReady, Created: Start,
		Identity: identity.Init, IdentityLabels: label.Reserved("init"),
		Device: endpoint.Device{HostName: "lxc0004d", PeerName: "tmp0004d", IfIndex: 177, MTU: 1500, NetNS: spec.NetNS, MAC: spec.MAC},
	}
	if ep.ID == 0 {
		ep.ID = 77
	}
	e.EndpointList = append(e.EndpointList, ep)
	return ep, nil
}

func (e endpoints) Delete(_ context.Context, id uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.EndpointList = slices.DeleteFunc(e.EndpointList, func(ep endpoint.Endpoint) bool { return ep.ID == id })
	if id == 33 {
		return fmt.Errorf("remove routes of endpoint %d: device is busy", id)
	}
	return nil
}

func (e endpoints) SetLabels(ctx context.Context, id uint16, labels label.Set) error {
	return e.SetContainer(ctx, id, "", "", labels)
}

func (e endpoints) SetTraced(_ context.Context, id uint16, traced bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.EndpointList {
		if ep := &e.EndpointList[i]; ep.ID == id {
			ep.Traced = traced
		}
	}
	return nil
}

func (e endpoints) SetContainer(_ context.Context, id uint16, containerID, name string, labels label.Set) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.EndpointList {
		if ep := &e.EndpointList[i]; ep.ID == id {
			ep.Labels, ep.LabelsKnown = labels, true
			if containerID != "" {
				ep.External.ContainerID, ep.External.ContainerName = containerID, name
			}
		}
	}
	return nil
}

func (e endpoints) Note(id uint16, message string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.EndpointList {
		if ep := &e.EndpointList[i]; ep.ID == id && message != "" {
			ep.Log = append(ep.Log, endpoint.StatusChange{Time: Start, Code: endpoint.CodeOK, Message: message, State: ep.State})
		}
	}
	return nil
}

type identities struct{ *World }

func (i identities) Identities() []identity.Identity { return i.IdentityList }

func (i identities) Lookup(id identity.ID) (identity.Identity, bool) {
	for _, known := range i.IdentityList {
		if known.ID == id {
			return known, true
		}
	}
	return identity.Identity{}, false
}

type policy struct{ *World }

func (p policy) ruleSet(n int) apiserver.RuleSet {
	text, _ := json.Marshal([]any{})
	if len(p.Documents) > 0 {
		text = p.Documents[0].Text
	}
	return apiserver.RuleSet{Revision: p.RevisionNumber, Realized: p.RevisionNumber, Rules: n, JSON: text}
}

func (p policy) Import(_ context.Context, documents []apiserver.Document, replace bool) (apiserver.Import, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.RefuseImport != nil {
		return apiserver.Import{}, p.RefuseImport
	}
	if replace {
		p.Documents = nil
	}
	p.Documents = append(p.Documents, documents...)
	p.RevisionNumber++
	for i := range p.EndpointList {
		p.EndpointList[i].PolicyRevision = p.RevisionNumber
	}
	return apiserver.Import{RuleSet: p.ruleSet(len(documents)), Warnings: []string{"rule name=l3-rule: just a warning"}}, nil
}

func (p policy) Delete(_ context.Context, labels label.Set) (apiserver.RuleSet, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.Documents) == 0 {
		return apiserver.RuleSet{}, fmt.Errorf("%w: no policy rule has the labels %s", apiserver.ErrNotFound, labels)
	}
	n := len(p.Documents)
	p.Documents = nil
	p.RevisionNumber++
	return p.ruleSet(n), nil
}

func (p policy) DeleteAll(context.Context) (apiserver.RuleSet, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.Documents)
	p.Documents = nil
	p.RevisionNumber++
	return p.ruleSet(n), nil
}

func (p policy) Revision() (repository, realized uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.RevisionNumber, p.RevisionNumber
}

func (p policy) Rules(label.Set) (apiserver.RuleSet, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ruleSet(len(p.Documents)), nil
}

func (p policy) Trace(query apiserver.TraceQuery) (apiserver.Trace, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Traced = query
	return apiserver.Trace{
		Log:    fmt.Sprintf("from %s to %s\nFinal verdict: DENIED", query.From.Labels, query.To.Labels),
		Detail: json.RawMessage(`{"ingress":"denied"}`),
	}, nil
}

func (p policy) Explain(event string, endpoint uint16) (*api.PolicyExplanation, error) {
	if event != "" && event != "node-1-7" {
		return nil, fmt.Errorf("%w: event %q is not remembered", apiserver.ErrNotFound, event)
	}
	return &api.PolicyExplanation{
		Event: "node-1-7", Packet: fmt.Sprintf("xx drop (Policy denied) at endpoint %d", endpoint),
		Log: "Ingress: denied, no rule allows it [unspec:name=web]\n", Detail: json.RawMessage(`{"allowed":false}`),
	}, nil
}

func (p policy) Lint(documents []apiserver.Document, replace bool) (*api.PolicyLint, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.RefuseImport != nil {
		return nil, p.RefuseImport
	}
	found := &api.PolicyLint{Rules: len(documents), Findings: []api.PolicyFinding{}}
	if !replace {
		found.Rules += len(p.Documents)
	}
	for _, d := range documents {
		found.Findings = append(found.Findings, api.PolicyFinding{
			Check: "typo", Severity: "warning", Rule: "unspec:name=web", Origin: d.Name + ":1 (rule 1)", Path: "endpointSelector",
			Text: "nobody has any:id=app11; did you mean the value app1?",
		})
	}
	return found, nil
}

func (p policy) DryRun(documents []apiserver.Document, _ bool) (apiserver.Import, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.RefuseImport != nil {
		return apiserver.Import{}, p.RefuseImport
	}
	return apiserver.Import{RuleSet: apiserver.RuleSet{Revision: p.RevisionNumber + 1, Realized: p.RevisionNumber, Rules: len(documents), JSON: []byte("[]")}}, nil
}

func (p policy) Simulate(documents []apiserver.Document, _ bool, since time.Duration) (*api.PolicySimulation, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.RefuseImport != nil {
		return nil, p.RefuseImport
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &api.PolicySimulation{
		Since: at.Add(-since), First: at, Last: at, Rules: len(documents), Flows: 12, Changed: 3, Unknown: 1,
		Changes: []api.PolicyFlowChange{{
			Source: api.FlowPeer{Labels: []string{"reserved:world"}, Address: "192.0.2.9"}, Destination: api.FlowPeer{Labels: []string{"container:id=app1"}},
			Port: "80/TCP", Was: "allowed", Would: "denied", Rule: "unspec:name=web", Origin: "web.yaml:1 (rule 1)",
			Reason: "Ingress: no rule allows it", Flows: 3, First: at, Last: at,
		}},
	}, nil
}

func (p policy) Hits() (*api.PolicyHits, error) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &api.PolicyHits{Revision: 3, Rules: []api.RuleHits{
		{Name: "unspec:name=web", Labels: []string{"unspec:name=web"}, Origin: "web.json:1 (rule 1)", Cookie: 7,
			Allowed: api.HitCount{Packets: 12, Bytes: 3400}, Denied: api.HitCount{Packets: 2, Bytes: 120}, First: at, Last: at.Add(time.Hour)},
		{Name: "rule 8", Cookie: 8, Audit: true},
	}}, nil
}

func (p policy) Enforcement(id identity.ID) apiserver.Enforcement {
	if id != 311 {
		return apiserver.Enforcement{}
	}
	return apiserver.Enforcement{Ingress: true, AllowedIngress: []identity.ID{322}}
}
