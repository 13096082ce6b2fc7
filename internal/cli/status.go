// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
)

// errUnhealthy ends status with exit status 1; what is wrong is printed already.
var errUnhealthy = errors.New("the agent is not healthy")

func (t *tool) status() *cobra.Command {
	var brief, verbose, addresses bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the agent and its parts do; the exit status is 1 when a part has failed",
		Args:  exactArgs(),
	}
	flags := cmd.Flags()
	flags.BoolVar(&brief, "brief", false, "print one line")
	flags.BoolVar(&verbose, "verbose", false, "print addresses in use, how other nodes are reached, and background tasks too")
	flags.BoolVar(&addresses, "all-addresses", false, "print all addresses in use")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c := t.client()
		defer c.Close()
		s, err := c.Healthz(cmd.Context())
		if err != nil {
			return err
		}
		sick := failures(s)
		err = out.print(t.Out, s, func(w io.Writer) {
			if brief {
				fmt.Fprintln(w, briefStatus(sick))
				return
			}
			writeStatus(w, s, verbose || addresses, verbose)
		})
		if err == nil && len(sick) > 0 {
			return errUnhealthy
		}
		return err
	}
	return cmd
}

// component is one part of the status, as it is called in the output.
type component struct {
	name   string
	status *api.Status
}

func components(s *api.StatusResponse) []component {
	return []component{
		{"Agent", s.Cilium}, {"KVStore", s.KVStore}, {"Datapath", s.Datapath}, {"Policy", s.Policy},
		{"ContainerRuntime", s.ContainerRuntime}, {"Forwarding", s.Forwarding}, {"FlowLog", s.FlowLog},
	}
}

// failures returns what makes the node unhealthy. A warning does not, except
// that of the agent itself, which gives one while it starts.
func failures(s *api.StatusResponse) []string {
	var sick []string
	for _, c := range components(s) {
		if c.status == nil {
			continue
		}
		if c.status.State == api.SeverityFailure || (c.status == s.Cilium && c.status.State != api.SeverityOk) {
			sick = append(sick, c.name+": "+c.status.Msg)
		}
	}
	if s.Cilium == nil {
		sick = append(sick, "Agent: it says nothing about itself")
	}
	return sick
}

func joinedText(c *api.JoinedCluster) string {
	state := "Not connected"
	if c.Connected {
		state = "Ok"
	}
	text := fmt.Sprintf("%s, id %d, %d identities, %d addresses", state, c.ID, c.Identities, c.Addresses)
	if c.Problem != "" {
		text += "; " + c.Problem
	}
	return text
}

func nodesText(c *api.ClusterStatus) string {
	if others := len(c.Nodes) - 1; others > 0 {
		word := "others"
		if others == 1 {
			word = "other"
		}
		return fmt.Sprintf("%s, and %d %s in the cluster", c.Self, others, word)
	}
	return c.Self
}

func briefStatus(sick []string) string {
	if len(sick) == 0 {
		return "OK"
	}
	return strings.Join(sick, "; ")
}

func writeStatus(w io.Writer, s *api.StatusResponse, addresses, tasks bool) {
	var g grid
	if s.Version != "" {
		g.add("Version:", s.Version)
	}
	if s.Started != nil {
		g.add("Started:", s.Started.Format(time.RFC3339))
	}
	for _, c := range components(s) {
		if c.status != nil {
			g.add(c.name+":", statusText(c.status))
		}
	}
	if c := s.Cluster; c != nil {
		g.add("Node:", nodesText(c))
		for _, problem := range c.Problems {
			g.add("", problem)
		}
		for _, other := range c.Joined {
			if other.Name == "" {
				g.add("Other clusters:", "Unknown; "+other.Problem)
				continue
			}
			g.add("Cluster "+other.Name+":", joinedText(&other))
		}
		if text := reachedText(c); text != "" {
			g.add("Nodes reached:", text)
		}
	}
	if e := s.Endpoints; e != nil {
		g.add("Endpoints:", countsText(e))
	}
	if a := s.IPAM; a != nil {
		g.add("IPAM:", ipamText(a))
	}
	if m := s.NodeMonitor; m != nil {
		g.add("Monitor:", fmt.Sprintf("%d readers, %d events lost", m.Readers, m.Lost))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Stale)) {
		g.add("Stale:", name+": "+s.Stale[name])
	}
	g.write(w)
	if addresses && s.IPAM != nil {
		writeAllocations(w, s.IPAM)
	}
	if tasks && s.Cluster != nil {
		writeNodesHealth(w, s.Cluster.Nodes)
	}
	if tasks && len(s.Controllers) > 0 {
		writeControllers(w, s.Controllers)
	}
}

func statusText(s *api.Status) string {
	if s.Msg == "" || s.Msg == string(s.State) || strings.EqualFold(s.Msg, string(s.State)) {
		return string(s.State)
	}
	return fmt.Sprintf("%s (%s)", s.State, s.Msg)
}

func countsText(e *api.EndpointStateCounts) string {
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(e.ByState)) {
		parts = append(parts, fmt.Sprintf("%d %s", e.ByState[state], state))
	}
	if len(parts) == 0 {
		return fmt.Sprint(e.Total)
	}
	return fmt.Sprintf("%d (%s)", e.Total, strings.Join(parts, ", "))
}

func ipamText(a *api.IPAMStatus) string {
	var parts []string
	for _, f := range []struct {
		name, prefix string
		used         int
	}{{"IPv4", a.IPv4Range, len(a.IPv4)}, {"IPv6", a.IPv6Range, len(a.IPv6)}} {
		if f.prefix != "" {
			parts = append(parts, fmt.Sprintf("%s %d in use of %s", f.name, f.used, f.prefix))
		}
	}
	return strings.Join(parts, ", ")
}

func writeAllocations(w io.Writer, a *api.IPAMStatus) {
	fmt.Fprintln(w, "Addresses in use:")
	var g grid
	for _, addr := range append(slices.Clone(a.IPv4), a.IPv6...) {
		g.add("  "+addr, a.Allocations[addr])
	}
	g.write(w)
}

func writeControllers(w io.Writer, list []api.ControllerStatus) {
	fmt.Fprintln(w, "Background tasks:")
	g := grid{header: []string{"  NAME", "DONE", "FAILED", "LAST ERROR"}}
	for _, c := range list {
		s := c.Status
		if s == nil {
			s = &api.ControllerStatusStatus{}
		}
		g.add("  "+c.Name, fmt.Sprint(s.SuccessCount), fmt.Sprint(s.FailureCount), orDash(s.LastFailureMsg))
	}
	g.write(w)
}
