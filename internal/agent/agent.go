// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/addresses"
	"cilium.local/cilium/internal/agent/addressbook"
	"cilium.local/cilium/internal/agent/enforce"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/clustermesh"
	"cilium.local/cilium/internal/datapath"
	"cilium.local/cilium/internal/datapath/attach"
	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/datapath/probe"
	"cilium.local/cilium/internal/datapath/prog"
	"cilium.local/cilium/internal/docker"
	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/flowlog"
	"cilium.local/cilium/internal/health"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/ipam"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/metrics"
	"cilium.local/cilium/internal/nodes"
	"cilium.local/cilium/internal/observe"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/version"
)

// Agent is one running node. Its fields are its parts, in the order in which
// New builds them; each knows only those above it.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	ready   atomic.Bool
	mtu     int

	lock        *dirLock
	metrics     *metrics.Metrics
	kernel      probe.Features
	host        *device.Host
	hostRows    *hostRows
	devices     devices
	dp          *datapath.Datapath
	store       *kvstore.Store
	identities  *identities
	book        *addressbook.Book
	rules       *ruleBook
	enforcer    *enforce.Enforcer
	attachments *attachments
	rows        *rows
	kept        nodeState
	underlays   []underlay // that the agent has found itself
	overlay     int        // index of the device that leads to other nodes; 0: there is none
	registrar   *nodes.Registrar
	directory   *nodes.Directory
	mesh        *clustermesh.Mesh
	addresses   *addresses.Follower // of other nodes' workloads
	peers       *peers
	prober      *health.Prober
	endpoints   *endpoint.Manager
	docker      *docker.Watcher // nil without Docker
	flows       *flowlog.Log    // nil when flows are not recorded
	hub         *observe.Hub
	api         *apiserver.Server

	policyOptions   policy.Options // but for the mode, which may have changed
	lastPolicyError atomic.Pointer[error]
	lostIdentities  chan identity.Identity // given to other labels while the store was away
	closers         []func()
}

// New builds a node: it takes the state directory, opens the kernel's side and
// the store, and reads what the previous run left. It serves nobody yet. Errors
// name what to change.
func New(ctx context.Context, cfg Config, log *slog.Logger) (_ *Agent, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg, log: log, started: time.Now()}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	steps := []func(context.Context) error{
		a.takeStateDir, a.openMetrics, a.openStore, a.openNode, a.openKernel, a.openIdentities, a.openAddresses, a.openAttachments, a.openPolicy, a.openPeers, a.openEndpoints, a.openDocker, a.openFlowLog, a.openAPI,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Close frees what New took. Workloads, programs and maps stay as they are.
func (a *Agent) Close() {
	for i := len(a.closers) - 1; i >= 0; i-- {
		a.closers[i]()
	}
	a.closers = nil
}

func (a *Agent) onClose(f func()) { a.closers = append(a.closers, f) }

func (a *Agent) takeStateDir(context.Context) (err error) {
	if err := os.MkdirAll(a.cfg.StateDir, 0o755); err != nil { //nolint:gosec // clients reach the socket through it
		return fmt.Errorf("make the state directory: %w", err)
	}
	if a.lock, err = lockDir(a.cfg.StateDir); err != nil {
		return err
	}
	a.onClose(a.lock.release)
	return nil
}

func (a *Agent) openMetrics(context.Context) error {
	a.metrics = metrics.New(a.metricSources(), version.Number())
	return nil
}

// hostDevice is the name of the node's gateway device.
const hostDevice = "cilium_host"

// openKernel checks what the kernel can do, sets up the node's own device and
// loads the data plane.
func (a *Agent) openKernel(ctx context.Context) (err error) {
	if a.kernel, err = probe.Probe(); err != nil {
		return err
	}
	if err := attach.EnsureBPFFS(a.cfg.BPFRoot); err != nil {
		return err
	}
	if a.mtu = a.cfg.Network.MTU; a.mtu == 0 {
		if a.mtu, err = device.DetectMTU(); err != nil {
			return err
		}
	}
	n := a.cfg.Network
	host := device.HostConfig{Name: hostDevice, MAC: a.gatewayMAC(), MTU: a.mtu}
	host.IPv4, host.IPv6 = gateway(n.IPv4Range), gateway(n.IPv6Range)
	for _, prefix := range []netip.Prefix{n.IPv4Range, n.IPv6Range} {
		if prefix.IsValid() {
			if err := checkRange(prefix); err != nil {
				return err
			}
			host.Ranges = append(host.Ranges, prefix)
		}
	}
	if a.host, err = device.SetupHost(ctx, host); err != nil {
		return err
	}
	a.hostRows = newHostRows(host, a.log)
	a.dp, err = datapath.Open(a.datapathConfig(), a.log)
	if err != nil {
		return err
	}
	a.onClose(a.dp.Close)
	return a.openOverlay()
}

// checkRange refuses a range whose addresses are the machine's own, or its neighbours'.
func checkRange(prefix netip.Prefix) error {
	what, err := device.Overlap(prefix)
	if err != nil {
		return fmt.Errorf("check the range %s: %w", prefix, err)
	}
	if what == "" {
		return nil
	}
	flag := "--ipv4-range, or --cluster-pool-ipv4 of all nodes"
	if prefix.Addr().Is6() {
		flag = "--ipv6-range, or --cluster-pool-ipv6 of all nodes"
	}
	return fmt.Errorf("the range %s for workloads overlaps %s: name another one by %s, or remove that from the machine", prefix, what, flag)
}

// gatewayMAC follows from the node's name, so that it survives a restart:
// workloads remember it.
func (a *Agent) gatewayMAC() net.HardwareAddr {
	sum := sha256.Sum256([]byte("gateway of " + a.cfg.NodeName))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	return mac
}

// memory is how much this machine has, in bytes; 0 if it does not say.
func memory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit)
}

