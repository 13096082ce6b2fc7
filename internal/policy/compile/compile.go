// SPDX-License-Identifier: Apache-2.0

// Package compile turns rules into the entries that the kernel looks up: for one
// workload identity, the best candidates for each peer identity, direction,
// protocol and port prefix. The package is pure.
package compile

import (
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// Compile works out the policy of a workload with the subject's labels towards
// every known identity, once. Rules have cookies, as those of a Repository do.
func Compile(subject label.Set, rules []*policy.Rule, identities []identity.Identity, opts Options) Entries {
	return compileAll(subject, rules, identities, opts, false)
}

// CompileAudit works out what the policy would be with the rules that are only
// audited; it is empty when none of them is about the subject.
func CompileAudit(subject label.Set, rules []*policy.Rule, identities []identity.Identity, opts Options) Entries {
	return compileAll(subject, rules, identities, opts, true)
}

func compileAll(subject label.Set, rules []*policy.Rule, identities []identity.Identity, opts Options, audit bool) Entries {
	const self = identity.Unknown // the subject needs no number for its own policy
	e := NewEngine(opts, 0)
	for _, id := range identities {
		e.AddIdentity(id)
	}
	e.AddSubject(identity.Identity{ID: self, Labels: subject})
	for _, r := range rules {
		e.AddRule(r)
	}
	return e.Whole(Ref{Subject: self, Audit: audit}).Put
}
