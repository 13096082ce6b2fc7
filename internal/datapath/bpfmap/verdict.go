// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/policy/compile"
)

func policyValue(v compile.Verdict) abi.PolicyValue {
	value := abi.PolicyValue{Precedence: v.Precedence, Cookie: v.Cookie, Action: abi.PolicyActionAllow}
	switch {
	case v.Allow:
	case v.Precedence == 0: // what holds where no rule matches
		value.Action = abi.PolicyActionDefaultDeny
	default:
		value.Action = abi.PolicyActionDeny
	}
	return value
}

func entryVerdict(v abi.PolicyValue) compile.Verdict {
	return compile.Verdict{
		Allow: v.Action == abi.PolicyActionAllow, Precedence: v.Precedence, Cookie: v.Cookie,
	}
}
