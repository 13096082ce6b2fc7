// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/health"
	"cilium.local/cilium/internal/nodes"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/version"
)

// node implements apiserver.Node.
type node struct{ a *Agent }

// Status reports the condition of every part.
func (n node) Status(context.Context) *api.StatusResponse {
	a := n.a
	s := &api.StatusResponse{
		KVStore: a.storeStatus(), ContainerRuntime: a.dockerStatus(),
		Datapath: a.datapathStatus(), Policy: a.policyStatus(), Forwarding: forwardingStatus(),
		IPAM: a.ipamStatus(), NodeMonitor: a.monitorStatus(), FlowLog: a.flowLogStatus(),
		Cluster: &api.ClusterStatus{Self: a.cfg.NodeName, Nodes: n.Nodes(), Problems: a.clusterProblems(), Joined: a.joinedClusters()},
		Version: version.Text(), Started: &a.started,
		Endpoints: &api.EndpointStateCounts{ByState: a.endpointStates()},
	}
	for _, count := range s.Endpoints.ByState {
		s.Endpoints.Total += count
	}
	s.Cilium = overall(a.ready.Load(), s.Datapath, s.Policy)
	return s
}

// overall is the agent's condition: that of the parts which workloads depend on.
func overall(ready bool, parts ...*api.Status) *api.Status {
	if !ready {
		return &api.Status{State: api.SeverityWarning, Msg: "starting"}
	}
	for _, p := range parts {
		if p.State == api.SeverityFailure {
			return &api.Status{State: api.SeverityFailure, Msg: p.Msg}
		}
	}
	return &api.Status{State: api.SeverityOk, Msg: "OK"}
}

func (a *Agent) datapathStatus() *api.Status {
	form := "tcx links"
	if a.cfg.Datapath.LegacyHooks || !a.kernel.TCX {
		form = "clsact filters"
	}
	for _, s := range a.reconcilers() {
		if s.LastError != nil {
			return &api.Status{State: api.SeverityFailure, Msg: fmt.Sprintf("kernel table %s: %v", s.Table, s.LastError)}
		}
	}
	return &api.Status{State: api.SeverityOk, Msg: fmt.Sprintf("%s, kernel %s, MTU %d", form, a.kernel.Kernel, a.mtu)}
}

func (a *Agent) policyStatus() *api.Status {
	if err := a.lastPolicyError.Load(); err != nil {
		return &api.Status{State: api.SeverityFailure, Msg: (*err).Error()}
	}
	rules, revision := a.rules.present()
	return &api.Status{State: api.SeverityOk, Msg: fmt.Sprintf("revision %d with %d rules, enforcement %s",
		revision, len(rules), a.enforcer.Mode())}
}

// forwardingStatus tells what the node's operator would have to set, since the
// agent changes nothing that is not its own.
func forwardingStatus() *api.Status {
	state, err := device.Forwarding()
	if err != nil {
		return &api.Status{State: api.SeverityWarning, Msg: err.Error()}
	}
	if missing := state.Missing(); len(missing) > 0 {
		return &api.Status{State: api.SeverityWarning, Msg: "outside addresses answer only where the node's range is routed, " +
			"and after: sysctl -w " + strings.Join(missing, " ")}
	}
	return &api.Status{State: api.SeverityOk, Msg: "outside addresses answer only where the node's range is routed"}
}

func (a *Agent) ipamStatus() *api.IPAMStatus {
	s := &api.IPAMStatus{
		Allocations: map[string]string{},
		IPv4Range:   prefixText(a.cfg.Network.IPv4Range), IPv6Range: prefixText(a.cfg.Network.IPv6Range),
	}
	rows := a.book.Dump()
	for _, addr := range sorted(rows, netip.Addr.Compare) {
		s.Allocations[addr.String()] = rows[addr]
		if addr.Is4() {
			s.IPv4 = append(s.IPv4, addr.String())
		} else {
			s.IPv6 = append(s.IPv6, addr.String())
		}
	}
	return s
}

func (a *Agent) monitorStatus() *api.MonitorStatus {
	return &api.MonitorStatus{
		CPUs: runtime.NumCPU(), PageSize: os.Getpagesize(), Lost: a.eventsLost(), Readers: a.hub.Watchers(),
	}
}

// Addressing returns the node's gateway addresses and ranges.
func (n node) Addressing() *api.NodeAddressing {
	element := func(prefix netip.Prefix) *api.NodeAddressingElement {
		if !prefix.IsValid() {
			return &api.NodeAddressingElement{}
		}
		return &api.NodeAddressingElement{
			Enabled: true, IP: gateway(prefix).String(), AllocRange: prefix.Masked().String(), AddressType: "gateway",
		}
	}
	return &api.NodeAddressing{
		IPv4: element(n.a.cfg.Network.IPv4Range), IPv6: element(n.a.cfg.Network.IPv6Range),
	}
}