// sizes returns the capacities of the kernel's tables.
func (a *Agent) sizes() prog.Sizes {
	d := a.cfg.Datapath
	sizes := prog.DefaultSizes()
	sizes.Flows = prog.FlowsFor(memory())
	for _, s := range []struct {
		size  *uint32
		value uint32
	}{
		{&sizes.Endpoints, d.Endpoints}, {&sizes.Addresses, d.Addresses}, {&sizes.Policies, d.Policies},
		{&sizes.Nodes, d.Nodes}, {&sizes.PolicyEntries, d.PolicyEntries}, {&sizes.Rules, d.Rules}, {&sizes.Flows, d.Flows},
	} {
		if s.value != 0 {
			*s.size = s.value
		}
	}
	return sizes
}

func (a *Agent) datapathConfig() datapath.Config {
	d := a.cfg.Datapath
	constants := prog.Constants{
		GatewayIPv4: gateway(a.cfg.Network.IPv4Range), GatewayIPv6: gateway(a.cfg.Network.IPv6Range),
		WorldIPv4: identity.WorldIPv4, WorldIPv6: identity.WorldIPv6, TracePackets: d.TracePackets, HideFlows: d.HideFlows,
		Overlay: a.cfg.Routing.encapsulates(), Native: a.cfg.Routing.Mode == routingNative,
	}
	copy(constants.GatewayMAC[:], a.host.MAC)
	return datapath.Config{
		PinDir: a.cfg.BPFRoot, Constants: constants, Sizes: a.sizes(),
		LegacyHooks: d.LegacyHooks || !a.kernel.TCX,
	}
}

// openNode finds out which node this is: where it is reached, and which ranges are its.
func (a *Agent) openNode(ctx context.Context) error {
	if err := a.findUnderlay(); err != nil {
		return err
	}
	if err := a.openNodeState(ctx); err != nil {
		return err
	}
	return a.cfg.Routing.carries(a.cfg.Network.IPv4Range, a.cfg.Network.IPv6Range)
}

