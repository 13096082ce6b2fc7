// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
)

// portRange is a range of ports of one protocol, ends included; for ICMP a range
// of message types. A Protocol of l4.Any has the whole range and means any packet.
// One with a name has the number that the labels of the destination give it.
type portRange struct {
	protocol l4.Protocol
	from, to uint16
	name     string
}

const lastPort = 65535

// namedPort returns the port that the labels of a workload give the name. A number
// without a protocol is of TCP.
func namedPort(labels label.Set, name string) (l4.Port, bool) {
	for _, l := range labels {
		if l.Key != label.PortPrefix+name || l.Source == label.SourceReserved {
			continue
		}
		text := l.Value
		if !strings.Contains(text, "/") {
			text += "/tcp"
		}
		port, err := l4.ParsePort(text)
		return port, err == nil && port.Protocol.HasPorts() && port.Number != 0
	}
	return l4.Port{}, false
}

// resolve returns the range with numbers, as they are at the destination. It is
// false when the destination has no such name, or only for another protocol.
func (r portRange) resolve(destination label.Set) (portRange, bool) {
	if r.name == "" {
		return r, true
	}
	port, ok := namedPort(destination, r.name)
	if !ok || r.protocol != l4.Any && r.protocol != port.Protocol {
		return portRange{}, false
	}
	return portRange{protocol: port.Protocol, from: port.Number, to: port.Number}, true
}

func (r portRange) contains(p l4.Port) bool {
	if r.protocol == l4.Any {
		return true
	}
	return r.protocol == p.Protocol && p.Number >= r.from && p.Number <= r.to
}

// String returns "80/TCP", "80-90/TCP", "TCP" or "any".
func (r portRange) String() string {
	switch {
	case r.name != "" && r.protocol == l4.Any:
		return r.name
	case r.name != "":
		return r.name + "/" + r.protocol.String()
	case r.protocol == l4.Any:
		return "any"
	case r.from == 0 && r.to == lastPort:
		return r.protocol.String()
	case r.from == r.to:
		return fmt.Sprintf("%d/%s", r.from, r.protocol)
	}
	return fmt.Sprintf("%d-%d/%s", r.from, r.to, r.protocol)
}

// maxPorts is how many ports one list may name.
const maxPorts = 40

// l4 works out the ranges of an element; none means any.
func (d *decoder) l4(s *L4Spec, path string) []portRange {
	if len(s.ToPorts) > 0 && len(s.ICMPs) > 0 {
		d.failAt(path, "toPorts and icmps in one element; write two elements")
	}
	if s.ToPorts != nil && len(s.ToPorts) == 0 {
		d.failAt(path+".toPorts", "it names no port; leave toPorts out if any port is meant")
	}
	if s.ICMPs != nil && len(s.ICMPs) == 0 {
		d.failAt(path+".icmps", "it names no message; leave icmps out if anything is meant")
	}
	var ranges []portRange
	for i := range s.ToPorts {
		ranges = append(ranges, d.ports(&s.ToPorts[i], fmt.Sprintf("%s.toPorts[%d]", path, i))...)
	}
	for i := range s.ICMPs {
		ranges = append(ranges, d.icmps(&s.ICMPs[i], fmt.Sprintf("%s.icmps[%d]", path, i))...)
	}
	return ranges
}

func (d *decoder) ports(s *PortsSpec, path string) []portRange {
	if len(s.Ports) > maxPorts {
		d.failAt(path+".ports", "%d ports; at most %d fit one list", len(s.Ports), maxPorts)
	}
	if s.Rules != nil {
		d.rules(s.Rules, path+".rules")
	}
	if len(s.Ports) == 0 {
		d.failAt(path, "it names no port; list them under ports, or leave toPorts out if any port is meant")
	}
	var ranges []portRange
	for i, p := range s.Ports {
		ranges = append(ranges, d.port(p, fmt.Sprintf("%s.ports[%d]", path, i))...)
	}
	return ranges
}

var portName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