// Nodes returns this node, and then the others that it knows.
func (n node) Nodes() []api.NodeElement {
	self := api.NodeElement{Name: n.a.cfg.NodeName, PrimaryAddress: n.Addressing()}
	addrs, err := device.HostAddresses()
	if err != nil {
		n.a.log.Warn("the node's addresses are not known", "error", err)
	}
	own := []netip.Addr{gateway(n.a.cfg.Network.IPv4Range), gateway(n.a.cfg.Network.IPv6Range)}
	for _, addr := range addrs {
		if !slices.Contains(own, addr) {
			self.SecondaryAddresses = append(self.SecondaryAddresses,
				api.NodeAddressingElement{Enabled: true, IP: addr.String(), AddressType: "node"})
		}
	}
	self.Cluster = n.a.cfg.Cluster.Name
	list := []api.NodeElement{self}
	for _, other := range n.a.prober.Results() {
		list = append(list, nodeElement(other.Node, other.Probes))
	}
	return list
}

// nodeElement is another node as it has registered itself.
func nodeElement(other nodes.Node, probes []health.Probe) api.NodeElement {
	element := func(addr netip.Addr, r netip.Prefix) *api.NodeAddressingElement {
		if !r.IsValid() {
			return &api.NodeAddressingElement{}
		}
		return &api.NodeAddressingElement{Enabled: true, IP: addr.String(), AllocRange: r.String(), AddressType: "gateway"}
	}
	e := api.NodeElement{Name: other.Name, Cluster: other.Cluster, Health: healthModels(probes), PrimaryAddress: &api.NodeAddressing{
		IPv4: element(other.GatewayIPv4, other.IPv4Range), IPv6: element(other.GatewayIPv6, other.IPv6Range),
	}}
	for _, addr := range []netip.Addr{other.IPv4, other.IPv6} {
		if addr.IsValid() {
			e.SecondaryAddresses = append(e.SecondaryAddresses, api.NodeAddressingElement{
				Enabled: true, IP: addr.String(), AddressType: "node",
			})
		}
	}
	return e
}

// Configuration returns the flags in force.
func (n node) Configuration() *api.DaemonConfiguration {
	a := n.a
	c := a.cfg
	spec := &api.DaemonConfigurationSpec{Options: api.ConfigurationMap{}, PolicyEnforcement: string(a.enforcer.Mode())}
	kind := "etcd, embedded"
	if c.Store.external() {
		kind = "etcd"
	}
	return &api.DaemonConfiguration{
		Spec: spec,
		Status: &api.DaemonConfigurationStatus{
			Realized: spec,
			Immutable: api.ConfigurationMap{
				"allow-localhost":     strconv.FormatBool(c.Policy.AllowLocalhost),
				"bpf-root":            c.BPFRoot,
				"cluster-id":          text(c.Cluster.ID),
				"cluster-name":        c.Cluster.Name,
				"clustermesh-config":  c.Cluster.MeshDir,
				"direct-node-routes":  strconv.FormatBool(c.Routing.DirectRoutes),
				"kvstore-lease-ttl":   c.Store.LeaseTTL.String(),
				"native-routing-cidr": strings.Join(prefixTexts(c.Routing.NativeCIDRs), ","),
				"node-ipv4":           addrText(c.Routing.IPv4),
				"node-ipv6":           addrText(c.Routing.IPv6),
				"routing":             c.Routing.Mode,
				"docker":              c.Docker,
				"flow-log-max":        text(c.FlowLogMax),
				"health-interval":     c.Health.Interval.String(),
				"health-port":         text(c.Health.Port),
				"flow-visibility":     strconv.FormatBool(!c.Datapath.HideFlows),
				"ipv4-range":          prefixText(c.Network.IPv4Range),
				"ipv6-range":          prefixText(c.Network.IPv6Range),
				"labels":              strings.Join(c.Policy.LabelFilters, ","),
				"node-name":           c.NodeName,
				"socket-path":         c.SocketPath,
				"state-dir":           c.StateDir,
				"trace-packets":       strconv.FormatBool(c.Datapath.TracePackets),
			},
			Addressing: n.Addressing(), NodeMonitor: a.monitorStatus(),
			KVStoreConfiguration: &api.KVStoreConfiguration{Type: kind},
			DeviceMTU:            a.mtu, RouteMTU: a.mtu, DatapathMode: "veth",
		},
	}
}

// Configure changes what can be changed while the agent runs: the enforcement
// mode, until the next start.
func (n node) Configure(_ context.Context, spec *api.DaemonConfigurationSpec) error {
	for name := range spec.Options {
		if _, exists := n.Configuration().Status.Immutable[name]; !exists {
			return fmt.Errorf("%w: there is no option %q that could be changed; cilium config --list-options shows those", apiserver.ErrInvalid, name)
		}
		return fmt.Errorf("%w: option %q cannot be changed while the agent runs: restart it with --%s", apiserver.ErrInvalid, name, name)
	}
	if spec.PolicyEnforcement == "" {
		return nil
	}
	mode := policy.Mode(spec.PolicyEnforcement)
	if err := checkMode(mode); err != nil {
		return fmt.Errorf("%w: policy enforcement: %w", apiserver.ErrInvalid, err)
	}
	return n.a.enforcer.SetMode(mode)
}

func prefixTexts(list []netip.Prefix) (texts []string) {
	for _, p := range list {
		texts = append(texts, prefixText(p))
	}
	return texts
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}
