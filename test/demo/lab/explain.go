// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"sync"
)

// The lines that begin with two spaces are to be copied; what follows # says what for.
const manual = `
%[1]d nodes by %[2]s are up, each with the workloads server (id=server) and client (id=client).
They stay until this is interrupted (Ctrl-C). In another terminal, as root:

  export PATH=%[3]s:$PATH

Then the name of a node runs a command there, or without one a shell:

  node1 cilium status --verbose
  node1 cilium node list
  node1 cilium endpoint list
  node1 cilium identity list

Workloads are namespaces of their node:

  node%[1]d attach app id=app              # one more, with a label; prints its addresses
  SERVER=$(node1 ip -netns server -4 -brief address show eth0 | awk '{split($3, a, "/"); print a[1]}')
  node%[1]d ip netns exec app ping -c 1 -W 2 $SERVER

Only clients may reach the server, wherever they are:

  echo '[{"endpointSelector": {"matchLabels": {"id": "server"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "client"}}]}]}]' | node1 cilium policy import --wait -
  node%[1]d ip netns exec client ping -c 1 -W 2 $SERVER
  node%[1]d ip netns exec app ping -c 1 -W 1 $SERVER || echo "no answer"
  node1 timeout 1 cilium monitor --type drop -v || true
  node1 cilium policy explain --last-drop $(node1 cilium endpoint list | awk '/id=server/ {print $1}')

What the store holds, and what the kernel:

  node1 cilium kvstore get --recursive cilium/
  node1 cilium bpf ipcache list
  node%[1]d detach app
`

func (p *playground) explain(routing string) {
	fmt.Printf(manual, len(p.cluster.Nodes), routing, filepath.Join(p.dir, "bin"))
}

// lockedBuffer takes what a process prints.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write adds what was printed.
func (b *lockedBuffer) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(data)
}

func (b *lockedBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.text.Bytes())
}
