// SPDX-License-Identifier: Apache-2.0

// Package prog loads the compiled BPF programs of the data plane into the
// kernel: it sets their constants and map sizes, and creates or adopts the
// pinned maps that outlive the agent.
//
// The objects are compiled when the agent is built and embedded here; nothing is
// compiled at run time.
package prog

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/bits"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/datapath/layout"
	"cilium.local/cilium/internal/identity"
)

//go:embed all:objects
var objects embed.FS

// Constants become read-only data of the programs, so that the verifier removes
// the branches that they decide.
type Constants struct {
	GatewayMAC   [6]byte
	GatewayIPv4  netip.Addr // invalid: the node has no IPv4
	GatewayIPv6  netip.Addr // invalid: the node has no IPv6
	WorldIPv4    identity.ID
	WorldIPv6    identity.ID
	TracePackets bool // report every packet, not only a flow's changes of state
	HideFlows    bool // report drops only
	Native       bool // workloads of other nodes are reached by the host's routes
	Overlay      bool // load the programs of the tunnel's device, too
}

// Sizes are the capacities of the maps, in entries unless said otherwise. Bytes
// each entry costs in the kernel, about: endpoint 100, address 120, node 130, policy entry
// 130, flow 260 (allocated at once), fragment 100 (allocated at once).
type Sizes struct {
	Endpoints     uint32 // one an address
	Addresses     uint32
	Nodes         uint32 // other nodes that are reached by a tunnel; at most 65535
	Policies      uint32 // distinct enforced policies, 32 bytes each
	PolicyEntries uint32 // of one policy
	Flows         uint32 // rounded up to a power of two
	Fragments     uint32
	Rules         uint32 // whose hits are counted, a power of two; 48 bytes each and processor
	EventBytes    uint32 // of the ring buffer, a power of two and a multiple of the page size
}

// DefaultSizes suit a node with some hundred workloads; about 30 MiB.
func DefaultSizes() Sizes {
	return Sizes{
		Endpoints: 4096, Addresses: 131072, Nodes: 8191, Policies: 4096, PolicyEntries: 16384,
		Flows: 131072, Fragments: 8192, Rules: 16384, EventBytes: 1 << 20,
	}
}

// FlowsFor is how many flows suit a machine with so many bytes of memory: a
// thousandth of it, and at least 8 MiB.
func FlowsFor(memory uint64) uint32 {
	const least, most, row = 1 << 15, 1 << 21, 260
	return uint32(min(max(memory/1000/row, least), most))
}

// Loaded is the data plane in the kernel.
type Loaded struct {
	FromWorkload, ToWorkload *ebpf.Program
	FromOverlay, ToOverlay   *ebpf.Program // nil without Constants.Overlay
	FromNetwork              *ebpf.Program // nil without Constants.Native
	Maps                     Maps
	// From are the sets of maps that other agents have left beside this one's, the
	// one in force first. Taking over from them is the caller's work.
	From       []*Set
	Set        *Set // this agent's own
	Spec       *ebpf.CollectionSpec
	collection *ebpf.Collection
	further    []*ebpf.Collection // of programs with the same maps
}

// Maps are the programs' maps, by the names that the C code gives them.
type Maps struct {
	Endpoints, IPCache, Policies, Control, Epochs *ebpf.Map
	Nodes, NodeSlots                              *ebpf.Map
	Flows, FlowWays, FlowEvents, Fragments        *ebpf.Map
	Metrics, RuleHits, Events, EventsLost         *ebpf.Map

	// What the maps of an earlier layout counted, and the programs that had them.
	MetricsBefore, RuleHitsBefore, Predecessor *ebpf.Map

	// PolicySpec is the specification of one policy's map, for the Policies slots.
	PolicySpec *ebpf.MapSpec
}

// The compiled objects. Each declares all maps; those of the first are made.
const (
	workloadObject = "endpoint.o"
	overlayObject  = "overlay.o"
	networkObject  = "network.o"
)

// Spec returns the maps and the programs for workloads as they are compiled,
// unloaded. It fails when the agent was built without the objects.
func Spec() (*ebpf.CollectionSpec, error) { return readObject(workloadObject) }

