// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func parse(t *testing.T, env map[string]string, args ...string) (*options, error) {
	t.Helper()
	var opts options
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	opts.register(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return &opts, fromEnvironment(flags, func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	})
}

func TestTheCommandLineWinsOverTheEnvironment(t *testing.T) {
	env := map[string]string{"CILIUM_STATE_DIR": "/env", "CILIUM_IPV4_RANGE": "10.1.0.0/16"}
	opts, err := parse(t, env, "--state-dir=/flag")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := opts.config()
	if err != nil || cfg.StateDir != "/flag" || cfg.Network.IPv4Range.String() != "10.1.0.0/16" {
		t.Errorf("config %+v, %v", cfg, err)
	}
	if cfg.Network.IPv6Range.String() != "f00d::a0f:0:0:0/96" && cfg.Network.IPv6Range.Bits() != 96 {
		t.Errorf("IPv6 range %s", cfg.Network.IPv6Range)
	}
}

func TestFlowsAreReportedUnlessTheyAreHidden(t *testing.T) {
	for value, hidden := range map[string]bool{"true": false, "false": true} {
		opts, err := parse(t, map[string]string{"CILIUM_FLOW_VISIBILITY": value})
		if err != nil {
			t.Fatal(err)
		}
		if cfg, err := opts.config(); err != nil || cfg.Datapath.HideFlows != hidden {
			t.Errorf("flow visibility %s: %+v, %v", value, cfg.Datapath, err)
		}
	}
}

func TestABadEnvironmentVariableIsNamed(t *testing.T) {
	_, err := parse(t, map[string]string{"CILIUM_MTU": "big"})
	if err == nil || !strings.Contains(err.Error(), "CILIUM_MTU") {
		t.Errorf("error %v", err)
	}
}

func TestVariablesThatAreNoSettingAreNamed(t *testing.T) {
	opts, err := parse(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	environ := []string{"PATH=/bin", "CILIUM_ROUTING=vxlan", "CILIUM_SOCK=/s", "CILIUM_ROUTE=native", "CILIUM_cluster_id=1", "CILIUM_NATIVE_ROUTING_CIDR="}
	if names := unknownVariables(opts.flags, environ); !slices.Equal(names, []string{"CILIUM_ROUTE", "CILIUM_cluster_id"}) {
		t.Errorf("named are %q", names)
	}
}

func TestABadRangeIsNamedWithAnExample(t *testing.T) {
	opts, _ := parse(t, nil, "--ipv4-range=10.15")
	if _, err := opts.config(); err == nil || !strings.Contains(err.Error(), "--ipv4-range") {
		t.Errorf("error %v", err)
	}
}

func TestLogsAreTextOrJSONFromTheChosenLevel(t *testing.T) {
	opts, _ := parse(t, nil, "--log-format=json", "--log-level=warn")
	var out bytes.Buffer
	log, err := opts.logger(&out)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud")
	if text := out.String(); strings.Contains(text, "quiet") || !strings.HasPrefix(text, "{") {
		t.Errorf("log: %s", text)
	}
	for _, args := range [][]string{{"--log-format=xml"}, {"--log-level=loud"}} {
		opts, _ := parse(t, nil, args...)
		if _, err := opts.logger(&out); err == nil {
			t.Errorf("%v accepted", args)
		}
	}
}
