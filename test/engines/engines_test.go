// SPDX-License-Identifier: Apache-2.0

// Package engines_test holds the three policy engines against each other and
// against written cases: the definition (policy.Decide), the compiled form
// (package compile, whole and incremental), and the BPF programs in the kernel.
package engines_test

import (
	"errors"
	"net/netip"
	"testing"

	"cilium.local/cilium/internal/datapath/datapathtest"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
	"cilium.local/cilium/test/vectors"
)

func must(t interface{ Fatal(...any) }, err error) {
	if h, ok := t.(interface{ Helper() }); ok {
		h.Helper()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// byDefinition is what a side of policy.Decide says.
func byDefinition(side policy.Side) vectors.Answer {
	a := vectors.Answer{Verdict: sideVerdict(side)}
	if side.Audit != nil {
		a.Audit = sideVerdict(*side.Audit)
	}
	return a
}

func sideVerdict(side policy.Side) vectors.Verdict {
	v := vectors.Verdict{Action: vectors.Allow}
	switch {
	case side.Reason == policy.ReasonDeny:
		v.Action = vectors.Deny
	case !side.Allowed:
		v.Action = vectors.DefaultDeny
	}
	if side.Rule == nil {
		return v
	}
	v.Cookie = side.Rule.Cookie
	if !side.Allowed {
		v.Response = map[string]compile.Response{
			"icmp": compile.ResponseICMP, "rst": compile.ResponseRST,
		}[side.Rule.DenyResponse]
	}
	return v
}

// compiled is the policy of one subject in its compiled form.
type compiled struct{ enforced, audited compile.Entries }

func compileCase(c *vectors.Case, subject identity.Identity) compiled {
	return compiled{
		enforced: compile.Compile(subject.Labels, c.Rules, c.Identities, c.Options),
		audited:  compile.CompileAudit(subject.Labels, c.Rules, c.Identities, c.Options),
	}
}

// answer is what the kernel's lookup finds. False says that there is no entry at
// all, which no policy may come to.
func (p compiled) answer(q vectors.Question) (vectors.Answer, bool) {
	decision, found := p.enforced.Lookup(q.Peer.ID, q.Direction, q.Port)
	a := vectors.Answer{Verdict: entryVerdict(decision)}
	if audit, ok := p.audited.Lookup(q.Peer.ID, q.Direction, q.Port); ok && audit.Allow != decision.Allow {
		a.Audit = entryVerdict(audit)
	}
	return a, found
}

func entryVerdict(d compile.Decision) vectors.Verdict {
	v := vectors.Verdict{Action: vectors.Allow, Cookie: d.Cookie}
	if d.Allow {
		return v
	}
	v.Action, v.Response = vectors.Deny, d.Response
	if d.Default {
		v.Action = vectors.DefaultDeny
	}
	return v
}

// Numbers and addresses of the kernel's world. No case names a prefix around the
// addresses that stand for peers without one.
const subjectPolicy = 2

var (
	subjectAddrs = []netip.Addr{netip.MustParseAddr("10.15.0.11"), netip.MustParseAddr("f00d::a0f:0:0:11")}
	peerAddrs    = []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:eeee::9")}
)

// kernelVerdict is what the programs say.
func kernelVerdict(v datapathtest.Verdict) vectors.Verdict {
	result := vectors.Verdict{Action: vectors.Allow, Cookie: v.Cookie}
	switch v.Reason {
	case flow.DropDenyRule:
		result.Action = vectors.Deny
	case flow.DropPolicy:
		result.Action = vectors.DefaultDeny
	case 0:
	default:
		result.Action = vectors.Action(v.Reason.String())
	}
	return result
}

func kernelAnswer(a datapathtest.Answer) vectors.Answer {
	answer := vectors.Answer{Verdict: kernelVerdict(a.Verdict)}
	answer.Response = a.Told
	if len(a.Audits) > 0 {
		answer.Audit = kernelVerdict(a.Audits[len(a.Audits)-1])
	}
	return answer
}

// worlds are the rows that an agent always has.
var worlds = map[netip.Prefix]identity.ID{
	netip.MustParsePrefix("0.0.0.0/0"): identity.WorldIPv4, netip.MustParsePrefix("::/0"): identity.WorldIPv6,
}

func newKernel(t testing.TB) *datapathtest.Kernel {
	k := datapathtest.New(t)
	for prefix, id := range worlds {
		must(t, k.Address(prefix, id))
	}
	return k
}

// learnPrefixes gives the addresses of the case's prefixes their identities until
// the returned function is called.
func learnPrefixes(k *datapathtest.Kernel, c *vectors.Case) (forget func() error, err error) {
	for prefix, id := range c.Prefixes {
		err = errors.Join(err, k.Address(prefix, id))
	}
	return func() (err error) {
		for prefix := range c.Prefixes {
			if id, always := worlds[prefix]; always {
				err = errors.Join(err, k.Address(prefix, id))
			} else {
				err = errors.Join(err, k.ForgetAddress(prefix))
			}
		}
		return err
	}, err
}

// askKernel asks about a packet of the subject's address in a family; a peer by
// address must be of that family. A peer without one gets that of its family.
func askKernel(t testing.TB, k *datapathtest.Kernel, q vectors.Question, family int) (vectors.Answer, bool) {
	peer := q.Peer.Addr
	if !peer.IsValid() {
		peer = peerAddrs[family]
		must(t, k.Address(netip.PrefixFrom(peer, peer.BitLen()), q.Peer.ID))
	}
	if peer.Is4() != subjectAddrs[family].Is4() {
		return vectors.Answer{}, false
	}
	answer, err := k.Ask(datapathtest.Question{
		Direction: q.Direction, Subject: subjectAddrs[family], Peer: peer, Port: q.Port,
	})
	if errors.Is(err, datapathtest.ErrNotAsked) {
		return vectors.Answer{}, false // a protocol of the other family
	}
	must(t, err)
	return kernelAnswer(answer), true
}

// asTold is what an answer is once it is told by packets: only what asks is
// answered, only TCP knows resets, and what is only audited is not told at all.
func asTold(a vectors.Answer, port l4.Port) vectors.Answer {
	a.Audit.Response = compile.ResponseDrop
	asks := port.Protocol.HasPorts() ||
		port.Protocol == l4.ICMP && (port.Number == 8 || port.Number == 13 || port.Number == 17) ||
		port.Protocol == l4.ICMPv6 && port.Number == 128
	switch {
	case !asks:
		a.Response = compile.ResponseDrop
	case a.Response == compile.ResponseRST && port.Protocol != l4.TCP:
		a.Response = compile.ResponseICMP
	}
	return a
}
