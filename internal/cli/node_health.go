// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"cilium.local/cilium/api"
)

// nodeName is the node's name, with that of its cluster where it is another one.
func nodeName(n *api.NodeElement, here string) string {
	if n.Cluster == here || n.Cluster == "" {
		return n.Name
	}
	return n.Cluster + "/" + n.Name
}

// silent lists the ways by which a node does not answer.
func silent(n *api.NodeElement) []string {
	var list []string
	for _, p := range n.Health {
		if p.Error != "" {
			list = append(list, p.Protocol+" "+p.IP)
		}
	}
	return list
}

func healthText(n *api.NodeElement) string {
	if len(n.Health) == 0 {
		return "-"
	}
	if failed := silent(n); len(failed) > 0 {
		return "no answer by " + strings.Join(failed, ", ")
	}
	return "ok"
}

// maxSilent is how many nodes that do not answer are named.
const maxSilent = 5

// reachedText counts the other nodes that answer, and names those that do not; "" if none
// was asked yet.
func reachedText(c *api.ClusterStatus) string {
	asked, more := 0, 0
	var missing []string
	for i := range c.Nodes {
		n := &c.Nodes[i]
		if len(n.Health) > 0 {
			asked++
		}
		if len(silent(n)) == 0 {
			continue
		}
		if len(missing) == maxSilent {
			more++
			continue
		}
		name := nodeName(n, c.Nodes[0].Cluster)
		if by := silent(n); len(by) < len(n.Health) {
			name += " by " + strings.Join(by, " and ")
		}
		missing = append(missing, name)
	}
	if asked == 0 {
		return ""
	}
	text := fmt.Sprintf("%d of %d that were asked", asked-len(missing)-more, asked)
	if len(missing) > 0 {
		text += "; not " + strings.Join(missing, ", ")
	}
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// writeNodesHealth lists the probes of nodes that were asked.
func writeNodesHealth(w io.Writer, nodes []api.NodeElement) {
	g := grid{header: []string{"  NODE", "PROTOCOL", "ADDRESS", "RESULT", "ASKED", "LAST ANSWER"}}
	rows := 0
	for i := range nodes {
		for _, p := range nodes[i].Health {
			rows++
			latency, last := p.Error, "never"
			if p.Error == "" {
				latency = time.Duration(p.Latency).Round(time.Microsecond).String()
			}
			if p.Reached != nil {
				last = p.Reached.Format(time.RFC3339)
			}
			g.add("  "+nodeName(&nodes[i], nodes[0].Cluster), p.Protocol, p.IP, latency, p.Asked.Format(time.RFC3339), last)
		}
	}
	if rows == 0 {
		return
	}
	fmt.Fprintln(w, "Other nodes:")
	g.write(w)
}
