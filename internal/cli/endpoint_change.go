// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
	"cilium.local/cilium/internal/label"
)

func (t *tool) endpointConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config ENDPOINT [TracePackets=true|false]",
		Short: "Show how an endpoint is configured, or have each of its packets reported",
		Long: `Show how an endpoint is configured, or have each of its packets reported: with
TracePackets=true, cilium monitor -t trace shows every packet from and to the endpoint,
not only those with which a flow changes its state. That is costly, and for debugging.`,
		Example: `  cilium endpoint config 12 TracePackets=true`,
		Args:    atLeastOne(endpointRef),
	}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := t.client()
		defer c.Close()
		if len(args) > 1 {
			options, err := endpointOptions(args[1:])
			if err != nil {
				return err
			}
			if err := c.EndpointConfigPatch(cmd.Context(), args[0], &api.EndpointConfigurationSpec{Options: options}); err != nil {
				return err
			}
		}
		config, err := c.EndpointConfig(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return out.print(t.Out, config, func(w io.Writer) {
			g := grid{}
			addOptions(&g, config.Immutable)
			if config.Realized != nil {
				addOptions(&g, config.Realized.Options)
			}
			g.write(w)
		})
	}
	return cmd
}

func endpointOptions(args []string) (api.ConfigurationMap, error) {
	options := api.ConfigurationMap{}
	for _, arg := range args {
		name, value, found := strings.Cut(arg, "=")
		if !found || name == "" {
			return nil, usage("%q: write OPTION=VALUE, such as TracePackets=true", arg)
		}
		options[name] = value
	}
	return options, nil
}

func addOptions(g *grid, options api.ConfigurationMap) {
	for _, name := range slices.Sorted(maps.Keys(options)) {
		g.add(name, orDash(options[name]))
	}
}

func (t *tool) endpointLabels() *cobra.Command {
	var add, remove []string
	cmd := &cobra.Command{
		Use:   "labels ENDPOINT",
		Short: "Show the labels of an endpoint, or change them by -a and -d",
		Args:  exactArgs(endpointRef),
	}
	cmd.Flags().StringSliceVarP(&add, "add", "a", nil, "labels to add, source:key=value")
	cmd.Flags().StringSliceVarP(&remove, "delete", "d", nil, "labels to take away, source:key=value")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := t.client()
		defer c.Close()
		if len(add)+len(remove) > 0 {
			present, err := labelsOf(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			changed, err := changeLabels(present, add, remove)
			if err != nil {
				return err
			}
			if err := c.EndpointLabelsPatch(cmd.Context(), args[0], changed); err != nil {
				return err
			}
		}
		config, err := c.EndpointLabels(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return out.print(t.Out, config, func(w io.Writer) {
			if s := config.Status; s != nil {
				g := grid{}
				g.add("Of the identity:", orDash(strings.Join(s.SecurityRelevant, "\n")))
				g.add("Others:", orDash(strings.Join(s.Disabled, "\n")))
				g.write(w)
			}
		})
	}
	return cmd
}

// changeLabels takes labels away, which must be there, and adds others.
func changeLabels(present api.Labels, add, remove []string) (api.Labels, error) {
	labels := slices.Clone(present)
	for _, text := range remove {
		l, err := label.Parse(text)
		if err != nil {
			return nil, usage("--delete: %w", err)
		}
		i := slices.IndexFunc(labels, func(have string) bool {
			h, err := label.Parse(have)
			return err == nil && h.KeyMatches(l.Source, l.Key) && h.Value == l.Value
		})
		if i < 0 {
			return nil, fmt.Errorf("the endpoint has no label %s to delete: it has %s", text, orDash(strings.Join(present, ", ")))
		}
		labels = slices.Delete(labels, i, i+1)
	}
	for _, text := range add {
		l, err := label.Parse(text)
		if err != nil {
			return nil, usage("--add: %w", err)
		}
		if !slices.Contains(labels, l.String()) {
			labels = append(labels, l.String())
		}
	}
	return labels, nil
}

func (t *tool) endpointRegenerate() *cobra.Command {
	return &cobra.Command{
		Use:   "regenerate ENDPOINT",
		Short: "Derive an endpoint's identity and policy from its labels once more",
		Args:  exactArgs(endpointRef),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := t.client()
			defer c.Close()
			labels, err := labelsOf(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if err := c.EndpointLabelsPatch(cmd.Context(), args[0], labels); err != nil {
				return err
			}
			fmt.Fprintf(t.Out, "Endpoint %s regenerated\n", args[0])
			return nil
		},
	}
}

func (t *tool) endpointDisconnect() *cobra.Command {
	return &cobra.Command{
		Use:   "disconnect ENDPOINT",
		Short: "Take an endpoint off the network and forget it",
		Args:  exactArgs(endpointRef),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := t.client()
			defer c.Close()
			err := c.EndpointDelete(cmd.Context(), args[0])
			if client.IsCode(err, http.StatusPartialContent) {
				return fmt.Errorf("endpoint %s is disconnected, but something was left behind: %w", args[0], err)
			}
			if err == nil {
				fmt.Fprintf(t.Out, "Endpoint %s disconnected\n", args[0])
			}
			return err
		},
	}
}
