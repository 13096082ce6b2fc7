// SPDX-License-Identifier: Apache-2.0

package engines_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/test/vectors"
)

// scenario is a random world: rules, who there is, and who sends what to whom.
type scenario struct {
	seed     uint64
	rules    []any // as JSON, to be taken apart when something is wrong with them
	services []any
	labels   map[string][]string // of workloads, and of nodes beside their own
	mode     policy.Mode
	local    bool     // allow-localhost
	subjects []string // workloads of this node, which have policies
	flows    []string // "SOURCE DEST PORT"
}

// document returns the scenario as a case, asked about one of its subjects.
func (s *scenario) document(subject string, checks ...string) *vectors.Document {
	doc := &vectors.Document{
		Name: fmt.Sprintf("seed %d", s.seed), Mode: s.mode, AllowLocalhost: s.local,
		Identities: s.labels, Subject: subject, Checks: checks,
	}
	doc.Rules, _ = json.Marshal(s.rules)
	if len(s.services) > 0 {
		doc.Services, _ = json.Marshal(s.services)
	}
	return doc
}

// generator makes a scenario of random numbers, and of values that meet often:
// few labels, ports around the ends of ranges, addresses around those of prefixes.
type generator struct {
	*rand.Rand
	prefixes []netip.Prefix
	ports    []int // near what rules and names say
	theme    theme
}

// theme is what a world is mostly about: where everything is there at once, rules
// hide each other's mistakes.
type theme int

const (
	everything theme = iota
	names
	addresses
	groups
	selectors
	themes
)

type object = map[string]any

func generate(seed uint64) *scenario {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 3)), ports: []int{0, 80, 65535}}
	g.theme = theme(g.IntN(int(themes)))
	s := &scenario{
		seed: seed, labels: map[string][]string{}, local: g.one(4), rules: []any{},
		mode: pick(g, policy.ModeDefault, policy.ModeDefault, policy.ModeDefault, policy.ModeDefault, policy.ModeAlways, policy.ModeNever),
	}
	g.drawPrefixes()
	workloads := 3 + g.IntN(10)
	if g.one(20) {
		workloads = 150
	}
	for i := range workloads {
		s.labels["w"+strconv.Itoa(i)] = g.labels("container", "k8s")
	}
	s.labels["host"], s.labels["remote-node"] = g.labels("node"), g.labels("node")
	for range g.IntN(4) {
		s.services = append(s.services, g.service())
	}
	rules := pick(g, 1, 2, 3, 4, 6, 9)
	if g.one(15) {
		rules = 40
	}
	for range rules {
		s.rules = append(s.rules, g.rule())
	}
	s.subjects = []string{"w0", "w1", "w2", pick(g, "w2", "init", "health")}
	slices.Sort(s.subjects)
	s.subjects = slices.Compact(s.subjects)
	for range flowsPerScenario {
		s.flows = append(s.flows, g.flow(s, workloads))
	}
	return s
}

// one is true once in so many times.
func (g *generator) one(in int) bool { return g.IntN(in) == 0 }

func pick[T any](g *generator, options ...T) T { return options[g.IntN(len(options))] }

// some returns between least and most of what draw makes.
func some(g *generator, least, most int, draw func() any) []any {
	list := []any{}
	for range least + g.IntN(most-least+1) {
		list = append(list, draw())
	}
	return list
}

// drawPrefixes makes prefixes, most of them inside others.
func (g *generator) drawPrefixes() {
	for _, text := range []string{"0.0.0.0/0", "10.0.0.0/8", "192.168.0.0/16", "::/0", "2001:db8::/32"} {
		g.prefixes = append(g.prefixes, netip.MustParsePrefix(text))
	}
	for range 8 {
		g.prefixes = append(g.prefixes, g.inside(g.prefixes[1+g.IntN(len(g.prefixes)-1)]))
	}
}

// inside returns a prefix inside another, often a little longer or of one address.
func (g *generator) inside(outer netip.Prefix) netip.Prefix {
	most := outer.Addr().BitLen()
	bits := min(most, outer.Bits()+pick(g, 0, 1, 1, 2, 8, 16, 128))
	prefix := netip.PrefixFrom(g.address(outer, bits), bits).Masked()
	if prefix.Addr().Is4In6() || prefix.Bits() == 0 && outer.Bits() > 0 {
		return outer
	}
	return prefix
}

