// SPDX-License-Identifier: Apache-2.0

// Package agent wires one node: agent.go is the map of it. The parts below do
// the work; this package decides what depends on what, starts and stops them in
// order, and answers the API from them.
package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/noderange"
	"cilium.local/cilium/internal/policy"
)

// Config is what an operator decides about a node. Every part of the agent gets
// its own small configuration from it; nobody else sees this one.
type Config struct {
	NodeName   string
	StateDir   string // files that outlive the agent
	SocketPath string // of the API
	BPFRoot    string // folder on a bpffs, for this node alone
	Cluster    ClusterConfig
	Network    NetworkConfig
	Routing    RoutingConfig
	Health     HealthConfig
	Policy     PolicyConfig
	Store      StoreConfig
	Datapath   DatapathConfig
	Docker     string // path of Docker's API socket; empty: no Docker
	Metrics    string // address to serve Prometheus metrics at; empty: none
	// FlowLogMax is how much may be remembered of past flows, in MiB; 0: nothing is.
	FlowLogMax uint32
}

// ClusterConfig names the cluster that the node is in.
type ClusterConfig struct {
	Name string
	ID   uint8 // tells joined clusters apart; 0 for one by itself
	// MeshDir has a file for each cluster that this one is joined with; empty: none.
	MeshDir string
}

