// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/identity"
)

// traceSide is one side of a trace, as its flags give it.
type traceSide struct {
	name     string // of the long flag
	labels   []string
	endpoint string
	identity int
	ip       string
}

func (s *traceSide) register(cmd *cobra.Command, short, what string) {
	f := cmd.Flags()
	f.StringSliceVarP(&s.labels, s.name, short, nil, "labels of the "+what+", source:key=value")
	f.StringVar(&s.endpoint, s.name+"-endpoint", "", "endpoint that is the "+what)
	f.IntVar(&s.identity, s.name+"-identity", 0, "numeric identity of the "+what)
	f.StringVar(&s.ip, s.name+"-ip", "", "address of the "+what)
}

// check reports a side that is not named by exactly one flag.
func (s *traceSide) check() error {
	given := 0
	for _, set := range []bool{len(s.labels) > 0, s.endpoint != "", s.identity != 0, s.ip != ""} {
		if set {
			given++
		}
	}
	if given != 1 {
		return usage("give exactly one of --%[1]s, --%[1]s-endpoint, --%[1]s-identity and --%[1]s-ip", s.name)
	}
	for _, text := range s.labels {
		if err := s.checkLabel(text); err != nil {
			return err
		}
	}
	if s.identity < 0 {
		return usage("--%s-identity %d: use a number that cilium identity list shows", s.name, s.identity)
	}
	if s.ip != "" {
		if _, err := netip.ParseAddr(s.ip); err != nil {
			return usage("--%s-ip %q is no IP address", s.name, s.ip)
		}
	}
	return nil
}

// checkLabel reports what would be a label that nobody has, but is the answer to another
// flag's question.
func (s *traceSide) checkLabel(text string) error {
	if _, err := netip.ParseAddr(text); err == nil {
		return usage("--%[1]s %[2]s is no label but an address: give it by --%[1]s-ip", s.name, text)
	}
	if _, err := strconv.Atoi(text); err == nil {
		return usage("--%[1]s %[2]s is no label but a number: give it by --%[1]s-endpoint or --%[1]s-identity", s.name, text)
	}
	if _, err := identity.Parse(text); err == nil {
		return usage("--%[1]s %[2]s is no label but the name of an identity: write reserved:%[2]s", s.name, text)
	}
	return nil
}

func (t *tool) policyTrace() *cobra.Command {
	src, dst := traceSide{name: "src"}, traceSide{name: "dst"}
	var ports []string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "trace -s LABELS -d LABELS [--dport PORT/PROTOCOL]",
		Short: "Explain step by step whether the policy lets a packet through",
		Example: `  cilium policy trace -s container:id=app3 -d container:id=app1 --dport 80/tcp
  cilium policy trace --src-endpoint 12 --dst-ip 10.15.0.7 --dport 53/udp`,
		Args: exactArgs(),
	}
	src.register(cmd, "s", "sender")
	dst.register(cmd, "d", "receiver")
	cmd.Flags().StringSliceVar(&ports, "dport", nil, "destination port, PORT[/PROTOCOL]; without one, any port is meant")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show the rules that do not apply too")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := src.check(); err != nil {
			return err
		}
		if err := dst.check(); err != nil {
			return err
		}
		dports, err := parsePorts(ports)
		if err != nil {
			return err
		}
		selector := &api.TraceSelector{
			From:    &api.TraceFrom{Labels: src.labels, Endpoint: src.endpoint, Identity: uint32(src.identity), IP: src.ip},
			To:      &api.TraceTo{Labels: dst.labels, Endpoint: dst.endpoint, Identity: uint32(dst.identity), IP: dst.ip, DPorts: dports},
			Verbose: verbose,
		}
		c := t.client()
		defer c.Close()
		result, err := c.PolicyResolve(cmd.Context(), selector)
		if err != nil {
			return err
		}
		return out.print(t.Out, result, func(w io.Writer) {
			fmt.Fprintln(w, strings.TrimRight(result.Log, "\n"))
		})
	}
	return cmd
}

// traceProtocols are the protocols that --dport takes, by their spelling in the API.
var traceProtocols = map[string]string{
	"tcp": "TCP", "udp": "UDP", "sctp": "SCTP", "icmp": "ICMP", "icmpv6": "ICMPv6", "any": "ANY",
}

// parsePorts reads PORT[/PROTOCOL], or PROTOCOL/PORT, which is accepted too.
func parsePorts(texts []string) ([]api.Port, error) {
	var ports []api.Port
	for _, text := range texts {
		number, protocol, _ := strings.Cut(text, "/")
		if protocol == "" {
			protocol = "any"
		} else if _, ok := traceProtocols[strings.ToLower(number)]; ok {
			number, protocol = protocol, number
		}
		name, known := traceProtocols[strings.ToLower(protocol)]
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil || !known {
			return nil, usage("--dport %q: use PORT/PROTOCOL, such as 80/tcp; protocols are tcp, udp, sctp, icmp and icmpv6 (with the message type as port)", text)
		}
		ports = append(ports, api.Port{Protocol: name, Port: uint16(port)})
	}
	return ports, nil
}
