// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
)

func (t *tool) bpf() *cobra.Command {
	return group("bpf", "Show the tables of the data plane, row by row, from the kernel",
		group("endpoint", "The workloads of this node, by address",
			t.tableList("endpoint", "List the addresses of this node's workloads")),
		group("ipcache", "The identity behind each address",
			t.tableList("ipcache", "List the addresses and prefixes with their identities"), t.ipcacheGet()),
		group("policy", "The verdicts of each policy", t.bpfPolicyGet()),
		group("ct", "The flows that are tracked", t.tableList("ct", "List the tracked flows"), t.flowsFlush()),
		group("metrics", "Packets and bytes, forwarded and dropped",
			t.tableList("metrics", "List the counters by reason and direction")),
	)
}

// tableList returns the command that lists a table of the kernel.
func (t *tool) tableList(name, short string) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: short, Args: exactArgs()}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return t.printTable(cmd, out, name, nil) }
	return cmd
}

func (t *tool) ipcacheGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get ADDRESS",
		Short: "Show the row that decides about an address: the longest prefix that holds it",
		Args:  exactArgs("ADDRESS"),
	}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		addr, err := netip.ParseAddr(args[0])
		if err != nil {
			return usage("%q is no IP address", args[0])
		}
		c := t.client()
		defer c.Close()
		table, err := c.Table(cmd.Context(), "ipcache")
		if err != nil {
			return err
		}
		best := longestPrefix(table, addr.Unmap())
		if best == nil {
			return fmt.Errorf("no row of the ipcache holds %s: its identity is that of the world", addr)
		}
		return t.printTable(cmd, out, "ipcache", func(_, row []string) bool { return row[0] == best[0] })
	}
	return cmd
}

// longestPrefix returns the row whose first cell is the longest prefix that
// contains the address.
func longestPrefix(table *api.Table, addr netip.Addr) []string {
	var best []string
	bits := -1
	for _, row := range table.Rows {
		prefix, err := netip.ParsePrefix(row[0])
		if err == nil && prefix.Contains(addr) && prefix.Bits() > bits {
			best, bits = row, prefix.Bits()
		}
	}
	return best
}

func (t *tool) bpfPolicyGet() *cobra.Command {
	var all, numeric bool
	cmd := &cobra.Command{
		Use:   "get ENDPOINT | --all",
		Short: "List the entries of the policy that an endpoint is under, or of all policies",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) == 1) || len(args) > 1 {
				return usage("name one %s, or all policies by --all", endpointRef)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "list the entries of all policies")
	cmd.Flags().BoolVarP(&numeric, "numeric", "n", false, "print peers as numbers instead of labels")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := t.client()
		defer c.Close()
		number := ""
		if !all {
			e, err := c.EndpointGet(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			number = policyNumber(e)
		}
		labels := map[string]string{}
		if !numeric {
			var err error
			if labels, err = identityLabels(cmd, c); err != nil {
				return err
			}
		}
		return t.printTable(cmd, out, "policy", func(columns, row []string) bool {
			if peer := slices.Index(columns, "PEER"); peer >= 0 && labels[row[peer]] != "" {
				row[peer] = labels[row[peer]]
			}
			return all || row[0] == number
		})
	}
	return cmd
}

// policyNumber is the number of the endpoint's policy in the kernel; 0 is the
// closed one that an endpoint has before its identity is known.
func policyNumber(e *api.Endpoint) string {
	if s := e.Status; s != nil && s.Policy != nil && s.Policy.Realized != nil {
		return strconv.FormatUint(uint64(s.Policy.Realized.Build), 10)
	}
	return "0"
}

// identityLabels returns the labels of the allocated identities by number, in
// one line each; reserved ones have names already.
func identityLabels(cmd *cobra.Command, c *client.Client) (map[string]string, error) {
	list, err := c.IdentityList(cmd.Context())
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	for _, id := range list {
		number := strconv.FormatUint(uint64(id.ID), 10)
		labels[number] = number + " " + strings.Join(id.Labels, " ")
	}
	return labels, nil
}

func (t *tool) flowsFlush() *cobra.Command {
	return &cobra.Command{
		Use:   "flush",
		Short: "Forget all tracked flows: replies to open connections count as new until they are seen again",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := t.client()
			defer c.Close()
			m, err := c.MapFlush(cmd.Context(), "ct")
			if err != nil {
				return err
			}
			fmt.Fprintf(t.Out, "Flows forgotten: %d\n", m.Entries)
			return nil
		},
	}
}
