// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"cilium.local/cilium/internal/label"
)

// element is one allow or deny of a rule, ready to be matched. The peer and the
// port must both match.
type element struct {
	path    string // within the rule, such as ingress[0]
	deny    bool
	anyPeer bool
	peers   []peer
	ports   []portRange // none: any port of any protocol
}

// peer is a selector of the other end, or an entity.
type peer struct {
	selector label.Selector
	entity   string // set for entities
}

// entities are the names of fixed groups of peers.
var entities = []string{
	"all", "world", "world-ipv4", "world-ipv6", "cluster", "host", "remote-node",
	"kube-apiserver", "init", "ingress", "health", "unmanaged", "none",
}

// worlds are the reserved labels of what is outside the cluster.
var worlds = []string{"world", "world-ipv4", "world-ipv6"}

// isOutside tells addresses outside the cluster: the world, and the parts of it
// that have labels of their own.
func isOutside(labels label.Set) bool {
	return slices.ContainsFunc(labels, func(l label.Label) bool {
		return l.Source == label.SourceCIDR || l.Source == label.SourceFQDN ||
			l.Source == label.SourceReserved && slices.Contains(worlds, l.Key)
	})
}

func (p *peer) matches(labels label.Set) bool {
	switch p.entity {
	case "":
		// A selector is about workloads; what is none must be asked for by name.
		return (isWorkload(labels) || p.selector.Names(label.SourceReserved)) && p.selector.Matches(labels)
	case "all":
		return true
	case "none":
		return false
	case "cluster":
		return !isOutside(labels)
	}
	return hasReserved(labels, p.entity)
}

func hasReserved(labels label.Set, name string) bool {
	_, ok := labels.Get(label.SourceReserved, name)
	return ok
}

// isWorkload tells workloads, whose labels somebody chose, from everything that
// has a reserved identity. A health endpoint is a workload of ours.
func isWorkload(labels label.Set) bool {
	if isOutside(labels) {
		return false
	}
	for _, l := range labels {
		if l.Source == label.SourceReserved && l.Key != "health" {
			return false
		}
	}
	return true
}

// String returns the peer for people.
func (p *peer) String() string {
	if p.entity != "" {
		return "entity " + p.entity
	}
	return p.selector.String()
}

func (d *decoder) ingress(s *IngressSpec, path string) element {
	kinds := given(map[string]bool{
		"fromEndpoints": s.FromEndpoints != nil, "fromCIDR": s.FromCIDR != nil, "fromCIDRSet": s.FromCIDRSet != nil,
		"fromEntities": s.FromEntities != nil, "fromNodes": s.FromNodes != nil,
	})
	d.oneKind(kinds, path)
	d.cidrs(s.FromCIDR, path+".fromCIDR")
	d.cidrSets(s.FromCIDRSet, path+".fromCIDRSet")
	for i := range s.FromNodes {
		d.selector(s.FromNodes[i], fmt.Sprintf("%s.fromNodes[%d]", path, i))
	}
	for i := range s.FromRequires {
		d.selector(s.FromRequires[i], fmt.Sprintf("%s.fromRequires[%d]", path, i))
	}
	e := element{path: within(path), anyPeer: len(kinds) == 0}
	e.peers = append(d.endpoints(s.FromEndpoints, path+".fromEndpoints"), d.entityPeers(s.FromEntities, path+".fromEntities")...)
	e.ports = d.l4(&s.L4Spec, path)
	return e
}

