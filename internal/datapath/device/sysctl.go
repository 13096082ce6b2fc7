// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// option is one kernel setting of one device: /proc/sys/net/FAMILY/conf/DEV/NAME.
type option struct {
	family string // ipv4 or ipv6
	name   string
	value  string
	// optional settings are skipped where the kernel does not have them.
	optional bool
}

// hostEndOptions are the settings of the host end of a pair.
//
// Forwarding. The IPv4 stack asks the device by which a packet came in whether
// it may be routed on, so setting it here lets workloads reach whatever the
// node has routes to, while packets from outside to a workload come in by a
// device of the operator's and need forwarding there. The IPv6 stack asks the
// one setting "all" of the whole namespace instead, which is the operator's;
// from Linux 6.17 force_forwarding gives IPv6 the same meaning per device as
// IPv4 has. What the operator has to set is what Forwarding reports.
//
// Reverse path filter. The programs on the device check the source address
// against the endpoint already, so a second route lookup per packet by the
// stack would only cost time. The kernel takes the greater of this and "all".
//
// IPv6. The device is a point-to-point link on which programs answer neighbour
// discovery for the gateway: it needs no link-local address, so it sends no
// duplicate detection, no listener reports and no router solicitations; and a
// workload must never configure the host by router advertisements.
func hostEndOptions(ipv6 bool) []option {
	options := []option{
		{family: "ipv4", name: "forwarding", value: "1"},
		{family: "ipv4", name: "rp_filter", value: "0"},
		{family: "ipv4", name: "send_redirects", value: "0"},
	}
	if ipv6 {
		options = append(options, option{family: "ipv6", name: "disable_ipv6", value: "0"})
	}
	return append(options,
		option{family: "ipv6", name: "addr_gen_mode", value: "1", optional: !ipv6},
		option{family: "ipv6", name: "accept_ra", value: "0", optional: !ipv6},
		option{family: "ipv6", name: "forwarding", value: "1", optional: !ipv6},
		option{family: "ipv6", name: "force_forwarding", value: "1", optional: true},
	)
}

// containerEndOptions are the settings of the device inside the container. Its
// only neighbour is the gateway, which is no IPv6 router that advertises.
func containerEndOptions() []option {
	return []option{
		{family: "ipv6", name: "disable_ipv6", value: "0"},
		{family: "ipv6", name: "addr_gen_mode", value: "1"},
		{family: "ipv6", name: "accept_ra", value: "0"},
	}
}

// setAll writes settings of one device, in order, in the calling thread's
// namespace. Values that are already right are not written again: some writes
// take the kernel's global network lock.
func setAll(device string, options []option) error {
	for _, o := range options {
		path := optionPath(device, o)
		if current, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(current)) == o.value {
			continue
		}
		err := os.WriteFile(path, []byte(o.value), 0)
		if errors.Is(err, fs.ErrNotExist) && o.optional {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) && o.family == "ipv6" {
			return fmt.Errorf("set %s of device %s: %w (is IPv6 off in the kernel: ipv6.disable=1?)", o.name, device, err)
		}
		if err != nil {
			return fmt.Errorf("set %s of device %s to %s: %w", o.name, device, o.value, err)
		}
	}
	return nil
}

func optionPath(device string, o option) string {
	return "/proc/sys/net/" + o.family + "/conf/" + device + "/" + o.name
}

// ForwardingState tells what the node's operator allows the kernel to route.
type ForwardingState struct {
	// IPv4: packets from outside are routed to workloads.
	IPv4 bool
	// IPv6: packets from outside are routed to workloads.
	IPv6 bool
	// IPv6Outgoing: packets of workloads are routed to the outside. In IPv4
	// they always are: our own devices say so.
	IPv6Outgoing bool
}

// Missing names the settings that the operator would have to make, as
// arguments of sysctl, for traffic between workloads and the outside to flow in
// both directions.
func (s ForwardingState) Missing() []string {
	var missing []string
	if !s.IPv4 {
		missing = append(missing, "net.ipv4.ip_forward=1")
	}
	if !s.IPv6 || !s.IPv6Outgoing {
		missing = append(missing, "net.ipv6.conf.all.forwarding=1")
	}
	return missing
}

// Forwarding reads the caller's namespace's settings. It changes nothing:
// whether a machine is a router is its operator's decision.
func Forwarding() (ForwardingState, error) {
	var s ForwardingState
	ipv4, err := readFlag("/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		return s, fmt.Errorf("read IPv4 forwarding: %w", err)
	}
	ipv6, err := readFlag("/proc/sys/net/ipv6/conf/all/forwarding")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("read IPv6 forwarding: %w", err)
	}
	_, err = os.Stat("/proc/sys/net/ipv6/conf/all/force_forwarding")
	perDevice := err == nil
	return ForwardingState{IPv4: ipv4, IPv6: ipv6, IPv6Outgoing: ipv6 || perDevice}, nil
}

func readFlag(path string) (bool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	return strings.TrimSpace(string(data)) != "0", nil
}
