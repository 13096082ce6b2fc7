// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"cilium.local/cilium/api"
)

// models are all schemas of the document with their Go types.
var models = map[string]any{
	"AddressPair": api.AddressPair{}, "BPFMap": api.BPFMap{}, "BPFMapEntry": api.BPFMapEntry{},
	"BPFMapList": api.BPFMapList{}, "ClusterStatus": api.ClusterStatus{}, "ConfigurationMap": api.ConfigurationMap{},
	"ControllerConfiguration": api.ControllerConfiguration{}, "ControllerStatus": api.ControllerStatus{},
	"ControllerStatusStatus": api.ControllerStatusStatus{}, "DaemonConfiguration": api.DaemonConfiguration{},
	"DaemonConfigurationSpec": api.DaemonConfigurationSpec{}, "DaemonConfigurationStatus": api.DaemonConfigurationStatus{},
	"DebugInfo": api.DebugInfo{}, "Deleted": api.Deleted{}, "Endpoint": api.Endpoint{},
	"EndpointChangeRequest": api.EndpointChangeRequest{}, "EndpointConfigurationSpec": api.EndpointConfigurationSpec{},
	"EndpointConfigurationStatus": api.EndpointConfigurationStatus{}, "EndpointHealth": api.EndpointHealth{},
	"EndpointIdentifiers": api.EndpointIdentifiers{}, "EndpointNetworking": api.EndpointNetworking{},
	"EndpointPolicy": api.EndpointPolicy{}, "EndpointPolicyStatus": api.EndpointPolicyStatus{},
	"EndpointStateCounts": api.EndpointStateCounts{}, "EndpointStatus": api.EndpointStatus{},
	"EndpointStatusChange": api.EndpointStatusChange{}, "Error": api.Error{}, "IPAMResponse": api.IPAMResponse{},
	"IPAMStatus": api.IPAMStatus{}, "Identity": api.Identity{}, "KVStoreConfiguration": api.KVStoreConfiguration{},
	"KeyValue": api.KeyValue{}, "LabelConfiguration": api.LabelConfiguration{},
	"LabelConfigurationSpec": api.LabelConfigurationSpec{}, "LabelConfigurationStatus": api.LabelConfigurationStatus{},
	"Labels": api.Labels{}, "Metric": api.Metric{}, "MonitorStatus": api.MonitorStatus{},
	"NodeAddressing": api.NodeAddressing{}, "NodeAddressingElement": api.NodeAddressingElement{},
	"NodeDeletion": api.NodeDeletion{}, "NodeElement": api.NodeElement{}, "JoinedCluster": api.JoinedCluster{}, "NodeProbe": api.NodeProbe{}, "HitCount": api.HitCount{}, "Policy": api.Policy{}, "PolicyExplanation": api.PolicyExplanation{}, "PolicyHits": api.PolicyHits{}, "RuleHits": api.RuleHits{},
	"PolicyDocument": api.PolicyDocument{}, "PolicyFinding": api.PolicyFinding{}, "PolicyLint": api.PolicyLint{}, "PolicySimulation": api.PolicySimulation{}, "PolicyFlowChange": api.PolicyFlowChange{}, "FlowPeer": api.FlowPeer{},
	"PolicyImport": api.PolicyImport{}, "PolicyProblem": api.PolicyProblem{}, "PolicyTraceResult": api.PolicyTraceResult{},
	"Port": api.Port{}, "Severity": api.SeverityOk, "Status": api.Status{}, "StatusResponse": api.StatusResponse{},
	"Table": api.Table{}, "TableList": api.TableList{}, "TraceFrom": api.TraceFrom{},
	"TraceSelector": api.TraceSelector{}, "TraceTo": api.TraceTo{},
}

// schema is what the test reads of a schema in the document.
type schema struct {
	Ref                  string             `json:"$ref"`
	Type                 string             `json:"type"`
	Required             []string           `json:"required"`
	Properties           map[string]*schema `json:"properties"`
	Items                *schema            `json:"items"`
	AdditionalProperties *schema            `json:"additionalProperties"`
}

func schemas(t *testing.T) map[string]*schema {
	t.Helper()
	var doc struct {
		Components struct {
			Schemas map[string]*schema `json:"schemas"`
		} `json:"components"`
	}
	if err := yaml.Unmarshal(api.Document, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Components.Schemas
}

func TestTheDocumentAndTheModelsHaveTheSameNames(t *testing.T) {
	documented := schemas(t)
	for name := range documented {
		if models[name] == nil {
			t.Errorf("openapi.yaml has schema %s, but the test knows no Go type for it", name)
		}
	}
	for name := range models {
		if documented[name] == nil {
			t.Errorf("model %s is not in openapi.yaml", name)
		}
	}
	for _, name := range exportedTypes(t) {
		if documented[name] == nil {
			t.Errorf("Go type %s is not in openapi.yaml", name)
		}
	}
}

func exportedTypes(t *testing.T) []string {
	t.Helper()
	packages, err := parser.ParseDir(token.NewFileSet(), ".", nil, 0) //nolint:staticcheck // no build tags here
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	ast.Inspect(packages["api"], func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.IsExported() {
			names = append(names, spec.Name.Name)
		}
		return true
	})
	return names
}

func TestEveryModelLooksAsTheDocumentSays(t *testing.T) {
	for name, s := range schemas(t) {
		if model := models[name]; model != nil {
			compare(t, name, s, reflect.TypeOf(model), true)
		}
	}
}

// compare holds a Go type to a schema. A named type inside another is compared
// by its name only, since it has a schema of its own.
func compare(t *testing.T, where string, s *schema, typ reflect.Type, top bool) {
	t.Helper()
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if !top && models[typ.Name()] != nil {
		if want := "#/components/schemas/" + typ.Name(); s.Ref != want {
			t.Errorf("%s: Go has %s, the document %q", where, typ.Name(), s.Ref+s.Type)
		}
		return
	}
	if want := jsonType(typ); s.Type != want {
		t.Errorf("%s: Go has %s, which is %s in JSON; the document says %q", where, typ, want, s.Type+s.Ref)
		return
	}
	switch {
	case typ == reflect.TypeFor[time.Time]() || typ == reflect.TypeFor[json.RawMessage]():
	case typ.Kind() == reflect.Struct:
		compareFields(t, where, s, typ)
	case typ.Kind() == reflect.Slice:
		compare(t, where+"[]", s.Items, typ.Elem(), false)
	case typ.Kind() == reflect.Map:
		compare(t, where+"{}", s.AdditionalProperties, typ.Elem(), false)
	}
}

func compareFields(t *testing.T, where string, s *schema, typ reflect.Type) {
	t.Helper()
	seen := map[string]bool{}
	for i := range typ.NumField() {
		name, options, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		seen[name] = true
		property := s.Properties[name]
		if property == nil {
			t.Errorf("%s: the document lacks property %q", where, name)
			continue
		}
		compare(t, where+"."+name, property, typ.Field(i).Type, false)
		if slices.Contains(s.Required, name) && strings.Contains(options, "omitempty") {
			t.Errorf("%s.%s is required, but Go may leave it out", where, name)
		}
	}
	for name := range s.Properties {
		if !seen[name] {
			t.Errorf("%s: Go lacks property %q", where, name)
		}
	}
}

func jsonType(typ reflect.Type) string {
	if typ == reflect.TypeFor[time.Time]() {
		return "string"
	}
	if typ == reflect.TypeFor[json.RawMessage]() {
		return "object"
	}
	switch typ.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		return "array"
	case reflect.Struct, reflect.Map:
		return "object"
	}
	return "integer"
}