func (d *decoder) egress(s *EgressSpec, path string) element {
	kinds := given(map[string]bool{
		"toEndpoints": s.ToEndpoints != nil, "toCIDR": s.ToCIDR != nil, "toCIDRSet": s.ToCIDRSet != nil,
		"toEntities": s.ToEntities != nil, "toServices": s.ToServices != nil, "toFQDNs": s.ToFQDNs != nil,
		"toNodes": s.ToNodes != nil,
	})
	d.oneKind(kinds, path)
	d.cidrs(s.ToCIDR, path+".toCIDR")
	d.cidrSets(s.ToCIDRSet, path+".toCIDRSet")
	d.services(s.ToServices, path+".toServices")
	d.names(s.ToFQDNs, path+".toFQDNs", false)
	for i := range s.ToNodes {
		d.selector(s.ToNodes[i], fmt.Sprintf("%s.toNodes[%d]", path, i))
	}
	for i := range s.ToRequires {
		d.selector(s.ToRequires[i], fmt.Sprintf("%s.toRequires[%d]", path, i))
	}
	e := element{path: within(path), anyPeer: len(kinds) == 0}
	e.peers = append(d.endpoints(s.ToEndpoints, path+".toEndpoints"), d.entityPeers(s.ToEntities, path+".toEntities")...)
	e.ports = d.l4(&s.L4Spec, path)
	return e
}

// within cuts the document's part off a path.
func within(path string) string {
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

func (d *decoder) endpoints(specs []SelectorSpec, path string) []peer {
	peers := make([]peer, 0, len(specs))
	for i, s := range specs {
		peers = append(peers, peer{selector: d.selector(s, fmt.Sprintf("%s[%d]", path, i))})
	}
	return peers
}

func (d *decoder) entityPeers(names []string, path string) []peer {
	peers := make([]peer, 0, len(names))
	for i, name := range names {
		d.oneOf(name, fmt.Sprintf("%s[%d]", path, i), entities...)
		peers = append(peers, peer{entity: name})
	}
	return peers
}

// denial marks an element and refuses what a denial cannot have.
func (d *decoder) denial(e element, s L4Spec, path string) element {
	e.deny = true
	for i, p := range s.ToPorts {
		if p.Rules != nil {
			d.failAt(fmt.Sprintf("%s.toPorts[%d].rules", path, i), "a denial has no rules inside connections")
		}
	}
	return e
}

func (d *decoder) cidrs(texts []string, path string) {
	for i, text := range texts {
		d.cidr(text, fmt.Sprintf("%s[%d]", path, i))
	}
}

// cidr accepts a prefix or a single address.
func (d *decoder) cidr(text, path string) netip.Prefix {
	prefix, err := netip.ParsePrefix(text)
	if err == nil {
		if prefix != prefix.Masked() {
			d.failAt(path, "%q has bits beyond its prefix; write %s", text, prefix.Masked())
		}
		return prefix.Masked()
	}
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
		return netip.PrefixFrom(ip, ip.BitLen())
	}
	d.failAt(path, "%q is no CIDR; write it as 10.0.0.0/8 or 2001:db8::/32", text)
	return netip.Prefix{}
}

func (d *decoder) cidrSets(sets []CIDRSpec, path string) {
	for i, s := range sets {
		at := fmt.Sprintf("%s[%d]", path, i)
		outer := d.cidr(s.CIDR, at+".cidr")
		for j, text := range s.Except {
			inner := d.cidr(text, fmt.Sprintf("%s.except[%d]", at, j))
			if outer.IsValid() && inner.IsValid() && (inner.Bits() < outer.Bits() || !outer.Contains(inner.Addr())) {
				d.failAt(fmt.Sprintf("%s.except[%d]", at, j), "%s does not lie inside %s", inner, outer)
			}
		}
	}
}

func (d *decoder) services(services []ServiceSpec, path string) {
	for i, s := range services {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case (s.K8sService == nil) == (s.K8sServiceSelector == nil):
			d.failAt(at, "give exactly one of k8sService and k8sServiceSelector")
		case s.K8sService != nil && s.K8sService.ServiceName == "":
			d.failAt(at+".k8sService", "serviceName is missing")
		case s.K8sServiceSelector != nil:
			d.selector(s.K8sServiceSelector.Selector, at+".k8sServiceSelector.selector")
		}
	}
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
