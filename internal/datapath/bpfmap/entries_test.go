// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"testing"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// TestCandidatesHaveTheNumbersOfTheHeader holds the compiled form, which knows no
// BPF, against bpf/lib/abi.h.
func TestCandidatesHaveTheNumbersOfTheHeader(t *testing.T) {
	for kind, number := range map[policy.Kind]uint64{
		policy.Allow: abi.KindAllow, policy.Pass: abi.KindPass, policy.Deny: abi.KindDeny,
	} {
		for response, last := range map[compile.Response]uint64{
			compile.ResponseDrop: abi.ResponseDrop, compile.ResponseICMP: abi.ResponseICMP, compile.ResponseRST: abi.ResponseRST,
		} {
			want := uint64(7)<<abi.CandidatePriorityShift | number<<abi.CandidateKindShift |
				uint64(^uint32(5))<<abi.CandidateCookieShift | last
			if got := compile.NewCandidate(kind, 32760, 5, response); uint64(got) != want {
				t.Errorf("%s, response %d: %#x, the header means %#x", kind, response, uint64(got), want)
			}
		}
	}
	for tier, number := range map[policy.Tier]int{
		policy.TierAdmin: abi.TierAdmin, policy.TierNormal: abi.TierNormal, policy.TierBaseline: abi.TierBaseline,
		compile.TierDefault: abi.TierDefault,
	} {
		if int(tier) != number {
			t.Errorf("tier %d is %d in the header", tier, number)
		}
	}
	var v compile.Value
	for i := range v {
		v[i] = compile.Candidate(i + 1)
	}
	if entryValue(policyValue(v)) != v || len(v) != abi.Tiers {
		t.Errorf("%v comes back as %v", v, entryValue(policyValue(v)))
	}
}