func (d *decoder) port(p PortSpec, path string) []portRange {
	protocol, err := l4.ParseProtocol(p.Protocol)
	if err != nil {
		d.failAt(path+".protocol", "%v", err)
		return nil
	}
	number, err := strconv.ParseUint(p.Port, 10, 16)
	first := int(number)
	if p.Port == "" {
		first, err = 0, nil
	}
	switch {
	case err != nil && isPortName(p.Port):
		if p.EndPort != 0 {
			d.failAt(path+".endPort", "a range begins with a number, not with a name")
		}
		if protocol != l4.Any && !protocol.HasPorts() {
			d.failAt(path+".port", "%s has no ports; give message types by icmps", protocol)
		}
		return []portRange{{protocol: protocol, name: p.Port}}
	case err != nil:
		d.failAt(path+".port", "%q is no port; use 0 to 65535, or a name of at most 15 lower-case letters, digits and '-'", p.Port)
		return nil
	case p.EndPort != 0 && (p.EndPort < first || p.EndPort > lastPort || first == 0):
		d.failAt(path+".endPort", "%d does not end a range that begins at %d; use %d to 65535", p.EndPort, first, max(first, 1))
		return nil
	case (protocol == l4.ICMP || protocol == l4.ICMPv6) && first != 0:
		d.failAt(path+".port", "%s has no ports; give message types by icmps", protocol)
		return nil
	}
	r := portRange{protocol: protocol, from: uint16(first), to: uint16(max(first, p.EndPort))}
	if first == 0 {
		r.to = lastPort
	}
	if protocol != l4.Any {
		return []portRange{r}
	}
	// Any protocol that has ports: pings need a rule of their own.
	var each []portRange
	for _, protocol := range []l4.Protocol{l4.TCP, l4.UDP, l4.SCTP} {
		each = append(each, portRange{protocol: protocol, from: r.from, to: r.to})
	}
	return each
}

func isPortName(text string) bool {
	return len(text) <= 15 && portName.MatchString(text) && strings.Trim(text, "0123456789-") != ""
}

// Names of ICMP message types, as in IANA's registries.
var (
	icmpv4Types = map[string]uint16{
		"EchoReply": 0, "DestinationUnreachable": 3, "Redirect": 5, "Echo": 8, "EchoRequest": 8,
		"RouterAdvertisement": 9, "RouterSelection": 10, "TimeExceeded": 11, "ParameterProblem": 12,
		"Timestamp": 13, "TimestampReply": 14, "Photuris": 40, "ExtendedEchoRequest": 42, "ExtendedEchoReply": 43,
	}
	icmpv6Types = map[string]uint16{
		"DestinationUnreachable": 1, "PacketTooBig": 2, "TimeExceeded": 3, "ParameterProblem": 4,
		"EchoRequest": 128, "EchoReply": 129, "MulticastListenerQuery": 130, "MulticastListenerReport": 131,
		"MulticastListenerDone": 132, "RouterSolicitation": 133, "RouterAdvertisement": 134,
		"NeighborSolicitation": 135, "NeighborAdvertisement": 136, "RedirectMessage": 137,
		"RouterRenumbering": 138, "ICMPNodeInformationQuery": 139, "ICMPNodeInformationResponse": 140,
		"InverseNeighborDiscoverySolicitation": 141, "InverseNeighborDiscoveryAdvertisement": 142,
		"HomeAgentAddressDiscoveryRequest": 144, "HomeAgentAddressDiscoveryReply": 145,
		"MobilePrefixSolicitation": 146, "MobilePrefixAdvertisement": 147,
		"DuplicateAddressRequestCodeSuffix": 157, "DuplicateAddressConfirmationCodeSuffix": 158,
		"ExtendedEchoRequest": 160, "ExtendedEchoReply": 161,
	}
)

func (d *decoder) icmps(s *ICMPSpec, path string) []portRange {
	if len(s.Fields) == 0 {
		d.failAt(path, "fields is missing; give at least one {family, type}")
	}
	if len(s.Fields) > maxPorts {
		d.failAt(path+".fields", "%d types; at most %d fit one list", len(s.Fields), maxPorts)
	}
	var ranges []portRange
	for i, f := range s.Fields {
		at := fmt.Sprintf("%s.fields[%d]", path, i)
		d.oneOf(f.Family, at+".family", "", "IPv4", "IPv6")
		protocol, names := l4.ICMP, icmpv4Types
		if f.Family == "IPv6" {
			protocol, names = l4.ICMPv6, icmpv6Types
		}
		number, known := names[string(f.Type)]
		if !known {
			n, err := strconv.ParseUint(string(f.Type), 10, 8)
			if err != nil {
				d.failAt(at+".type", "%q is no type; use 0 to 255 or one of: %s", f.Type, strings.Join(sortedKeys(names), ", "))
				continue
			}
			number = uint16(n)
		}
		ranges = append(ranges, portRange{protocol: protocol, from: number, to: number})
	}
	return ranges
}