// address returns an address of a prefix: the first, the last, or any, of which
// only the leading bits are at random.
func (g *generator) address(prefix netip.Prefix, random int) netip.Addr {
	bytes := prefix.Addr().AsSlice()
	fill := g.IntN(3)
	for bit := prefix.Bits(); bit < len(bytes)*8; bit++ {
		one := fill == 1
		if fill == 2 && bit < random {
			one = g.one(2)
		}
		if one {
			bytes[bit/8] |= 0x80 >> (bit % 8)
		}
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

func (g *generator) labels(sources ...string) []string {
	texts := []string{}
	for _, key := range []string{"id", "env", "team", "role"} {
		if key == "id" || g.one(2) {
			texts = append(texts, fmt.Sprintf("%s:%s=%s", pick(g, sources...), key, g.value()))
		}
	}
	for _, name := range portNames {
		for g.one(3) {
			number := pick(g, g.IntN(65536), pick(g, g.ports...))
			g.ports = append(g.ports, number)
			text := pick(g, fmt.Sprintf("%d/tcp", number), fmt.Sprintf("%d/udp", number), fmt.Sprintf("%d/SCTP", number),
				strconv.Itoa(number), "8/icmp", "x")
			texts = append(texts, fmt.Sprintf("%s:io.cilium.port.%s=%s", pick(g, sources...), name, text))
		}
	}
	return texts
}

var portNames = []string{"web", "dns"}

func (g *generator) value() string { return pick(g, "a", "b", "c", "") }

func (g *generator) key() string {
	return pick(g, "", "", "any:", "k8s:", "container:", "node:") + pick(g, "id", "id", "env", "team", "role")
}

func (g *generator) selector() any {
	if g.one(12) {
		return object{"matchLabels": object{pick(g, "reserved:init", "reserved:host", "reserved:world", "reserved:health", "reserved:world-ipv4",
			"reserved:remote-node", "cidr:"+pick(g, g.prefixes...).String()): ""}}
	}
	s := object{}
	if g.one(2) && g.theme != selectors {
		labels := object{}
		for range 1 + g.IntN(2) {
			labels[g.key()] = g.value()
		}
		s["matchLabels"] = labels
	}
	if g.one(3) || g.theme == selectors {
		s["matchExpressions"] = some(g, 1, 2, func() any {
			e := object{"key": g.key(), "operator": pick(g, "In", "In", "NotIn", "Exists", "DoesNotExist")}
			if g.one(8) {
				e["key"] = "reserved:" + pick(g, "host", "init", "world", "health")
			}
			if operator := e["operator"]; operator == "In" || operator == "NotIn" {
				e["values"] = some(g, 1, 3, func() any { return g.value() })
			}
			return e
		})
	}
	return s
}

// subject is a selector that a rule may be about.
func (g *generator) subject() any {
	for {
		if s := g.selector(); !demandsNoEndpoint(s) {
			return s
		}
	}
}

// demandsNoEndpoint says that a selector is only about what has no policy.
func demandsNoEndpoint(selector any) bool {
	text, _ := json.Marshal(selector) // its keys are in order
	for _, name := range []string{"host", "world", "world-ipv4", "remote-node"} {
		for _, form := range []string{`"reserved:%s":`, `"key":"reserved:%s","operator":"In"`, `"key":"reserved:%s","operator":"Exists"`} {
			if strings.Contains(string(text), fmt.Sprintf(form, name)) {
				return true
			}
		}
	}
	return false
}

func hasElements(rule object, direction string) bool {
	for _, section := range []string{direction, direction + "Deny"} {
		if list, ok := rule[section].([]any); ok && len(list) > 0 {
			return true
		}
	}
	return false
}

func (g *generator) service() any {
	s := object{"name": pick(g, "s0", "s1"), "labels": object{"team": g.value()}}
	if g.one(2) {
		s["namespace"] = pick(g, "default", "prod")
	}
	if !g.one(3) {
		s["selector"] = g.selector()
	}
	if g.one(2) {
		s["addresses"] = some(g, 0, 2, func() any { return pick(g, g.prefixes...).String() })
	}
	return s
}

func (g *generator) toService() any {
	namespace := object{}
	if g.one(2) {
		namespace["namespace"] = pick(g, "default", "prod")
	}
	if g.one(2) {
		namespace["serviceName"] = pick(g, "s0", "s1", "s2")
		return object{"k8sService": namespace}
	}
	namespace["selector"] = object{}
	if g.one(2) {
		namespace["selector"] = object{"matchLabels": object{"team": g.value()}}
	}
	return object{"k8sServiceSelector": namespace}
}

func (g *generator) rule() any {
	r := object{"endpointSelector": object{}}
	if g.one(2) {
		r["endpointSelector"] = g.subject()
	}
	passes := g.one(7)
	if passes {
		r["verdict"] = "pass"
	}
	for _, section := range []string{"ingress", "egress", "ingressDeny", "egressDeny"} {
		denies := strings.HasSuffix(section, "Deny")
		if passes && denies || g.one(2) || denies && g.one(3) {
			continue
		}
		r[section] = some(g, 0, 2, func() any { return g.element(section[0] == 'e', passes) })
	}
	if g.one(3) {
		on := object{}
		for _, direction := range []string{"ingress", "egress"} {
			if g.one(2) {
				on[direction] = g.one(3) && hasElements(r, direction)
			}
		}
		r["enableDefaultDeny"] = on
	}
	if g.one(2) {
		r["tier"] = pick(g, "admin", "normal", "baseline")
	}
	if g.one(3) {
		r["priority"] = pick(g, -32767, -1, 0, 1, 2, 32767)
	}
	if g.one(6) {
		r["mode"] = "audit"
	}
	if g.one(3) {
		r["denyResponse"] = pick(g, "icmp", "rst")
	}
	return r
}

func (g *generator) element(egress, passes bool) any {
	word := "from"
	if egress {
		word = "to"
	}
	e := object{}
	g.peers(e, word, egress)
	if !passes && g.one(8) {
		e[word+"Requires"] = some(g, 0, 2, g.selector)
	}
	switch g.IntN(6) {
	case 0, 1, 2:
		e["toPorts"] = some(g, 1, 2, func() any {
			return object{"ports": some(g, 1, 3, g.port)}
		})
	case 3:
		e["icmps"] = some(g, 1, 2, func() any { return object{"fields": some(g, 1, 2, g.icmp)} })
	}
	return e
}

func (g *generator) peers(e object, word string, egress bool) {
	most := 2
	kind := g.IntN(9)
	switch {
	case g.theme == groups && g.one(2):
		e[word+"Endpoints"] = []any{object{}}
		return
	case g.theme == groups:
		kind = pick(g, 5, 8)
	case g.theme == addresses && !g.one(4):
		kind = pick(g, 3, 4, 4, 5)
	case g.theme == selectors && !g.one(4):
		kind = pick(g, 0, 0, 7)
	}
	switch kind {
	case 0, 1, 2:
		e[word+"Endpoints"] = some(g, 0, most, g.selector)
	case 3:
		e[word+"CIDR"] = some(g, 0, most, func() any { return g.cidr() })
	case 4:
		e[word+"CIDRSet"] = some(g, 0, most, func() any {
			outer := pick(g, g.prefixes...)
			return object{"cidr": outer.String(), "except": some(g, 0, most, func() any {
				inner := g.inside(outer)
				if known := pick(g, g.prefixes...); known.Bits() >= outer.Bits() && outer.Contains(known.Addr()) {
					inner = known
				}
				return inner.String()
			})}
		})
	case 5:
		e[word+"Entities"] = some(g, 0, most, func() any {
			return pick(g, "all", "world", "world-ipv4", "world-ipv6", "cluster", "host", "remote-node", "kube-apiserver",
				"init", "ingress", "health", "unmanaged", "none")
		})
	case 6:
		if egress {
			e["toServices"] = some(g, 0, most, g.toService)
			return
		}
		e["fromNodes"] = some(g, 0, most, g.selector)
	case 7:
		e[word+"Nodes"] = some(g, 0, most, g.selector)
	}
}

func (g *generator) cidr() string {
	prefix := pick(g, g.prefixes...)
	if prefix.IsSingleIP() && g.one(2) {
		return prefix.Addr().String()
	}
	return prefix.String()
}

func (g *generator) port() any {
	p := object{}
	if !g.one(4) {
		p["protocol"] = pick(g, "TCP", "TCP", "UDP", "SCTP", "ANY", "any", "tcp")
	}
	kind := g.IntN(8)
	if g.theme == names && !g.one(4) {
		kind = 0
	}
	switch kind {
	case 0, 1:
		p["port"] = pick(g, portNames...)
		return p
	case 2:
		if g.one(2) {
			p["protocol"] = pick(g, "ICMP", "ICMPv6")
		}
		if g.one(2) {
			p["port"] = "0"
		}
		return p
	}
	from := max(1, pick(g, 22, 53, 80, 1024, 65535, g.IntN(65536), pick(g, g.ports...)))
	p["port"] = strconv.Itoa(from)
	to := from
	if g.one(2) {
		to = min(65535, from+pick(g, 0, 1, 7, 100, g.IntN(65536)))
		p["endPort"] = to
	}
	g.ports = append(g.ports, from-1, from, to, min(65535, to+1))
	return p
}

func (g *generator) icmp() any {
	switch g.IntN(4) {
	case 0:
		return object{"type": pick(g, "EchoRequest", "Echo", "EchoReply", "TimeExceeded")}
	case 1:
		return object{"family": "IPv6", "type": pick(g, "EchoRequest", "EchoReply", "PacketTooBig")}
	}
	return object{"family": pick(g, "IPv4", "IPv6"), "type": pick(g, 0, 8, 11, 128, 129, g.IntN(256))}
}

// flow returns who sends what to whom; at least one of them is a subject.
func (g *generator) flow(s *scenario, workloads int) string {
	subject := pick(g, s.subjects...)
	peer := pick(g, s.subjects...)
	switch g.IntN(8) {
	case 0, 1:
		peer = "w" + strconv.Itoa(g.IntN(workloads))
	case 2, 3:
		peer = pick(g, "host", "host", "world", "unmanaged", "health", "init", "remote-node", "kube-apiserver", "ingress", "world-ipv4", "world-ipv6")
	case 4, 5, 6:
		peer = g.outside().String()
	}
	if g.one(2) {
		subject, peer = peer, subject
	}
	number := uint16(g.Uint32())
	if !g.one(8) {
		number = uint16(pick(g, g.ports...))
	}
	protocol := pick(g, "tcp", "tcp", "tcp", "udp", "sctp", "icmp", "icmpv6")
	if strings.HasPrefix(protocol, "icmp") {
		number = uint16(pick(g, 0, 8, 11, 128, 129, g.IntN(256)))
	}
	port := fmt.Sprintf("%d/%s", number, protocol)
	if g.one(4) || g.theme == names {
		port = g.namedPort(s.labels[peer], port)
	}
	return fmt.Sprintf("%s %s %s", subject, peer, port)
}

// namedPort returns a port that the labels name, else the other one.
func (g *generator) namedPort(labels []string, other string) string {
	for _, at := range g.Perm(len(labels)) {
		_, port, named := strings.Cut(labels[at], "io.cilium.port.")
		_, port, _ = strings.Cut(port, "=")
		if parsed, err := l4.ParsePort(port); named && err == nil && parsed.Protocol != l4.Any {
			return port
		}
	}
	return other
}

// outside returns an address in a prefix or next to it, that can be one of a peer.
func (g *generator) outside() netip.Addr {
	for {
		prefix := pick(g, g.prefixes...)
		addr := g.address(prefix, 128)
		switch g.IntN(6) {
		case 0:
			addr = addr.Next()
		case 1:
			addr = addr.Prev()
		}
		first := addr.AsSlice()
		if addr.IsValid() && !addr.IsMulticast() && !addr.IsLoopback() && !addr.IsUnspecified() && !addr.IsLinkLocalUnicast() &&
			!addr.Is4In6() && first[0] != 0xff && !isSubject(addr) {
			return addr
		}
	}
}
