// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"fmt"
	"testing"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
	"cilium.local/cilium/internal/apiserver/apitest"
	"cilium.local/cilium/internal/policy"
)

func TestMistakesOfThePolicyParserAreListedWithTheirPlaces(t *testing.T) {
	_, err := policy.Parse("p.json", []byte("[{\"endpointSelector\": {},\n \"ingres\": [], \"labels\": 7}]"))
	if err == nil {
		t.Fatal("the parser takes unknown fields")
	}
	world := apitest.NewWorld()
	world.RefuseImport = fmt.Errorf("import: %w", err)
	c := client.New(apitest.Serve(t, world))
	defer c.Close()
	_, err = c.PolicyPut(t.Context(), []api.PolicyDocument{{Name: "p.json", Text: "[]"}}, false)
	answer, ok := err.(*client.Error) //nolint:errorlint // the client returns it as it is
	if !ok || answer.Code != 400 || len(answer.Problems) != 2 {
		t.Fatalf("got %#v", err)
	}
	for _, p := range answer.Problems {
		if p.File != "p.json" || p.Line != 2 || p.Column == 0 || p.Path == "" || p.Text == "" {
			t.Errorf("problem %+v lacks its place", p)
		}
	}
}
