// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
)

const endpointRef = "ENDPOINT (a number, container-id:ID, container-name:NAME, docker-endpoint:ID, ipv4:ADDRESS or ipv6:ADDRESS)"

func (t *tool) endpoint() *cobra.Command {
	return group("endpoint", "Show and change the workloads of this node",
		t.endpointList(), t.endpointGet(), t.endpointConfig(), t.endpointHealth(),
		t.endpointLabels(), t.endpointLog(), t.endpointRegenerate(), t.endpointDisconnect())
}

func (t *tool) endpointList() *cobra.Command {
	var noHeaders bool
	var labels []string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the endpoints",
		Args:    exactArgs(),
	}
	cmd.Flags().BoolVar(&noHeaders, "no-headers", false, "leave out the names of the columns")
	cmd.Flags().StringSliceVarP(&labels, "label", "l", nil, "only endpoints that carry all these labels")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c := t.client()
		defer c.Close()
		list, err := c.EndpointList(cmd.Context(), labels...)
		if err != nil {
			return err
		}
		slices.SortFunc(list, func(a, b api.Endpoint) int { return cmp.Compare(a.ID, b.ID) })
		return out.print(t.Out, list, func(w io.Writer) {
			g := grid{}
			if !noHeaders {
				g.header = []string{"ENDPOINT", "POLICY (ingress)\nENFORCEMENT", "POLICY (egress)\nENFORCEMENT",
					"IDENTITY", "LABELS (source:key=value)", "IPv6", "IPv4", "STATUS"}
			}
			for i := range list {
				g.add(endpointRow(&list[i])...)
			}
			g.write(w)
		})
	}
	return cmd
}

// endpointRow is an endpoint in the columns of the list. Absent parts of the
// answer leave dashes.
func endpointRow(e *api.Endpoint) []string {
	row := []string{strconv.Itoa(int(e.ID)), "-", "-", "-", "-", "-", "-", "-"}
	s := e.Status
	if s == nil {
		return row
	}
	row[7] = orDash(s.State)
	if s.Policy != nil && s.Policy.Realized != nil {
		row[1], row[2] = enforcement(s.Policy.Realized.PolicyEnabled)
	}
	if s.Identity != nil {
		row[3] = strconv.FormatUint(uint64(s.Identity.ID), 10)
		row[4] = orDash(strings.Join(s.Identity.Labels, "\n"))
	}
	if s.Networking != nil && len(s.Networking.Addressing) > 0 {
		row[5] = orDash(s.Networking.Addressing[0].IPv6)
		row[6] = orDash(s.Networking.Addressing[0].IPv4)
	}
	return row
}

func enforcement(enabled string) (ingress, egress string) {
	word := func(on bool) string {
		if on {
			return "Enabled"
		}
		return "Disabled"
	}
	return word(enabled == "ingress" || enabled == "both"), word(enabled == "egress" || enabled == "both")
}

func (t *tool) endpointGet() *cobra.Command {
	var labels []string
	cmd := &cobra.Command{
		Use:   "get ENDPOINT",
		Short: "Show everything about an endpoint",
		Long:  "Show everything about " + endpointRef + ", or about those that carry all the labels of -l.",
		Args: func(_ *cobra.Command, args []string) error {
			if (len(args) == 1) == (len(labels) > 0) {
				return usage("name one %s, or labels by -l", endpointRef)
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVarP(&labels, "label", "l", nil, "endpoints that carry all these labels")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := t.client()
		defer c.Close()
		var list []api.Endpoint
		if len(args) == 1 {
			e, err := c.EndpointGet(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			list = []api.Endpoint{*e}
		} else {
			var err error
			if list, err = c.EndpointList(cmd.Context(), labels...); err != nil {
				return err
			}
		}
		if out.isText() {
			return printJSON(t.Out, list) // an endpoint has too many parts for a table
		}
		return out.print(t.Out, list, nil)
	}
	return cmd
}

func (t *tool) endpointHealth() *cobra.Command {
	cmd := &cobra.Command{Use: "health ENDPOINT", Short: "Show how an endpoint does", Args: exactArgs(endpointRef)}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := t.client()
		defer c.Close()
		h, err := c.EndpointHealthz(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return out.print(t.Out, h, func(w io.Writer) {
			g := grid{}
			g.add("Overall:", h.OverallHealth)
			g.add("BPF:", h.BPF)
			g.add("Policy:", h.Policy)
			g.add("Connected:", yesNo(h.Connected))
			g.write(w)
		})
	}
	return cmd
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (t *tool) endpointLog() *cobra.Command {
	cmd := &cobra.Command{Use: "log ENDPOINT", Short: "Show what happened to an endpoint", Args: exactArgs(endpointRef)}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := t.client()
		defer c.Close()
		lines, err := c.EndpointLog(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return out.print(t.Out, lines, func(w io.Writer) {
			g := grid{header: []string{"TIME", "STATUS", "STATE", "MESSAGE"}}
			for _, l := range lines {
				g.add(l.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z07:00"), l.Code, l.State, l.Message)
			}
			g.write(w)
		})
	}
	return cmd
}

// labelsOf returns all labels that an endpoint was given.
func labelsOf(ctx context.Context, c *client.Client, ref string) (api.Labels, error) {
	config, err := c.EndpointLabels(ctx, ref)
	if err != nil {
		return nil, err
	}
	if config.Spec == nil {
		return nil, fmt.Errorf("endpoint %s: the agent's answer has no labels: are cilium and cilium-agent of the same version?", ref)
	}
	return config.Spec.User, nil
}