// clusterName is what a cluster may be called: it is part of keys and labels.
var clusterName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$`)

func (c *ClusterConfig) validate() error {
	if !clusterName.MatchString(c.Name) {
		return fmt.Errorf("--cluster-name %q: use up to 32 small letters, digits and hyphens, a letter or digit first and last", c.Name)
	}
	if c.MeshDir != "" && c.ID == 0 {
		return errors.New("--clustermesh-config: joined clusters are told apart by numbers: give this one a --cluster-id from 1 to 255")
	}
	return nil
}

// NetworkConfig is the node's share of addresses. One range may be invalid, for
// a node with one address family.
type NetworkConfig struct {
	IPv4Range, IPv6Range netip.Prefix
	// IPv4Pool and IPv6Pool are what ranges that are not given are claimed from; their
	// prefixes may be invalid.
	IPv4Pool, IPv6Pool noderange.Pool
	MTU                int // bytes; 0: that of the node's devices
}

// RoutingConfig says how packets travel between nodes.
type RoutingConfig struct {
	// Mode is none, native, or an encapsulation that package device knows. Empty is
	// none with the embedded store, and else vxlan.
	Mode string
	// IPv4 and IPv6 are this node's addresses in the network between the nodes; those
	// that are not valid are found out.
	IPv4, IPv6 netip.Addr
	// NativeCIDRs are reached by native routing; they hold the ranges of all nodes.
	NativeCIDRs []netip.Prefix
	// DirectRoutes has native routing add routes to the nodes on the same link.
	DirectRoutes bool
	TunnelPort   int // UDP; 0 for that of the encapsulation
}

// The modes of routing that are no encapsulation.
const (
	routingNone   = "none"
	routingNative = "native"
)

// encapsulates says that packets between nodes go through a tunnel.
func (c *RoutingConfig) encapsulates() bool {
	return slices.Contains(device.Encapsulations(), c.Mode)
}

// setDefault chooses a mode where none was given.
func (c *RoutingConfig) setDefault(sharedStore bool) {
	if c.Mode == "" && sharedStore {
		c.Mode = "vxlan"
	} else if c.Mode == "" {
		c.Mode = routingNone
	}
}

// validate checks what the flags say by themselves.
func (c *RoutingConfig) validate() error {
	modes := append([]string{routingNone, routingNative}, device.Encapsulations()...)
	if c.Mode != "" && !slices.Contains(modes, c.Mode) {
		return fmt.Errorf("--routing %q: use one of %s", c.Mode, strings.Join(modes, ", "))
	}
	if c.TunnelPort < 0 || c.TunnelPort > 65535 {
		return fmt.Errorf("--tunnel-port %d: use 1 to 65535, or 0 for the usual port", c.TunnelPort)
	}
	if c.IPv4.IsValid() && !c.IPv4.Is4() {
		return fmt.Errorf("--node-ipv4 %s: it is no IPv4 address", c.IPv4)
	}
	if c.IPv6.IsValid() && !c.IPv6.Is6() {
		return fmt.Errorf("--node-ipv6 %s: it is no IPv6 address", c.IPv6)
	}
	return nil
}

// carries checks that the network's own routes, where they are used, hold these ranges.
func (c *RoutingConfig) carries(ranges ...netip.Prefix) error {
	if c.Mode != routingNative {
		return nil
	}
	for _, r := range ranges {
		inside := func(cidr netip.Prefix) bool { return cidr.Bits() <= r.Bits() && cidr.Contains(r.Addr()) }
		if r.IsValid() && !slices.ContainsFunc(c.NativeCIDRs, inside) {
			return fmt.Errorf("--native-routing-cidr: no prefix given there holds this node's range %s: "+
				"name what the network routes to the nodes", r)
		}
	}
	return nil
}

// HealthConfig says how nodes ask each other whether they are there.
type HealthConfig struct {
	Port     uint16        // TCP, at which this node answers; 0: it does not
	Interval time.Duration // between two questions to one node; 0: none is asked
}

func (c *HealthConfig) validate() error {
	if c.Interval != 0 && c.Interval < time.Second {
		return fmt.Errorf("--health-interval %s: use at least 1s, or 0 to ask nobody", c.Interval)
	}
	return nil
}

// PolicyConfig says how policy is enforced on this node.
type PolicyConfig struct {
	Mode           policy.Mode
	AllowLocalhost bool
	LabelFilters   []string // [!][source:]prefix; empty: the default choice
	NodeLabels     map[string]string
	ServicesFile   string // that toServices is about; empty: no services
}

// options returns what bears on decisions. The services are read once.
func (c *PolicyConfig) options() (policy.Options, error) {
	opts := policy.Options{Mode: c.Mode, AllowLocalhost: c.AllowLocalhost}
	if c.ServicesFile == "" {
		return opts, nil
	}
	data, err := os.ReadFile(c.ServicesFile)
	if err == nil {
		opts.Services, err = policy.ParseServices(c.ServicesFile, data)
	}
	if err != nil {
		return opts, fmt.Errorf("--services-file: %w", err)
	}
	return opts, nil
}

// StoreConfig names the key-value store, by the URLs of its members or by a file in
// the form of kvstore.ReadConfig; with neither it is embedded.
type StoreConfig struct {
	Endpoints []string
	File      string
	LeaseTTL  time.Duration // how long others believe this node after it is gone; 0: 15 minutes
}

// external reports whether the store is one that nodes share.
func (c StoreConfig) external() bool { return len(c.Endpoints) > 0 || c.File != "" }

func (c StoreConfig) validate() error {
	if len(c.Endpoints) > 0 && c.File != "" {
		return errors.New("--kvstore-endpoints and --kvstore-config: give one of them")
	}
	if err := kvstore.CheckEndpoints(c.Endpoints); err != nil {
		return fmt.Errorf("--kvstore-endpoints: %w", err)
	}
	if c.LeaseTTL != 0 && c.LeaseTTL < minLeaseTTL {
		return fmt.Errorf("--kvstore-lease-ttl %s: use at least %s, or a busy store ends leases of nodes that are alive", c.LeaseTTL, minLeaseTTL)
	}
	return nil
}

// config is how the store is reached.
func (c StoreConfig) config() (kvstore.Config, error) {
	if c.File == "" {
		return kvstore.Config{Endpoints: c.Endpoints}, nil
	}
	cfg, err := kvstore.ReadConfig(c.File)
	if err != nil {
		err = fmt.Errorf("--kvstore-config %w", err)
	}
	return cfg, err
}

// DatapathConfig sizes the kernel's tables, in entries; 0 is the default.
type DatapathConfig struct {
	Endpoints, Addresses, Policies, PolicyEntries, Rules, Flows uint32
	Nodes                                                       uint32
	TracePackets, HideFlows                                     bool
	LegacyHooks                                                 bool
}

const minLeaseTTL = 10 * time.Second

// validate checks what the flags' types cannot.
func (c *Config) validate() error {
	if c.StateDir == "" || c.SocketPath == "" || c.BPFRoot == "" || c.NodeName == "" {
		return errors.New("--state-dir, --socket-path, --bpf-root and --node-name must not be empty")
	}
	if strings.ContainsRune(c.NodeName, '/') {
		return fmt.Errorf("--node-name %q: it must not hold a slash, which ends names in keys of the store", c.NodeName)
	}
	n := c.Network
	if err := c.Cluster.validate(); err != nil {
		return err
	}
	if !n.IPv4Range.IsValid() && !n.IPv6Range.IsValid() && !n.IPv4Pool.Prefix.IsValid() && !n.IPv6Pool.Prefix.IsValid() {
		return errors.New("give --ipv4-range, --ipv6-range or both, or pools to claim them from: the node needs addresses for its workloads")
	}
	if n.IPv4Range.IsValid() && (!n.IPv4Range.Addr().Is4() || n.IPv4Range.Bits() > 30) {
		return fmt.Errorf("--ipv4-range %s: use an IPv4 prefix of at most 30 bits, such as 10.15.0.0/16", n.IPv4Range)
	}
	if n.IPv6Range.IsValid() && (!n.IPv6Range.Addr().Is6() || n.IPv6Range.Bits() > 126) {
		return fmt.Errorf("--ipv6-range %s: use an IPv6 prefix of at most 126 bits, such as f00d::a0f:0:0:0/96", n.IPv6Range)
	}
	if n.MTU != 0 && (n.MTU < 1280 || n.MTU > 65535) {
		return fmt.Errorf("--mtu %d: use 1280 to 65535 bytes, or 0 to take that of the node's devices", n.MTU)
	}
	if c.Datapath.Nodes > 65534 {
		return fmt.Errorf("--nodes-max %d: use at most 65534", c.Datapath.Nodes)
	}
	if err := c.Health.validate(); err != nil {
		return err
	}
	if err := c.Store.validate(); err != nil {
		return err
	}
	if err := c.Routing.validate(); err != nil {
		return err
	}
	if err := checkMode(c.Policy.Mode); err != nil {
		return fmt.Errorf("--enable-policy: %w", err)
	}
	return nil
}

func checkMode(mode policy.Mode) error {
	switch mode {
	case policy.ModeDefault, policy.ModeAlways, policy.ModeNever:
		return nil
	}
	return fmt.Errorf("%q: use default, always or never", mode)
}

// gateway is the address of the node inside a range: its first one.
func gateway(prefix netip.Prefix) netip.Addr {
	if !prefix.IsValid() {
		return netip.Addr{}
	}
	return prefix.Masked().Addr().Next()
}

func (c *Config) path(name string) string { return filepath.Join(c.StateDir, name) }
