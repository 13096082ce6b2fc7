// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"time"

	"cilium.local/cilium/test/lab"
)

// The words by which a program that measures starts itself for the two ends; see
// Main.
const (
	serveWord = "serve-load"
	sendWord  = "send-load"
)

// Main is for the first lines of a program that measures: it does the work of an
// end when the program was started as one by Start, and tells so.
func Main(args []string) (isEnd bool, err error) {
	if len(args) < 2 || args[1] != serveWord && args[1] != sendWord {
		return false, nil
	}
	if args[1] == serveWord && len(args) != 3 || args[1] == sendWord && len(args) != 4 {
		return true, fmt.Errorf("%s: it is given a processor, and a sender also an address", args[1])
	}
	processor, err := strconv.Atoi(args[2])
	if err != nil {
		return true, err
	}
	if args[1] == serveWord {
		return true, Serve(processor)
	}
	server, err := netip.ParseAddr(args[3])
	if err != nil {
		return true, err
	}
	return true, Send(processor, server)
}

// Pair is the processes of both ends. They end with the node that they were
// started on.
type Pair struct {
	serving  io.Writer // the server ends when it is closed
	commands io.Writer
	replies  *json.Decoder
}

// Start starts a server and a sender in two namespaces, both on one processor. The
// server must be reachable from the client at the address.
func Start(node *lab.Node, processor int, client, server *lab.Namespace, at netip.Addr) (*Pair, error) {
	word := strconv.Itoa(processor)
	serving, listening, err := process(node, server, serveWord, word)
	if err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(listening).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("the load's server says %q: %w", line, err)
	}
	commands, replies, err := process(node, client, sendWord, word, at.String())
	if err != nil {
		return nil, err
	}
	return &Pair{serving: serving, commands: commands, replies: json.NewDecoder(replies)}, nil
}

func process(node *lab.Node, ns *lab.Namespace, args ...string) (io.Writer, io.Reader, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := ns.Command(context.Background(), self, args...) // it ends with the node
	cmd.Env, cmd.Stderr = Environment(), os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := node.Start(cmd); err != nil {
		return nil, nil, err
	}
	go reap(cmd)
	return stdin, stdout, nil
}

// reap collects the process when it has ended. Its pipes stay open for the reader.
func reap(cmd *exec.Cmd) { _, _ = cmd.Process.Wait() }

// Run makes traffic for some time and returns what came of it. Runs of one pair
// come one after the other.
func (p *Pair) Run(kind Kind, d time.Duration) (Sample, error) {
	if err := json.NewEncoder(p.commands).Encode(command{kind, d}); err != nil {
		return Sample{}, fmt.Errorf("%s: %w", kind, err)
	}
	var r reply
	if err := p.replies.Decode(&r); err != nil {
		return Sample{}, fmt.Errorf("%s: the sender is gone: %w", kind, err)
	}
	if r.Error != "" {
		return r.Sample, fmt.Errorf("%s: %w", kind, errors.New(r.Error))
	}
	return r.Sample, nil
}
