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

	"cilium.local/cilium/internal/policy"
)

// Config is what an operator decides about a node. Every part of the agent gets
// its own small configuration from it; nobody else sees this one.
type Config struct {
	NodeName   string
	StateDir   string // files that outlive the agent
	SocketPath string // of the API
	BPFRoot    string // folder on a bpffs, for this node alone
	Network    NetworkConfig
	Policy     PolicyConfig
	Store      StoreConfig
	Datapath   DatapathConfig
	Docker     string // path of Docker's API socket; empty: no Docker
	Metrics    string // address to serve Prometheus metrics at; empty: none
	// FlowLogMax is how much may be remembered of past flows, in MiB; 0: nothing is.
	FlowLogMax uint32
}

// NetworkConfig is the node's share of addresses. One range may be invalid, for
// a node with one address family.
type NetworkConfig struct {
	IPv4Range, IPv6Range netip.Prefix
	MTU                  int // bytes; 0: that of the node's devices
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

// StoreConfig names the key-value store; without endpoints it is embedded.
type StoreConfig struct {
	Endpoints []string
}

// DatapathConfig sizes the kernel's tables, in entries; 0 is the default.
type DatapathConfig struct {
	Endpoints, Addresses, Policies, PolicyEntries, Rules, Flows uint32
	TracePackets, HideFlows                                     bool
	LegacyHooks                                                 bool
}

// validate checks what the flags' types cannot.
func (c *Config) validate() error {
	if c.StateDir == "" || c.SocketPath == "" || c.BPFRoot == "" || c.NodeName == "" {
		return errors.New("--state-dir, --socket-path, --bpf-root and --node-name must not be empty")
	}
	n := c.Network
	if !n.IPv4Range.IsValid() && !n.IPv6Range.IsValid() {
		return errors.New("give --ipv4-range, --ipv6-range or both: the node needs addresses for its workloads")
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
