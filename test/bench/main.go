// SPDX-License-Identifier: Apache-2.0

// Command bench measures nodes: what traffic between two containers, of one node and
// of two, costs beside plain Linux, what a packet costs in the kernel, how long a container and
// a policy wait, and what the agent weighs. Every figure that depends on the
// machine stands beside a baseline that took turns with it, because absolute times
// on a shared machine mean little. docs/performance.md explains the figures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"cilium.local/cilium/test/bench/load"
	"cilium.local/cilium/test/bench/report"
)

func main() {
	isEnd, err := load.Main(os.Args)
	if !isEnd {
		err = run()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// size is how much is measured.
type size struct {
	rounds    int           // of traffic
	run       time.Duration // of each run of traffic
	additions int           // of containers, one after the other
	bursts    int           // of additions at once
	imports   int           // of policies, for each number of endpoints
	endpoints []int         // that imports are about
	samples   int           // of packets in the kernel
	restarts  int           // of the agent, without and with endpoints
	limit     time.Duration // of the whole
}

func full() size {
	return size{
		rounds: 40, run: 150 * time.Millisecond, additions: 100, bursts: 5, imports: 100, endpoints: []int{1, 100, 250},
		samples: 15, restarts: 8, limit: 18 * time.Minute,
	}
}

func quick() size {
	return size{
		rounds: 8, run: 80 * time.Millisecond, additions: 30, bursts: 1, imports: 20, endpoints: []int{1, 100},
		samples: 8, restarts: 2, limit: 170 * time.Second,
	}
}

// bench is a run of the benchmarks.
type bench struct {
	report.Report
	size      size
	processor int    // that traffic is bound to
	only      string // setups of traffic, by their keys; empty for all
	kinds     []load.Kind
	cluster   *cluster
	printed   int // rows
}

// part is one of the things that are measured.
type part struct {
	name  string
	run   func(*bench, context.Context) error
	extra bool // measured only by name
}

func parts() []part {
	return []part{
		{name: "traffic", run: (*bench).traffic},
		{name: "nodes", run: (*bench).betweenNodes},
		{name: "reach", run: (*bench).reach},
		{name: "packets", run: (*bench).packets},
		{name: "control", run: (*bench).control},
		{name: "memory", run: (*bench).memory},
		{name: "scale", run: (*bench).scale, extra: true},
	}
}

func run() (err error) {
	isQuick := flag.Bool("quick", false, "measure less, in under three minutes")
	only := flag.String("only", "", "comma-separated parts to measure: "+partNames()+"; empty for all")
	setups := flag.String("setups", "", "letters of the setups that traffic is measured in, such as be for kernel routing and ours with an L4 policy; empty for all")
	kinds := flag.String("kinds", "", "comma-separated kinds of traffic, of "+kindNames()+"; empty for all")
	processor := flag.Int("processor", runtime.NumCPU()-1, "number of the processor that traffic is bound to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	b := &bench{size: full(), processor: *processor, only: *setups, kinds: load.Kinds()}
	if *kinds != "" {
		b.kinds = nil
		for kind := range strings.SplitSeq(*kinds, ",") {
			b.kinds = append(b.kinds, load.Kind(kind))
		}
	}
	if *isQuick {
		b.size = quick()
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.size.limit, fmt.Errorf("not done within %v", b.size.limit))
	defer cancel()
	defer func() {
		if b.cluster != nil {
			err = errors.Join(err, b.cluster.close())
		}
	}()
	for _, p := range chosen {
		if err := p.run(b, ctx); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", p.name, err), context.Cause(ctx))
		}
		if err := b.print(); err != nil {
			return err
		}
	}
	return b.write()
}

func partNames() string {
	var names []string
	for _, p := range parts() {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

func kindNames() string {
	var names []string
	for _, k := range load.Kinds() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

func choose(only string) ([]part, error) {
	var chosen []part
	if only == "" {
		for _, p := range parts() {
			if !p.extra {
				chosen = append(chosen, p)
			}
		}
		return chosen, nil
	}
	for name := range strings.SplitSeq(only, ",") {
		found := false
		for _, p := range parts() {
			if p.name == name {
				chosen, found = append(chosen, p), true
			}
		}
		if !found {
			return nil, fmt.Errorf("-only %q: the parts are %s", name, partNames())
		}
	}
	return chosen, nil
}

// progress says on standard error what goes on.
func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// print shows the rows that are new.
func (b *bench) print() error {
	err := b.Text(os.Stdout, b.printed)
	b.printed = len(b.Rows)
	return err
}

// write keeps the results where the environment says: BENCH_OUT is a file for
// JSON, BENCH_DOC a document with marks between which the tables go.
func (b *bench) write() error {
	if path := os.Getenv("BENCH_OUT"); path != "" {
		file, err := os.Create(path)
		if err != nil {
			return fmt.Errorf("BENCH_OUT: %w", err)
		}
		if err := errors.Join(b.JSON(file), file.Close()); err != nil {
			return fmt.Errorf("BENCH_OUT: %w", err)
		}
	}
	path := os.Getenv("BENCH_DOC")
	if path == "" {
		return nil
	}
	document, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("BENCH_DOC: %w", err)
	}
	var tables strings.Builder
	if err := b.Markdown(&tables); err != nil {
		return err
	}
	text, err := report.Splice(string(document), tables.String()+"\n")
	if err != nil {
		return fmt.Errorf("BENCH_DOC %s: %w", path, err)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}
