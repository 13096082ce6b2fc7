// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/version"
)

func (s *Server) getHealthz(r *http.Request) (int, any, error) {
	return http.StatusOK, s.agent.Node.Status(r.Context()), nil
}

func (s *Server) getConfig(*http.Request) (int, any, error) {
	return http.StatusOK, s.agent.Node.Configuration(), nil
}

func (s *Server) patchConfig(r *http.Request) (int, any, error) {
	var spec api.DaemonConfigurationSpec
	if err := decode(r, &spec); err != nil {
		return 0, nil, err
	}
	if err := s.agent.Node.Configure(r.Context(), &spec); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, s.agent.Node.Configuration(), nil
}

func (s *Server) getNodes(*http.Request) (int, any, error) {
	nodes := s.agent.Node.Nodes()
	if nodes == nil {
		nodes = []api.NodeElement{}
	}
	return http.StatusOK, nodes, nil
}

func (s *Server) deleteNode(r *http.Request) (int, any, error) {
	deletion, err := s.agent.Node.DeleteNode(r.Context(), r.PathValue("name"), r.URL.Query().Get("force") == "true")
	return http.StatusOK, deletion, err
}

func (s *Server) getMetrics(*http.Request) (int, any, error) {
	samples, err := s.agent.Samples()
	if err != nil {
		return 0, nil, err
	}
	list := make([]api.Metric, 0, len(samples))
	for _, sample := range samples {
		list = append(list, api.Metric{Name: sample.Name, Value: sample.Value, Labels: sample.Labels})
	}
	return http.StatusOK, list, nil
}

// getDebugInfo collects what a bug report needs. Parts that fail are told in
// subsystem, since a report with a hole is better than none.
func (s *Server) getDebugInfo(r *http.Request) (int, any, error) {
	info := &api.DebugInfo{
		CiliumVersion: version.Text(),
		KernelVersion: kernelVersion(),
		CiliumStatus:  s.agent.Node.Status(r.Context()),
		IdentityList:  s.identityModels(),
		Subsystem:     map[string]string{"memory": memoryText()},

		EnvironmentVariables: environment(),
	}
	for _, e := range s.agent.Endpoints.List() {
		info.EndpointList = append(info.EndpointList, *s.endpointModel(&e))
	}
	if rules, err := s.agent.Policy.Rules(nil); err == nil {
		info.Policy = policyModel(rules)
	} else {
		info.Subsystem["policy"] = "not readable: " + err.Error()
	}
	for _, t := range s.agent.Tables.Tables() {
		table, err := s.agent.Tables.Table(r.Context(), t.Name)
		if err != nil {
			info.Subsystem["table "+t.Name] = "not readable: " + err.Error()
			continue
		}
		info.Tables = append(info.Tables, *table)
	}
	if maps, err := os.ReadFile("/proc/self/maps"); err == nil {
		info.CiliumMemoryMap = string(maps)
	}
	return http.StatusOK, info, nil
}

// environment returns the variables that configure the agent and the Go runtime.
// Others may hold secrets and are left out.
func environment() []string {
	var own []string
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, "CILIUM_") && !strings.HasPrefix(name, "GO") {
			continue
		}
		if strings.Contains(value, "@") { // a URL with a password in it
			value = "(not shown)"
		}
		own = append(own, name+"="+value)
	}
	slices.Sort(own)
	return own
}

func kernelVersion() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown: " + err.Error()
	}
	return unix.ByteSliceToString(name.Release[:]) + " " + unix.ByteSliceToString(name.Machine[:])
}

func memoryText() string {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return fmt.Sprintf("heap %d bytes, from the system %d bytes, %d goroutines", m.HeapAlloc, m.Sys, runtime.NumGoroutine())
}