func (a *Agent) openAddresses(context.Context) (err error) {
	var v4, v6 *ipam.Pool
	n := a.cfg.Network
	if n.IPv4Range.IsValid() {
		if v4, err = ipam.New(n.IPv4Range, gateway(n.IPv4Range)); err != nil {
			return err
		}
	}
	if n.IPv6Range.IsValid() {
		if v6, err = ipam.New(n.IPv6Range, gateway(n.IPv6Range)); err != nil {
			return err
		}
	}
	a.book, err = addressbook.Open(a.cfg.path("ipam.json"), v4, v6)
	return err
}

func (a *Agent) openPolicy(context.Context) (err error) {
	if a.rules, err = openRules(a.cfg.path("policy.json"), a.dp.Hits()); err != nil {
		return err
	}
	if a.policyOptions, err = a.cfg.Policy.options(); err != nil {
		return err
	}
	a.rows = newRows(a.dp, a.attachments, int(a.sizes().Addresses), a.log)
	a.enforcer = enforce.New(enforce.Config{
		Kernel: a.dp.Policies(), Addresses: a.rows, Prefixes: a.identities.prefixes,
		Rules: a.rules.present, Identities: a.identities.Shared,
		Options: a.policyOptions, MaxEntries: int(a.sizes().PolicyEntries),
		Realized: func(revision uint64) { a.lastPolicyError.Store(nil); a.endpoints.Realized(revision) },
		Failed:   func(err error) { a.lastPolicyError.Store(&err); a.endpoints.Failed(err) },
		Log:      a.log,
	})
	a.rules.enforcer, a.rules.missing = a.enforcer, a.attachments.missing
	a.rules.done, a.rules.warn = a.policyChanged, a.warnings
	return nil
}

// watched has the data plane report every change of a flow, or only decisions.
func (a *Agent) watched(changes bool) {
	if err := a.dp.Watch(changes); err != nil {
		a.log.Warn("who watches misses changes of flows", "error", err)
	}
}

func (a *Agent) policyChanged(took time.Duration, err error) {
	a.metrics.PolicyEnforced(took, err)
	if err == nil {
		a.hub.Note(time.Now(), 0, "policy revision %d is in force after %s", a.enforcer.Revision(), took.Round(time.Microsecond))
	}
}

func (a *Agent) openEndpoints(context.Context) error {
	filter, err := label.NewFilter(a.cfg.Policy.LabelFilters)
	if err != nil {
		return fmt.Errorf("--labels: %w", err)
	}
	a.devices = devices{gateway(a.cfg.Network.IPv4Range), gateway(a.cfg.Network.IPv6Range), a.hostRows}
	a.endpoints, err = endpoint.New(endpoint.Config{
		Dir: a.cfg.path("endpoints"), HostName: device.HostName, PeerName: device.PeerName,
		HostMAC: a.host.MAC, MTU: a.mtu,
		Relevant: func(s label.Set) label.Set { relevant, _ := filter.Apply(s); return a.withCluster(relevant) },
	}, endpoint.Collaborators{
		Addresses: a.book, Identities: a.identities, Policies: a.enforcer,
		Devices: a.devices, Datapath: a.rows,
	}, a.log)
	return err
}

func (a *Agent) openAPI(context.Context) error {
	known := &names{identities: a.identities, rule: a.rules.rule, endpoint: a.endpointAt}
	a.hub = observe.New(observe.Config{
		Node: a.cfg.NodeName, Names: known.resolvers(), Record: a.recordFlow, Watched: a.watched,
	}, a.started)
	a.watched(false) // who watched an earlier agent is gone
	a.api = apiserver.New(apiserver.Agent{
		Node: node{a}, Endpoints: a.endpoints, Identities: a.identities, Addresses: a.book,
		Policy: policyAPI{a.rules, a}, Events: a.hub, Tables: tables{a}, Store: storeAPI{a.store},
		Samples: a.metrics.Samples, Observe: a.metrics.API,
	}, a.log)
	return nil
}
