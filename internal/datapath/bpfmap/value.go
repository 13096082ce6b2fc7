// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/policy/compile"
)

// The compiled form has the numbers of the C header already; bpfmap's tests hold
// them against each other.

func policyValue(v compile.Value) (value abi.PolicyValue) {
	for tier, c := range v {
		value.Best[tier] = uint64(c)
	}
	return value
}

func entryValue(v abi.PolicyValue) (value compile.Value) {
	for tier, c := range v.Best {
		value[tier] = compile.Candidate(c)
	}
	return value
}
