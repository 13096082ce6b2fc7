// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"

	"cilium.local/cilium/internal/agent/cidrid"
	"cilium.local/cilium/internal/clustermesh"
	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/idalloc"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
)

// identities are all that this node knows: those of the cluster, those of
// prefixes that its rules name, and itself with the labels that it was given.
type identities struct {
	*idalloc.Allocator
	prefixes *cidrid.Table
	host     identity.Identity
	mesh     *clustermesh.Mesh
	remote   chan struct{} // those of other clusters have changed
}

// remoteChanged notes that identities of other clusters have changed.
func (i *identities) remoteChanged() {
	select {
	case i.remote <- struct{}{}:
	default:
	}
}

// prefixIdentities leaves out where the addresses are.
func prefixIdentities(rows map[netip.Prefix]bpfmap.Address) map[netip.Prefix]identity.ID {
	ids := make(map[netip.Prefix]identity.ID, len(rows))
	for prefix, row := range rows {
		ids[prefix] = row.Identity
	}
	return ids
}

// nodeName is the key of the label that every node has.
const nodeNameLabel = "name"

// hostIdentity returns the node's own identity. Its labels are a node's, so that
// rules can pick nodes by them.
func hostIdentity(nodeName string, labels map[string]string) identity.Identity {
	all := []label.Label{{Source: label.SourceNode, Key: nodeNameLabel, Value: nodeName}}
	for key, value := range labels {
		all = append(all, label.Label{Source: label.SourceNode, Key: key, Value: value})
	}
	return identity.Identity{ID: identity.Host, Labels: label.NewSet(append(all, label.Reserved(identity.Host.Name())...)...)}
}

// Shared returns all identities but those of prefixes.
func (i *identities) Shared() []identity.Identity {
	all := i.Allocator.Identities()
	for n := range all {
		if all[n].ID == identity.Host {
			all[n] = i.host
		}
	}
	return append(all, i.mesh.Identities()...)
}

// Identities returns all identities.
func (i *identities) Identities() []identity.Identity {
	return append(i.Shared(), i.prefixes.Identities()...)
}

// Lookup returns an identity by its number.
func (i *identities) Lookup(id identity.ID) (identity.Identity, bool) {
	if id == identity.Host {
		return i.host, true
	}
	if found, ok := i.prefixes.Lookup(id); ok {
		return found, true
	}
	if found, ok := i.Allocator.Lookup(id); ok {
		return found, true
	}
	return i.mesh.Lookup(id)
}
