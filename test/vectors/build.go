// SPDX-License-Identifier: Apache-2.0

package vectors

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"cilium.local/cilium/internal/agent/cidrid"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// Build makes a case of the document, with the world that its rules need.
func (doc *Document) Build(file string) (Case, error) {
	c := Case{Name: file + ": " + doc.Name, Options: policy.Options{Mode: doc.Mode, AllowLocalhost: doc.AllowLocalhost}}
	if c.Options.Mode == "" {
		c.Options.Mode = policy.ModeDefault
	}
	if err := c.identify(doc.Identities); err != nil {
		return c, err
	}
	if len(doc.Services) > 0 {
		var err error
		if c.Options.Services, err = policy.ParseServices(file, doc.Services); err != nil {
			return c, err
		}
	}
	var ok bool
	if c.Subject, ok = c.names[doc.Subject]; !ok {
		return c, fmt.Errorf("subject %q is no identity of the case", doc.Subject)
	}
	if err := c.number(file, doc.Rules); err != nil {
		return c, err
	}
	if err := c.identifyPrefixes(); err != nil {
		return c, err
	}
	for _, text := range doc.Checks {
		check, err := c.check(text)
		if err != nil {
			return c, fmt.Errorf("check %q: %w", text, err)
		}
		c.Checks = append(c.Checks, check)
	}
	return c, nil
}

// identify gives the workloads numbers, and the reserved identities their
// further labels.
func (c *Case) identify(labels map[string][]string) error {
	sets := map[string]label.Set{}
	for name, texts := range labels {
		set, err := label.ParseSet(texts)
		if err != nil {
			return fmt.Errorf("identity %s: %w", name, err)
		}
		sets[name] = set
	}
	c.names = map[string]identity.Identity{}
	for _, id := range identity.Reserved() {
		name := id.ID.Name()
		id.Labels = label.NewSet(slices.Concat(id.Labels, sets[name])...)
		c.names[name] = id
		c.Identities = append(c.Identities, id)
		delete(sets, name)
	}
	next := identity.MinAllocated
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		c.names[name] = identity.Identity{ID: next, Labels: sets[name]}
		c.Identities = append(c.Identities, c.names[name])
		next++
	}
	return nil
}

// number parses the rules and gives them cookies.
func (c *Case) number(file string, text []byte) error {
	rules, err := policy.Parse(file, text)
	if err != nil {
		return err
	}
	for _, r := range rules {
		if err := r.Unsupported(); err != nil {
			return err
		}
	}
	repository := policy.NewRepository()
	if _, _, err := repository.Add(rules, false); err != nil {
		return err
	}
	c.Rules = repository.Rules()
	return nil
}

// identifyPrefixes gives each prefix of the rules an identity, as the agent does.
func (c *Case) identifyPrefixes() error {
	var all []netip.Prefix
	for _, r := range c.Rules {
		all = append(all, r.Prefixes(c.Options.Services)...)
	}
	ids, err := cidrid.New(nil).Acquire(all)
	if err != nil {
		return err
	}
	c.Prefixes = make(map[netip.Prefix]identity.ID, len(ids))
	for _, id := range ids {
		c.Prefixes[policy.LabelledPrefix(id.Labels)] = id.ID
	}
	c.Identities = append(c.Identities, ids...)
	return nil
}

// Party returns who is meant by a name of the case, a reserved name, or an
// address outside, which has the identity of the longest prefix that holds it.
func (c *Case) Party(text string) (policy.Party, error) {
	if id, ok := c.names[text]; ok {
		return policy.Party{ID: id.ID, Labels: id.Labels}, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return policy.Party{}, fmt.Errorf("%q is no identity of the case and no address", text)
	}
	id := c.names[identity.WorldIPv6.Name()]
	if addr.Is4() {
		id = c.names[identity.WorldIPv4.Name()]
	}
	longest := -1
	for _, candidate := range c.Identities {
		prefix := policy.LabelledPrefix(candidate.Labels)
		if prefix.IsValid() && prefix.Contains(addr) && prefix.Bits() > longest {
			id, longest = candidate, prefix.Bits()
		}
	}
	return policy.Party{ID: id.ID, Labels: id.Labels, Addr: addr}, nil
}

// Flow returns the question as the definition puts it.
func (c *Case) Flow(q Question) policy.Flow {
	f := policy.Flow{
		Source: q.Peer,
		Dest:   policy.Party{ID: c.Subject.ID, Labels: c.Subject.Labels, Local: true},
		Port:   q.Port,
	}
	if q.Direction == policy.Egress {
		f.Source, f.Dest = f.Dest, f.Source
	}
	return f
}
