// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// element is one allow, denial or pass of a rule, ready to be matched. The peer
// and the port must both match.
type element struct {
	path    string // within the rule, such as ingress[0]
	kind    Kind
	anyPeer bool
	peers   []Peer
	ports   []portRange // none: any port of any protocol
}

// ingress returns the elements that one of the document means: what its
// requirements deny, and what it says itself.
func (d *decoder) ingress(s *IngressSpec, kind Kind, path string) []element {
	d.oneKind(given(map[string]bool{
		"fromEndpoints": s.FromEndpoints != nil, "fromCIDR": s.FromCIDR != nil, "fromCIDRSet": s.FromCIDRSet != nil,
		"fromEntities": s.FromEntities != nil, "fromNodes": s.FromNodes != nil,
	}), path)
	peers := slices.Concat(
		d.selectors(s.FromEndpoints, peerEndpoints, path+".fromEndpoints"),
		d.selectors(s.FromNodes, peerNodes, path+".fromNodes"),
		d.entities(s.FromEntities, path+".fromEntities"),
		d.cidrs(s.FromCIDR, path+".fromCIDR"),
		d.cidrSets(s.FromCIDRSet, path+".fromCIDRSet"),
	)
	anyPeer := s.FromEndpoints == nil && s.FromNodes == nil && s.FromEntities == nil && s.FromCIDR == nil && s.FromCIDRSet == nil
	return d.elements(element{kind: kind, anyPeer: anyPeer, peers: peers}, &s.L4Spec, s.FromRequires, path, "fromRequires")
}

func (d *decoder) egress(s *EgressSpec, kind Kind, path string) []element {
	d.oneKind(given(map[string]bool{
		"toEndpoints": s.ToEndpoints != nil, "toCIDR": s.ToCIDR != nil, "toCIDRSet": s.ToCIDRSet != nil,
		"toEntities": s.ToEntities != nil, "toServices": s.ToServices != nil, "toFQDNs": s.ToFQDNs != nil,
		"toNodes": s.ToNodes != nil,
	}), path)
	d.names(s.ToFQDNs, path+".toFQDNs", false)
	peers := slices.Concat(
		d.selectors(s.ToEndpoints, peerEndpoints, path+".toEndpoints"),
		d.selectors(s.ToNodes, peerNodes, path+".toNodes"),
		d.entities(s.ToEntities, path+".toEntities"),
		d.cidrs(s.ToCIDR, path+".toCIDR"),
		d.cidrSets(s.ToCIDRSet, path+".toCIDRSet"),
		d.services(s.ToServices, path+".toServices"),
	)
	anyPeer := s.ToEndpoints == nil && s.ToNodes == nil && s.ToEntities == nil && s.ToCIDR == nil &&
		s.ToCIDRSet == nil && s.ToServices == nil && s.ToFQDNs == nil
	return d.elements(element{kind: kind, anyPeer: anyPeer, peers: peers}, &s.L4Spec, s.ToRequires, path, "toRequires")
}

// elements completes an element, which comes with anyPeer when it names no kind of
// peer, and puts the denial before it that its requirements are. An element that names
// no ports either selects nobody: {} closes its direction, and one that only requires
// grants nothing.
func (d *decoder) elements(e element, s *L4Spec, requires []SelectorSpec, path, field string) []element {
	e.path = inRule(path)
	empty := e.anyPeer && len(s.ToPorts) == 0 && len(s.ICMPs) == 0
	e.anyPeer = e.anyPeer && !empty
	e.ports = d.l4(s, path)
	if e.kind == Deny {
		d.noInner(s, path)
	}
	if requires == nil {
		return []element{e}
	}
	if e.kind == Pass {
		d.failAt(path+"."+field, "a rule that passes has no requirements; write a rule of its own for them")
	}
	failing := Peer{kind: peerFailing, path: e.path + "." + field}
	for i := range requires {
		failing.requires = append(failing.requires, d.selector(requires[i], fmt.Sprintf("%s.%s[%d]", path, field, i)))
	}
	denial := element{path: e.path + "." + field, kind: Deny, peers: []Peer{failing}}
	if empty {
		return []element{denial}
	}
	return []element{denial, e}
}

// inRule cuts the document's part off a path.
func inRule(path string) string {
	_, rest, _ := strings.Cut(path, ".")
	return rest
}

