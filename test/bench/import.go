// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"cilium.local/cilium/test/bench/stats"
	"cilium.local/cilium/test/lab"
)

// The rules of the measurement. The first closes all servers, by allowing
// somebody who does not exist; the second lets the client in.
const (
	closing = `[{"labels": ["name=bench"], "endpointSelector": {"matchLabels": {"role": "server"}},
		"ingress": [{"fromEndpoints": [{"matchLabels": {"role": "nobody"}}]}]}]`
	opening = `[{"labels": ["name=bench"], "endpointSelector": {"matchLabels": {"role": "server"}},
		"ingress": [{"fromEndpoints": [{"matchLabels": {"role": "client"}}]}]}]`
)

// pause sets an import apart from the one before: one that follows at once waits
// for the kernel's grace period in between, some ten milliseconds.
const pause = 40 * time.Millisecond

// imports measures from the beginning of an API call until packets feel the rule,
// at the first, the middle and the last of the servers: the first rule, which
// switches enforcement on, until the first packet of each that gets no answer any
// more; the next, until the first that gets one.
func (b *bench) imports(ctx context.Context, node *lab.Node, client *lab.Container, servers []*lab.Container, goal float64) error {
	name := fmt.Sprintf("policy import until enforced, %d endpoints", len(servers))
	b.progress("%s, %d times", name, b.size.imports)
	probes, err := startProbes(ctx, client, servers)
	if err != nil {
		return err
	}
	defer probes.close()
	api := httpClient(node)
	defer api.CloseIdleConnections()
	var first, later []time.Duration
	for range b.size.imports {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := removeRules(ctx, api); err != nil {
			return err
		}
		if err := probes.await(true); err != nil {
			return fmt.Errorf("without rules: %w", err)
		}
		time.Sleep(pause)
		d, err := probes.until(false, func() error { return post(ctx, api, closing) })
		if err != nil {
			return fmt.Errorf("the first rule: %w", err)
		}
		first = append(first, d)
		time.Sleep(pause)
		if d, err = probes.until(true, func() error { return post(ctx, api, opening) }); err != nil {
			return fmt.Errorf("the second rule: %w", err)
		}
		later = append(later, d)
		time.Sleep(pause)
	}
	b.quantiles(name+", first rule", first, stats.Goal{}, stats.AtMost(goal))
	b.quantiles(name+", later rule", later, stats.Goal{}, stats.AtMost(goal))
	return removeRules(ctx, api)
}

// probeEvery is the time between two datagrams of a probe, and so how exactly a
// change is seen.
const probeEvery = 200 * time.Microsecond

// probe sends numbered datagrams to a server that echoes them, and remembers when
// each was sent and when it came back.
type probe struct {
	conn net.Conn
	echo *lab.Server

	mu       sync.Mutex
	base     int // number of the first
	sent     []time.Time
	answered []time.Time // zero for not
}

type probes struct {
	all  []*probe
	stop chan struct{}
	done sync.WaitGroup
}

// startProbes begins to send to the first, the middle and the last server.
func startProbes(ctx context.Context, client *lab.Container, servers []*lab.Container) (*probes, error) {
	p := &probes{stop: make(chan struct{})}
	chosen := map[*lab.Container]bool{}
	for _, i := range []int{0, len(servers) / 2, len(servers) - 1} {
		if s := servers[i]; !chosen[s] {
			chosen[s] = true
			one := &probe{}
			p.all = append(p.all, one)
			if err := one.connect(ctx, client, s); err != nil {
				p.close()
				return nil, err
			}
		}
	}
	for _, one := range p.all {
		p.done.Go(one.receive)
	}
	p.done.Go(p.send)
	return p, nil
}

func (p *probe) connect(ctx context.Context, client, server *lab.Container) (err error) {
	const port = 9100
	if p.echo, err = server.ServeUDP(netip.AddrPortFrom(server.IPv4, port)); err != nil {
		return err
	}
	p.conn, err = client.DialUDP(ctx, p.echo.Addr)
	return err
}

func (p *probes) close() {
	close(p.stop)
	for _, one := range p.all {
		if one.conn != nil {
			one.conn.Close()
		}
		if one.echo != nil {
			one.echo.Close()
		}
	}
	p.done.Wait()
}

func (p *probes) send() {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			for _, one := range p.all {
				one.send()
			}
		}
	}
}

// send ignores errors: a denial may be answered by ICMP.
func (p *probe) send() {
	p.mu.Lock()
	number := p.base + len(p.sent)
	p.sent, p.answered = append(p.sent, time.Now()), append(p.answered, time.Time{})
	p.mu.Unlock()
	_, _ = p.conn.Write(binary.BigEndian.AppendUint32(nil, uint32(number)))
}

func (p *probe) receive() {
	buffer := make([]byte, 64)
	for {
		n, err := p.conn.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 4 {
			continue
		}
		now, number := time.Now(), int(binary.BigEndian.Uint32(buffer))
		p.mu.Lock()
		if i := number - p.base; i >= 0 && i < len(p.answered) && p.answered[i].IsZero() {
			p.answered[i] = now
		}
		p.mu.Unlock()
	}
}

// settled is how long all datagrams of all probes must have had the same fate.
const settled = 15 * time.Millisecond

// patience is how long a rule may take.
const patience = 5 * time.Second

// await waits until datagrams are answered, or until none is, for a while.
func (p *probes) await(answered bool) error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		steady := true
		for _, one := range p.all {
			steady = steady && one.steady(answered)
		}
		if steady {
			return nil
		}
	}
	return fmt.Errorf("after %v, datagrams answered is still not %v", patience, answered)
}

// steady looks at those of the last moments, but for those that may be under way.
func (p *probe) steady(answered bool) bool {
	const underWay = 3 * time.Millisecond
	p.mu.Lock()
	defer p.mu.Unlock()
	now, seen := time.Now(), 0
	for i := len(p.sent) - 1; i >= 0 && now.Sub(p.sent[i]) < settled+underWay; i-- {
		if now.Sub(p.sent[i]) < underWay {
			continue
		}
		if p.answered[i].IsZero() == answered {
			return false
		}
		seen++
	}
	return seen > 0
}

// until does something and returns how long after its beginning the last of the
// probes felt it: that its datagrams are answered, or that they are not.
func (p *probes) until(answered bool, do func() error) (time.Duration, error) {
	for _, one := range p.all {
		one.forget()
	}
	begin := time.Now()
	if err := do(); err != nil {
		return 0, err
	}
	if err := p.await(answered); err != nil {
		return 0, err
	}
	var last time.Duration
	for _, one := range p.all {
		at, err := one.changed(answered)
		if err != nil {
			return 0, err
		}
		last = max(last, at.Sub(begin))
	}
	return last, nil
}

// forget leaves out of account what was sent until now.
func (p *probe) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.base += len(p.sent)
	p.sent, p.answered = p.sent[:0], p.answered[:0]
}

// changed returns when the first answer came, or when the first datagram was sent
// after which none was answered.
func (p *probe) changed(answered bool) (time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if answered {
		for _, at := range p.answered {
			if !at.IsZero() {
				return at, nil
			}
		}
		return time.Time{}, errors.New("no datagram was answered")
	}
	for i := len(p.answered) - 1; i >= 0; i-- {
		if !p.answered[i].IsZero() {
			return p.sent[min(i+1, len(p.sent)-1)], nil
		}
	}
	return p.sent[0], nil
}
