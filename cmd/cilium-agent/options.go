// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"cilium.local/cilium/internal/agent"
	"cilium.local/cilium/internal/noderange"
	"cilium.local/cilium/internal/policy"
)

// options are the flags as text; config turns them into the agent's terms.
type options struct {
	cfg                  agent.Config
	flags                *pflag.FlagSet
	ipv4Range, ipv6Range string
	ipv4Pool, ipv6Pool   string
	nodeIPv4, nodeIPv6   string
	nativeCIDRs          []string
	mode                 string
	flowVisibility       bool
	logFormat, logLevel  string
}

func (o *options) register(f *pflag.FlagSet) {
	host, _ := os.Hostname()
	c := &o.cfg
	f.StringVar(&c.NodeName, "node-name", host, "name of this node in the cluster")
	f.StringVar(&c.StateDir, "state-dir", "/var/run/cilium", "folder for state that outlives the agent")
	f.StringVar(&c.SocketPath, "socket-path", "/var/run/cilium/cilium.sock", "unix socket of the API")
	f.StringVar(&c.BPFRoot, "bpf-root", "/sys/fs/bpf/cilium", "folder on a bpffs for pinned maps and programs, for this node alone")
	f.StringVar(&o.ipv4Range, "ipv4-range", "10.15.0.0/16", "IPv4 range of this node's workloads; empty for none")
	f.StringVar(&o.ipv6Range, "ipv6-range", "f00d::a0f:0:0:0/96", "IPv6 range of this node's workloads; empty for none")
	f.IntVar(&c.Network.MTU, "mtu", 0, "MTU of workloads in bytes; 0 takes that of the node's devices")
	o.registerCluster(f)
	o.registerRouting(f)
	f.StringVar(&o.mode, "enable-policy", string(policy.ModeDefault), "policy enforcement: default, always or never")
	f.BoolVar(&c.Policy.AllowLocalhost, "allow-localhost", false, "let the node itself reach its workloads whatever the policy says")
	f.StringSliceVar(&c.Policy.LabelFilters, "labels", nil, "filters [!][source:]prefix that choose the labels identities are made of")
	f.StringToStringVar(&c.Policy.NodeLabels, "node-labels", nil, "KEY=VALUE,...: labels of this node, for rules with fromNodes and toNodes")
	f.StringVar(&c.Policy.ServicesFile, "services-file", "", "JSON or YAML list of the services that toServices is about; empty for none")
	f.StringSliceVar(&c.Store.Endpoints, "kvstore-endpoints", nil, "URLs of an etcd cluster; without any, the agent runs one itself for this node")
	f.StringVar(&c.Store.File, "kvstore-config", "", "YAML file that says how an etcd cluster is reached, in the form of etcd's client: endpoints, trusted-ca-file, cert-file, key-file, username, password or password-file; empty for none")
	f.DurationVar(&c.Store.LeaseTTL, "kvstore-lease-ttl", 15*time.Minute, "how long the key-value store keeps what this node says of itself after the node is gone")
	f.StringVar(&c.Docker, "docker", "", "unix socket of Docker's API, for the labels of its containers; empty for none")
	f.StringVar(&c.Metrics, "prometheus-serve-addr", "", "address to serve Prometheus metrics at, such as 127.0.0.1:9962; empty for none")
	f.Uint32Var(&c.FlowLogMax, "flow-log-max", 32, "MiB below the state folder for past flows, on which cilium policy simulate tries a policy; 0 records none")
	o.registerSizes(f)
	f.StringVar(&o.logFormat, "log-format", "text", "format of log lines on standard error: text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "least severe log lines to write: debug, info, warn or error")
}

func (o *options) registerCluster(f *pflag.FlagSet) {
	o.flags = f
	c, n := &o.cfg.Cluster, &o.cfg.Network
	f.StringVar(&c.Name, "cluster-name", "default", "name of the cluster that this node is in")
	f.Uint8Var(&c.ID, "cluster-id", 0, "number, 1 to 255, that tells this cluster from those that it is joined with; 0 for a cluster by itself")
	f.StringVar(&c.MeshDir, "clustermesh-config", "", "folder with a file for each other cluster, named like it, that says how its etcd is reached; empty for none")
	f.StringVar(&o.ipv4Pool, "cluster-pool-ipv4", "", "IPv4 prefix out of which each node claims a range for its workloads, instead of --ipv4-range")
	f.StringVar(&o.ipv6Pool, "cluster-pool-ipv6", "", "IPv6 prefix out of which each node claims a range for its workloads, instead of --ipv6-range")
	f.IntVar(&n.IPv4Pool.Bits, "cluster-pool-ipv4-mask-size", 24, "prefix length of the ranges in --cluster-pool-ipv4")
	f.IntVar(&n.IPv6Pool.Bits, "cluster-pool-ipv6-mask-size", 112, "prefix length of the ranges in --cluster-pool-ipv6")
}

func (o *options) registerRouting(f *pflag.FlagSet) {
	r := &o.cfg.Routing
	f.StringVar(&r.Mode, "routing", "", "how packets travel between nodes: none, vxlan, geneve, or native for the network's own routes; by default vxlan with an external store and none without")
	f.StringSliceVar(&o.nativeCIDRs, "native-routing-cidr", nil, "prefixes that hold the ranges of all nodes, for native routing")
	f.BoolVar(&r.DirectRoutes, "direct-node-routes", true, "with native routing: add routes to nodes on the same link; false leaves all routes to a routing daemon")
	f.StringVar(&o.nodeIPv4, "node-ipv4", "", "IPv4 address by which other nodes reach this one; found out if empty")
	f.StringVar(&o.nodeIPv6, "node-ipv6", "", "IPv6 address by which other nodes reach this one; found out if empty")
	h := &o.cfg.Health
	f.Uint16Var(&h.Port, "health-port", 4240, "TCP port at which this node answers the others that it is there, on its address between the nodes; 0 for none")
	f.DurationVar(&h.Interval, "health-interval", time.Minute, "time between two questions to another node whether it is there; 0 asks none")
	f.IntVar(&r.TunnelPort, "tunnel-port", 0, "UDP port of the tunnels between nodes, the same on all; 0 for 8472 (vxlan) or 6081 (geneve)")
}

func (o *options) registerSizes(f *pflag.FlagSet) {
	d := &o.cfg.Datapath
	f.Uint32Var(&d.Endpoints, "endpoints-max", 0, "local workload addresses that the kernel's table holds; 0 for the default")
	f.Uint32Var(&d.Addresses, "ipcache-max", 0, "addresses with an identity that the kernel's table holds; 0 for the default")
	f.Uint32Var(&d.Nodes, "nodes-max", 0, "other nodes that the kernel's table of tunnels holds, at most 65534; 0 for the default")
	f.Uint32Var(&d.Policies, "policies-max", 0, "distinct policies that the kernel holds; 0 for the default")
	f.Uint32Var(&d.PolicyEntries, "policy-map-max", 0, "entries that one policy may need; 0 for the default")
	f.Uint32Var(&d.Rules, "rules-max", 0, "rules, a power of two, whose hits the kernel counts; 0 for the default")
	f.Uint32Var(&d.Flows, "flows-max", 0, "flows that the kernel tracks, 256 bytes each, rounded up to a power of two; 0 for as many as suit the machine's memory")
	f.BoolVar(&o.flowVisibility, "flow-visibility", true, "report what is decided about flows, on which cilium policy simulate tries a policy, and to who watches also when they open, are answered and close; without, only drops are reported")
	f.BoolVar(&d.TracePackets, "trace-packets", false, "report every packet, not only the changes of flows: costly")
	f.BoolVar(&d.LegacyHooks, "legacy-hooks", false, "attach programs by clsact filters, as below kernel 6.6, where newer links exist too")
}

// fromEnvironment sets the flags that the command line did not from CILIUM_*.
func fromEnvironment(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "CILIUM_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := lookup(name)
		if !ok || f.Changed || f.Name == "help" || f.Name == "version" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}

// unknownVariables names what looks like a setting of the agent in the environment, and
// is none. CILIUM_SOCK is for cilium and the plugins.
func unknownVariables(flags *pflag.FlagSet, environ []string) (names []string) {
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		setting, ours := strings.CutPrefix(name, "CILIUM_")
		if !ours || name == "CILIUM_SOCK" {
			continue
		}
		f := flags.Lookup(strings.ToLower(strings.ReplaceAll(setting, "_", "-")))
		if f == nil || setting != strings.ToUpper(setting) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (o *options) config() (agent.Config, error) {
	cfg := o.cfg
	var err4, err6 error
	o.ranges()
	cfg.Network.IPv4Range, err4 = parseRange("ipv4-range", o.ipv4Range)
	cfg.Network.IPv6Range, err6 = parseRange("ipv6-range", o.ipv6Range)
	cfg.Policy.Mode = policy.Mode(o.mode)
	cfg.Datapath.HideFlows = !o.flowVisibility
	return cfg, errors.Join(err4, err6, o.pools(&cfg.Network), o.routing(&cfg.Routing))
}

// ranges takes the default ranges back where there is a pool: they are for a node alone.
func (o *options) ranges() {
	if o.ipv4Pool == "" && o.ipv6Pool == "" {
		return
	}
	for flag, text := range map[string]*string{"ipv4-range": &o.ipv4Range, "ipv6-range": &o.ipv6Range} {
		if !o.flags.Changed(flag) {
			*text = ""
		}
	}
}

func (o *options) pools(n *agent.NetworkConfig) error {
	var errs []error
	for _, p := range []struct {
		flag, text string
		ipv4       bool
		pool       *noderange.Pool
	}{{"cluster-pool-ipv4", o.ipv4Pool, true, &n.IPv4Pool}, {"cluster-pool-ipv6", o.ipv6Pool, false, &n.IPv6Pool}} {
		prefix, err := parseRange(p.flag, p.text)
		if err == nil && prefix.IsValid() {
			p.pool.Prefix = prefix.Masked()
			if err = p.pool.Validate(); err != nil {
				err = fmt.Errorf("--%s-mask-size: %w", p.flag, err)
			}
			if prefix.Addr().Is4() != p.ipv4 {
				err = fmt.Errorf("--%s %s: it is of the other family", p.flag, p.text)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (o *options) routing(r *agent.RoutingConfig) (err error) {
	var errs []error
	for _, a := range []struct {
		flag, text string
		addr       *netip.Addr
	}{{"node-ipv4", o.nodeIPv4, &r.IPv4}, {"node-ipv6", o.nodeIPv6, &r.IPv6}} {
		if a.text == "" {
			continue
		}
		if *a.addr, err = netip.ParseAddr(a.text); err != nil {
			errs = append(errs, fmt.Errorf("--%s %q: it is no IP address", a.flag, a.text))
		}
	}
	for _, text := range o.nativeCIDRs {
		prefix, err := parseRange("native-routing-cidr", text)
		errs = append(errs, err)
		r.NativeCIDRs = append(r.NativeCIDRs, prefix)
	}
	return errors.Join(errs...)
}

func parseRange(flag, text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("--%s %q: use ADDRESS/BITS, such as 10.15.0.0/16", flag, text)
	}
	return prefix, nil
}

func (o *options) logger(out io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", o.logLevel)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(out, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(out, opts)), nil
	}
	return nil, fmt.Errorf("--log-format %q: use text or json", o.logFormat)
}