func given(kinds map[string]bool) []string {
	var names []string
	for _, name := range sortedKeys(kinds) {
		if kinds[name] {
			names = append(names, name)
		}
	}
	return names
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (d *decoder) oneKind(kinds []string, path string) {
	if len(kinds) > 1 {
		d.failAt(path, "%s in one element; write two elements", strings.Join(kinds, " and "))
	}
}

func (d *decoder) selectors(specs []SelectorSpec, kind peerKind, path string) []Peer {
	peers := make([]Peer, 0, len(specs))
	for i, s := range specs {
		at := fmt.Sprintf("%s[%d]", path, i)
		peers = append(peers, Peer{kind: kind, path: inRule(at), selector: d.selector(s, at)})
	}
	return peers
}

func (d *decoder) entities(names []string, path string) []Peer {
	peers := make([]Peer, 0, len(names))
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.oneOf(name, at, entities...)
		peers = append(peers, Peer{kind: peerEntity, path: inRule(at), entity: name})
	}
	return peers
}

// noInner refuses what a denial cannot have.
func (d *decoder) noInner(s *L4Spec, path string) {
	for i, p := range s.ToPorts {
		if p.Rules != nil {
			d.failAt(fmt.Sprintf("%s.toPorts[%d].rules", path, i), "a denial has no rules inside connections")
		}
	}
}

func (d *decoder) cidrs(texts []string, path string) []Peer {
	peers := make([]Peer, 0, len(texts))
	for i, text := range texts {
		at := fmt.Sprintf("%s[%d]", path, i)
		peers = append(peers, Peer{kind: peerCIDR, path: inRule(at), prefix: d.cidr(text, at)})
	}
	return peers
}

// cidr accepts a prefix or a single address.
func (d *decoder) cidr(text, path string) netip.Prefix {
	prefix, err := netip.ParsePrefix(text)
	if err == nil && !prefix.Addr().Is4In6() {
		if prefix != prefix.Masked() {
			d.failAt(path, "%q has bits beyond its prefix; write %s", text, prefix.Masked())
		}
		return prefix.Masked()
	}
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" && !ip.Is4In6() {
		return netip.PrefixFrom(ip, ip.BitLen())
	}
	d.failAt(path, "%q is no CIDR; write it as 10.0.0.0/8 or 2001:db8::/32", text)
	return netip.Prefix{}
}

func (d *decoder) cidrSets(sets []CIDRSpec, path string) []Peer {
	peers := make([]Peer, 0, len(sets))
	for i, s := range sets {
		at := fmt.Sprintf("%s[%d]", path, i)
		p := Peer{kind: peerCIDR, path: inRule(at), prefix: d.cidr(s.CIDR, at+".cidr")}
		for j, text := range s.Except {
			inner := d.cidr(text, fmt.Sprintf("%s.except[%d]", at, j))
			if p.prefix.IsValid() && inner.IsValid() && !within(p.prefix, inner) {
				d.failAt(fmt.Sprintf("%s.except[%d]", at, j), "%s does not lie inside %s", inner, p.prefix)
			}
			p.except = append(p.except, inner)
		}
		peers = append(peers, p)
	}
	return peers
}

func (d *decoder) services(services []ServiceSpec, path string) []Peer {
	peers := make([]Peer, 0, len(services))
	for i := range services {
		s, at := &services[i], fmt.Sprintf("%s[%d]", path, i)
		switch {
		case (s.K8sService == nil) == (s.K8sServiceSelector == nil):
			d.failAt(at, "give exactly one of k8sService and k8sServiceSelector")
		case s.K8sService != nil && s.K8sService.ServiceName == "":
			d.failAt(at+".k8sService", "serviceName is missing")
		case s.K8sServiceSelector != nil:
			s.K8sServiceSelector.parsed = d.selector(s.K8sServiceSelector.Selector, at+".k8sServiceSelector.selector")
		}
		peers = append(peers, Peer{kind: peerService, path: inRule(at), service: s})
	}
	return peers
}

// nameBytes are what DNS names are made of here; patterns add the star.
const nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// names checks DNS names. Only a lookup rule may span labels.
func (d *decoder) names(names []NameSpec, path string, lookup bool) {
	for i, n := range names {
		at := fmt.Sprintf("%s[%d]", path, i)
		if (n.MatchName == "") == (n.MatchPattern == "") {
			d.failAt(at, "give exactly one of matchName and matchPattern")
		}
		if bad := strings.Trim(n.MatchName, nameBytes); bad != "" {
			d.failAt(at+".matchName", "%q is no DNS name; a star belongs into matchPattern", n.MatchName)
		}
		pattern := strings.TrimPrefix(n.MatchPattern, "**.")
		if bad := strings.Trim(pattern, nameBytes+"*"); bad != "" || (strings.Contains(pattern, "**") && !lookup) {
			d.failAt(at+".matchPattern", "%q is no pattern; use letters, digits, '-', '_', '.', '*' and a leading '**.'", n.MatchPattern)
		}
	}
}
