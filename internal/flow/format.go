// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"cilium.local/cilium/internal/l4"
)

// Format returns the event as people read it: one line, and with verbose further
// indented lines with both sides' labels, the place that decided and the rule.
// There is no newline at the end.
func Format(e Event, verbose bool) string {
	var b strings.Builder
	switch e.Type {
	case TypeDrop:
		fmt.Fprintf(&b, "xx drop (%s) flow 0x%x %s endpoint %d, identity %s: %s",
			e.Reason, e.Hash, e.side(), e.Endpoint, e.identities(), e.packet())
	case TypeTrace:
		fmt.Fprintf(&b, "%s flow 0x%x identity %s state %s ifindex %s: %s",
			e.point(), e.Hash, e.identities(), e.TraceReason, e.device(), e.packet())
	case TypeVerdict:
		fmt.Fprintf(&b, "Policy verdict: %s flow 0x%x endpoint %d %s, identity %s: %s",
			e.verdict(), e.Hash, e.Endpoint, e.Direction, e.identities(), e.packet())
	case TypeAgent:
		fmt.Fprintf(&b, ">> %s", e.Message)
	default:
		fmt.Fprintf(&b, "event of unknown type %d", uint8(e.Type))
	}
	if e.Tunnel.IsValid() && e.Type == TypeDrop {
		fmt.Fprintf(&b, " by tunnel from %s", e.Tunnel)
	}
	if e.ID != "" {
		b.WriteString(" event " + e.ID)
	}
	if verbose && e.Type != TypeAgent {
		e.details(&b)
	}
	return b.String()
}

// HexDump returns the captured bytes, 16 a line, without a newline at the end.
func HexDump(e Event) string { return strings.TrimSuffix(hex.Dump(e.Capture), "\n") }

// side says whether the reporting endpoint receives or sends the packet.
func (e *Event) side() string {
	if e.Direction == Egress {
		return "from"
	}
	return "to"
}

func (e *Event) verdict() string {
	if e.Audit {
		return "audit, would be " + e.Verdict.String()
	}
	return e.Verdict.String()
}

func (e *Event) identities() string {
	return e.SourceIdentity.Name() + "->" + e.DestIdentity.Name()
}

// point draws the trace point as an arrow to or from its place.
func (e *Event) point() string {
	way, place, found := strings.Cut(e.TracePoint.String(), "-")
	if !found {
		return "?? point " + e.TracePoint.String()
	}
	arrow := "->"
	if way == "from" {
		arrow = "<-"
	}
	if place == "endpoint" {
		return fmt.Sprintf("%s endpoint %d", arrow, e.Endpoint)
	}
	return arrow + " " + place
}

func (e *Event) device() string {
	if e.IfName != "" {
		return e.IfName
	}
	return fmt.Sprint(e.Ifindex)
}

// packet returns "SRC -> DST tcp SYN" and the like.
func (e *Event) packet() string {
	if !e.Source.IsValid() && !e.Dest.IsValid() {
		return fmt.Sprintf("not an IP packet, %d bytes", e.Length)
	}
	text := end(e.Source) + " -> " + end(e.Dest)
	switch e.Proto {
	case l4.TCP:
		text += " tcp"
		if flags := e.TCPFlags.String(); flags != "" {
			text += " " + flags
		}
	case l4.ICMP, l4.ICMPv6:
		text += " " + strings.ToLower(e.Proto.String()) + " " + icmpName(e.Proto, e.ICMPType, e.ICMPCode)
	case l4.UDP, l4.SCTP:
		text += " " + strings.ToLower(e.Proto.String())
	default:
		text += fmt.Sprintf(" protocol %d", uint8(e.Proto))
	}
	return text
}

func end(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

func (e *Event) details(b *strings.Builder) {
	fmt.Fprintf(b, "\n    source: %s identity %s", labelText(e.SourceLabels), e.SourceIdentity.Name())
	fmt.Fprintf(b, "\n    destination: %s identity %s", labelText(e.DestLabels), e.DestIdentity.Name())
	fmt.Fprintf(b, "\n    %s, %d bytes", e.Direction, e.Length)
	if e.IfName != "" || e.Ifindex != 0 {
		fmt.Fprintf(b, " on %s", e.device())
	}
	if e.File != "" {
		fmt.Fprintf(b, ", decided at %s:%d", e.File, e.Line)
	}
	switch {
	case len(e.RuleLabels) > 0:
		fmt.Fprintf(b, " by rule [%s]", strings.Join(e.RuleLabels, " "))
	case e.Cookie != 0:
		fmt.Fprintf(b, " by rule 0x%08x", e.Cookie)
	}
	if e.RuleOrigin != "" {
		fmt.Fprintf(b, " from %s", e.RuleOrigin)
	}
	if e.Log != "" {
		fmt.Fprintf(b, ", log %q", e.Log)
	}
}

func labelText(labels []string) string {
	if len(labels) == 0 {
		return "(no labels known)"
	}
	return strings.Join(labels, " ")
}

// flagNames by bit, from the lowest.
var flagNames = []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"}

// String returns the flags that are set, such as "SYN, ACK"; empty for none.
func (f TCPFlags) String() string {
	order := []int{1, 4, 0, 2, 3, 5, 6, 7} // SYN and ACK first: they tell most
	var set []string
	for _, bit := range order {
		if f&(1<<bit) != 0 {
			set = append(set, flagNames[bit])
		}
	}
	return strings.Join(set, ", ")
}

// icmpKey names a type of one of the two ICMP protocols.
type icmpKey struct {
	proto l4.Protocol
	kind  uint8
}

// icmpNames are the types that people meet.
var icmpNames = map[icmpKey]string{
	{l4.ICMP, 0}: "EchoReply", {l4.ICMP, 3}: "DestinationUnreachable", {l4.ICMP, 5}: "Redirect",
	{l4.ICMP, 8}: "EchoRequest", {l4.ICMP, 11}: "TimeExceeded", {l4.ICMP, 12}: "ParameterProblem",
	{l4.ICMPv6, 1}: "DestinationUnreachable", {l4.ICMPv6, 2}: "PacketTooBig",
	{l4.ICMPv6, 3}: "TimeExceeded", {l4.ICMPv6, 4}: "ParameterProblem",
	{l4.ICMPv6, 128}: "EchoRequest", {l4.ICMPv6, 129}: "EchoReply",
	{l4.ICMPv6, 133}: "RouterSolicitation", {l4.ICMPv6, 134}: "RouterAdvertisement",
	{l4.ICMPv6, 135}: "NeighborSolicitation", {l4.ICMPv6, 136}: "NeighborAdvertisement",
	{l4.ICMPv6, 143}: "MulticastListenerReport",
}

func icmpName(proto l4.Protocol, kind, code uint8) string {
	text, ok := icmpNames[icmpKey{proto, kind}]
	if !ok {
		text = fmt.Sprintf("type %d", kind)
	}
	if code != 0 {
		text += fmt.Sprintf(" code %d", code)
	}
	return text
}
