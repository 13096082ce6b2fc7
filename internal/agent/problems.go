// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"slices"
)

// clusterProblems names all that keeps this node and others apart.
func (a *Agent) clusterProblems() []string {
	var list []string
	problem := a.registrar.Problem()
	if err := a.cfg.Routing.placed(); err != nil {
		problem = err.Error() // also while the store is away
	}
	if problem != "" {
		list = append(list, problem)
	}
	list = slices.Concat(list, a.directory.Problems(), a.addresses.Problems(), a.peers.problems())
	if more := len(list) - maxProblems; more > 0 {
		list = append(list[:maxProblems], fmt.Sprintf("and %d more problems of nodes and addresses, which the log names", more))
	}
	return list
}

// maxProblems is how many the status names: one mistake may concern every node.
const maxProblems = 30
