// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/internal/policy"
)

// FuzzParse holds that any document is either refused with an error, or becomes
// rules that survive being written and read again.
func FuzzParse(f *testing.F) {
	// Seeds are short: the engine shrinks each find for a minute at most.
	f.Add("a.json", []byte(`[{"endpointSelector":{},"ingress":[{"fromCIDR":["::/0"]}]}]`))
	f.Add("a.json", []byte(`[{"nodeSelector":{"matchExpressions":[{"key":"a","operator":"In","values":["b"]}]},"priority":1}]`))
	f.Add("a.json", []byte(`[{"endpointSelector":{},"egress":[{"toPorts":[{"ports":[{"port":"1","endPort":2}],"rules":{"http":[{"path":"/"}]}}]}]}]`))
	f.Add("a.yaml", []byte("- endpointSelector: {}\n  ingress:\n  - icmps: [{fields: [{type: 08}]}]\n"))
	f.Add("stdin", []byte(`{"endpointSelector": {}, "labels": ["a=b", ":c"], "ingress": [{"toPorts": [{"ports": [{"port": "080"}]}]}]}`))
	f.Add("stdin", []byte("\ufeff- {}"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		rules, err := policy.Parse(name, data)
		if err != nil {
			return
		}
		first, err := policy.MarshalRules(rules)
		if err != nil {
			t.Fatal(err)
		}
		again, err := policy.Parse("again.json", first)
		if err != nil {
			t.Fatalf("%v\n%s", err, first)
		}
		second, err := policy.MarshalRules(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(first), string(second)); diff != "" {
			t.Errorf("written and read, the rules differ:\n%s", diff)
		}
	})
}

// FuzzParseServices holds that any list of services is refused with a place, or
// read.
func FuzzParseServices(f *testing.F) {
	f.Add("a.json", []byte(`[{"name":"db","namespace":"n","labels":{"a":"b"},"selector":{"matchLabels":{"a":"b"}},"addresses":["10.0.0.0/8","::1"]}]`))
	f.Add("a.yaml", []byte("- name: db\n  addresses: [10.0.0.1]\n"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		services, err := policy.ParseServices(name, data)
		var place *policy.Error
		if err != nil && !errors.As(err, &place) {
			t.Errorf("an error without a place: %v", err)
		}
		for _, s := range services {
			if s.Name == "" {
				t.Errorf("a service without a name: %+v", s)
			}
		}
	})
}