// FurtherSpecs returns the programs of other devices likewise, with the same maps.
func FurtherSpecs() (specs []*ebpf.CollectionSpec, err error) {
	for _, name := range []string{overlayObject, networkObject} {
		spec, err := readObject(name)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

func readObject(name string) (*ebpf.CollectionSpec, error) {
	data, err := objects.ReadFile("objects/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this binary was built without its BPF programs; build it with: make build")
	}
	if err != nil {
		return nil, err
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	return spec, nil
}

// Load puts programs and maps into the kernel. Maps are pinned in a folder of root,
// which must be on a bpffs; those of the same layout that are there are adopted with
// the size they have. Where there are only maps of another layout, new ones are made
// beside them, empty and following: see Loaded.From.
func Load(root string, c Constants, s Sizes, log *slog.Logger) (_ *Loaded, err error) {
	spec, err := Spec()
	if err != nil {
		return nil, err
	}
	own, others, err := openSets(root, spec)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			closeSets(others)
			own.Close()
		}
	}()
	if err := setConstants(spec, c, len(others) > 0); err != nil {
		return nil, err
	}
	if s.Flows > MaxFlows {
		return nil, fmt.Errorf("flow table: %d flows are too many; give --flows-max at most %d", s.Flows, MaxFlows)
	}
	setSizes(spec, s)
	if err := os.MkdirAll(own.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create %s for pinned maps: %w (is a bpffs mounted there?)", own.Dir, err)
	}
	adoptSizes(spec, own, others, log)
	if err := errors.Join(setRuleMask(spec), setFlowMask(spec)); err != nil {
		return nil, err
	}
	if own.Map("control") == nil && len(others) > 0 {
		if err := stageControl(spec, own.Dir); err != nil {
			return nil, err
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Maps: ebpf.MapOptions{PinPath: own.Dir},
	})
	if err != nil {
		return nil, loadError(own.Dir, err)
	}
	l := loaded(spec, collection)
	l.Set, l.From, l.Spec = own, others, spec
	err = l.loadFurther(c)
	if err == nil {
		err = l.pinPrograms()
	}
	if err != nil {
		l.closePrograms()
		return nil, err
	}
	return l, nil
}

// loadFurther adds the programs of devices other than workloads'.
func (l *Loaded) loadFurther(c Constants) error {
	if c.Overlay {
		programs, err := l.loadMore(overlayObject, c)
		if err != nil {
			return err
		}
		l.FromOverlay, l.ToOverlay = programs["from_overlay"], programs["to_overlay"]
	}
	if c.Native {
		programs, err := l.loadMore(networkObject, c)
		if err != nil {
			return err
		}
		l.FromNetwork = programs["from_network"]
	}
	return nil
}

// loadMore loads programs that use the same maps.
func (l *Loaded) loadMore(object string, c Constants) (map[string]*ebpf.Program, error) {
	spec, err := readObject(object)
	if err != nil {
		return nil, err
	}
	if err := setConstants(spec, c, len(l.From) > 0); err != nil {
		return nil, err
	}
	shared := make(map[string]*ebpf.Map)
	for name := range spec.Maps {
		if layout.IsConstants(name) {
			continue
		}
		shared[name] = l.collection.Maps[name]
		spec.Maps[name] = l.Spec.Maps[name].Copy()
	}
	for name, from := range map[string]string{"rule_mask": "rule_hits", "flow_set_mask": "flow_ways"} {
		if err := setConstant(spec, name, spec.Maps[from].MaxEntries-1); err != nil {
			return nil, err
		}
	}
	collection, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return nil, loadError(l.Set.Dir, err)
	}
	l.further = append(l.further, collection)
	return collection.Programs, nil
}

func loaded(spec *ebpf.CollectionSpec, c *ebpf.Collection) *Loaded {
	return &Loaded{
		FromWorkload: c.Programs["from_workload"],
		ToWorkload:   c.Programs["to_workload"],
		Maps: Maps{
			Endpoints: c.Maps["endpoints"], IPCache: c.Maps["ipcache"], Policies: c.Maps["policies"],
			Nodes: c.Maps["nodes"], NodeSlots: c.Maps["node_slots"],
			Control: c.Maps["control"], Epochs: c.Maps["epochs"], Fragments: c.Maps["fragments"],
			Flows: c.Maps["flows"], FlowWays: c.Maps["flow_ways"], FlowEvents: c.Maps["flow_events"],
			Metrics: c.Maps["metrics"], RuleHits: c.Maps["rule_hits"], Events: c.Maps["events"], EventsLost: c.Maps["events_lost"],
			MetricsBefore: c.Maps["metrics_before"], RuleHitsBefore: c.Maps["rule_hits_before"], Predecessor: c.Maps["predecessor"],
			PolicySpec: spec.Maps["policies"].InnerMap.Copy(),
		},
		collection: c,
	}
}

