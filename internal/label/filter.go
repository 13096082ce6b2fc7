// SPDX-License-Identifier: Apache-2.0

package label

import (
	"errors"
	"fmt"
	"strings"
)

// Filter tells which labels make up an identity. Labels that change with every
// start or image of a workload would give each its own identity.
type Filter struct {
	user    []filterRule
	include bool // some user rule includes: what matches none is left out
}

// separators stand between the words of a key.
const separators = "./-_"

type filterRule struct {
	exclude        bool
	source, prefix string
}

// kubernetesDomain marks what Kubernetes itself writes, wherever it stands in the
// key. Of it, the recommended application labels (app.kubernetes.io) are people's
// own words and what they select by: without them rules that select by them would
// select nothing, and leave open what they are to close.
const kubernetesDomain = "kubernetes.io"

// PortPrefix begins the keys of labels that give a port of a workload a name:
// io.cilium.port.web=80/tcp. Rules ask for ports by name, so these labels are part
// of what a workload is to others, and always kept.
const PortPrefix = "io.cilium.port."

// defaultRules are tried in order; the first that covers a label decides. Every
// label that none covers is kept, unless it has kubernetesDomain in its key.
// docs/policy.md has the table for users.
var defaultRules = []filterRule{
	{false, SourceReserved, ""},
	{false, SourceAny, PortPrefix},
	{false, SourceAny, "io.kubernetes.pod.namespace"},
	{false, SourceAny, "io.cilium.k8s.namespace.labels"},
	{false, SourceAny, "app.kubernetes.io"},
	{true, SourceAny, "io.kubernetes"},
	{true, SourceAny, "pod-template-"},
	{true, SourceAny, "controller-revision-hash"},
	{true, SourceAny, "annotation."},
	{true, SourceContainer, "com.docker.compose.config-hash"},
	{true, SourceContainer, "com.docker.compose.container-number"},
	{true, SourceContainer, "com.docker.compose.depends_on"},
	{true, SourceContainer, "com.docker.compose.image"},
	{true, SourceContainer, "com.docker.compose.oneoff"},
	{true, SourceContainer, "com.docker.compose.project."},
	{true, SourceContainer, "com.docker.compose.replace"},
	{true, SourceContainer, "com.docker.compose.slug"},
	{true, SourceContainer, "com.docker.compose.version"},
	{true, SourceContainer, "com.docker.swarm.node"},
	{true, SourceContainer, "com.docker.swarm.task"},
	{true, SourceContainer, "com.hashicorp.nomad.alloc_"},
	{true, SourceContainer, "com.hashicorp.nomad.node_"},
	{true, SourceContainer, "containerd.io/"},
	{true, SourceContainer, "desktop.docker.io/"},
	{true, SourceContainer, "io.buildah."},
	{true, SourceContainer, "io.container.manager"},
	{true, SourceContainer, "io.containerd."},
	{true, SourceContainer, "io.cri-containerd"},
	{true, SourceContainer, "io.podman.annotations."},
	{true, SourceContainer, "io.podman.compose.config-hash"},
	{true, SourceContainer, "io.podman.compose.version"},
	{true, SourceContainer, "PODMAN_SYSTEMD_UNIT"},
	{true, SourceContainer, "nerdctl/"},
	{true, SourceContainer, "org.opencontainers.image"},
	{true, SourceContainer, "org.label-schema"},
	{true, SourceContainer, "maintainer"},
}

// NewFilter makes a filter of specs "[!][source:]prefix", tried before the
// defaults: with "!" matching labels are left out, else kept. As soon as one
// spec keeps labels, labels that match no spec are left out, but for reserved ones.
func NewFilter(specs []string) (Filter, error) {
	var f Filter
	for _, spec := range specs {
		rule := filterRule{}
		text, exclude := strings.CutPrefix(strings.TrimSpace(spec), "!")
		rule.exclude = exclude
		rule.source, rule.prefix = SplitKey(text)
		if rule.prefix == "" && rule.source == SourceUnspec {
			return Filter{}, fmt.Errorf("label filter %q: %w", spec, errors.New("write [!][source:]prefix"))
		}
		f.include = f.include || !exclude
		f.user = append(f.user, rule)
	}
	return f, nil
}

// Apply splits a set into the labels that make up the identity and the others.
func (f Filter) Apply(set Set) (relevant, other Set) {
	for _, l := range set {
		if f.keeps(l) {
			relevant = append(relevant, l)
		} else {
			other = append(other, l)
		}
	}
	return relevant, other
}

func (f Filter) keeps(l Label) bool {
	for _, r := range f.user {
		if r.matches(l) {
			return !r.exclude
		}
	}
	if f.include && l.Source != SourceReserved && !strings.HasPrefix(l.Key, PortPrefix) {
		return false
	}
	for _, r := range defaultRules {
		if r.covers(l) {
			return !r.exclude
		}
	}
	return !strings.Contains(l.Key, kubernetesDomain)
}

// covers is matches of whole words: a prefix that does not end with a separator
// stands for that key and those below it, and not for all that begin alike.
func (r filterRule) covers(l Label) bool {
	if !r.matches(l) {
		return false
	}
	below := l.Key[len(r.prefix):]
	return below == "" || r.prefix == "" || strings.ContainsAny(r.prefix[len(r.prefix)-1:], separators) || strings.ContainsAny(below[:1], separators)
}

func (r filterRule) matches(l Label) bool {
	anySource := r.source == SourceAny || r.source == SourceUnspec
	return (anySource || r.source == l.Source) && strings.HasPrefix(l.Key, r.prefix)
}
