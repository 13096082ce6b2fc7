// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
)

// policyOption is the name under which the enforcement mode is shown and set, as
// users of the original know it.
const policyOption = "PolicyEnforcement"

func (t *tool) config() *cobra.Command {
	var list bool
	cmd := &cobra.Command{
		Use:   "config [OPTION=VALUE…]",
		Short: "Show how the agent is configured, or change options while it runs",
		Example: `  cilium config
  cilium config PolicyEnforcement=always`,
	}
	cmd.Flags().BoolVar(&list, "list-options", false, "list the options that can be changed")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := t.client()
		defer c.Close()
		if len(args) > 0 {
			spec, err := parseOptions(args)
			if err != nil {
				return err
			}
			if err := c.ConfigPatch(cmd.Context(), spec); err != nil {
				return err
			}
		}
		config, err := c.Config(cmd.Context())
		if err != nil {
			return err
		}
		return out.print(t.Out, config, func(w io.Writer) {
			if list {
				fmt.Fprintf(w, "%s   default, always or never\n", policyOption)
				return
			}
			writeConfig(w, config)
		})
	}
	return cmd
}

func parseOptions(args []string) (*api.DaemonConfigurationSpec, error) {
	spec := &api.DaemonConfigurationSpec{}
	for _, arg := range args {
		name, value, found := strings.Cut(arg, "=")
		if !found || name == "" {
			return nil, usage("%q: write OPTION=VALUE, such as %s=always", arg, policyOption)
		}
		if strings.EqualFold(name, policyOption) || name == "policy-enforcement" {
			spec.PolicyEnforcement = value
			continue
		}
		if spec.Options == nil {
			spec.Options = api.ConfigurationMap{}
		}
		spec.Options[name] = value
	}
	return spec, nil
}

func writeConfig(w io.Writer, config *api.DaemonConfiguration) {
	var g grid
	if s := config.Status; s != nil {
		if s.Realized != nil {
			g.add(policyOption, orDash(s.Realized.PolicyEnforcement))
			addOptions(&g, s.Realized.Options)
		}
		if a := s.Addressing; a != nil {
			addRange(&g, "IPv4", a.IPv4)
			addRange(&g, "IPv6", a.IPv6)
		}
		if k := s.KVStoreConfiguration; k != nil {
			g.add("KVStore", k.Type)
		}
		if s.DatapathMode != "" {
			g.add("DatapathMode", s.DatapathMode)
		}
		if s.DeviceMTU != 0 {
			g.add("MTU", fmt.Sprint(s.DeviceMTU))
		}
		addOptions(&g, s.Immutable)
	}
	g.write(w)
}

func addRange(g *grid, family string, a *api.NodeAddressingElement) {
	if a != nil && a.Enabled {
		g.add(family, fmt.Sprintf("%s, gateway %s", a.AllocRange, a.IP))
	}
}