func loadError(pinDir string, err error) error {
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return fmt.Errorf("the kernel refused a BPF program (kernels from 6.1 are supported): %w", verifier)
	}
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		return fmt.Errorf("adopt the maps pinned in %s: %w (the folder's name says that they fit; remove them with: cilium cleanup -f)", pinDir, err)
	}
	return fmt.Errorf("load the data plane: %w", err)
}

// Close frees this process's references; pinned maps and attached programs stay.
func (l *Loaded) Close() {
	closeSets(l.From)
	l.Set.Close()
	l.closePrograms()
}

func (l *Loaded) closePrograms() {
	l.collection.Close()
	for _, c := range l.further {
		c.Close()
	}
}

func setConstants(spec *ebpf.CollectionSpec, c Constants, hasPredecessor bool) error {
	mac := [8]byte{}
	copy(mac[:], c.GatewayMAC[:])
	values := map[string]any{
		"gateway_mac":         mac,
		"gateway_ipv4":        gateway(c.GatewayIPv4),
		"gateway_ipv6":        gateway(c.GatewayIPv6),
		"world_ipv4_identity": uint32(c.WorldIPv4),
		"world_ipv6_identity": uint32(c.WorldIPv6),
		"trace_packets":       c.TracePackets,
		"hide_flows":          c.HideFlows,
		"native_routing":      c.Native,
		"has_predecessor":     hasPredecessor,
	}
	for name, value := range values {
		if err := setConstant(spec, name, value); err != nil {
			return err
		}
	}
	return nil
}

func setConstant(spec *ebpf.CollectionSpec, name string, value any) error {
	variable := spec.Variables[name]
	if variable == nil {
		return fmt.Errorf("constant %s is not in the BPF object; build both anew with: make build", name)
	}
	if err := variable.Set(value); err != nil {
		return fmt.Errorf("set constant %s: %w", name, err)
	}
	return nil
}

// setRuleMask follows the size of the rule counters, which is that of the pinned
// map where there is one.
func setRuleMask(spec *ebpf.CollectionSpec) error {
	slots := spec.Maps["rule_hits"].MaxEntries
	if slots < 2 || slots&(slots-1) != 0 {
		return fmt.Errorf("rule counters: %d is no power of two; give --rules-max one, such as %d", slots, DefaultSizes().Rules)
	}
	return setConstant(spec, "rule_mask", slots-1)
}

// MaxFlows is how many flows the table can have rows for: 4 GiB of them, the most that
// the kernel gives an array.
const MaxFlows = 1<<24 - 1

// flowRows is the size of the flow table for so many flows: a power of two, at
// least two sets.
func flowRows(flows uint32) uint32 {
	return max(2*abi.FlowWays, uint32(1)<<bits.Len32(max(flows, 1)-1))
}

// setFlowMask follows the size of the flow table, which is that of the pinned one
// where there is one.
func setFlowMask(spec *ebpf.CollectionSpec) error {
	sets, rows := spec.Maps["flow_ways"].MaxEntries, spec.Maps["flows"].MaxEntries
	if sets&(sets-1) != 0 || rows != sets*abi.FlowWays {
		return fmt.Errorf("flow table: %d rows in %d sets; remove the pinned maps with: cilium cleanup -f", rows, sets)
	}
	return setConstant(spec, "flow_set_mask", sets-1)
}

// gateway returns all zero for a family that the node does not have.
func gateway(ip netip.Addr) abi.Addr {
	if !ip.IsValid() {
		return abi.Addr{}
	}
	return abi.AddrFrom(ip)
}

func setSizes(spec *ebpf.CollectionSpec, s Sizes) {
	for name, entries := range map[string]uint32{
		"endpoints": s.Endpoints, "ipcache": s.Addresses, "nodes": s.Nodes + 1, "node_slots": s.Nodes + 1, "policies": 4 * (s.Policies + 1),
		"flows": flowRows(s.Flows), "flow_ways": flowRows(s.Flows) / abi.FlowWays, "fragments": s.Fragments, "rule_hits": s.Rules, "rule_hits_before": s.Rules, "events": s.EventBytes,
	} {
		spec.Maps[name].MaxEntries = entries
	}
	spec.Maps["policies"].InnerMap.MaxEntries = s.PolicyEntries
}
