// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"cilium.local/cilium/test/lab"
)

// endpoints is how many workloads the imported rule selects.
const endpoints = 10

// rule allows one peer to the workloads; without it they are closed to it.
const (
	closed = `[{"labels": ["name=bench"], "endpointSelector": {"matchLabels": {"role": "server"}},
		"ingress": [{"fromEndpoints": [{"matchLabels": {"role": "nobody"}}]}]}]`
	open = `[{"labels": ["name=bench"], "endpointSelector": {"matchLabels": {"role": "server"}},
		"ingress": [{"fromEndpoints": [{"matchLabels": {"role": "client"}}]}]}]`
)

// imports measures from the start of the API call until the first packet that
// the new rule lets through has come back. The baseline is an API call that
// changes nothing.
func (b *bench) imports(ctx context.Context) error {
	client, err := b.Workload(ctx, "client", "container:role=client")
	if err != nil {
		return err
	}
	var servers []*lab.Workload
	for i := range endpoints {
		w, err := b.Workload(ctx, fmt.Sprintf("server%d", i), "container:role=server", fmt.Sprintf("container:n=%d", i))
		if err != nil {
			return err
		}
		servers = append(servers, w)
	}
	last := servers[len(servers)-1]
	echo, err := last.ServeUDP(netip.AddrPortFrom(last.IPv4, 9000))
	if err != nil {
		return err
	}
	defer echo.Close()
	conn, err := client.DialUDP(ctx, echo.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()

	api := b.http()
	var took, baseline []time.Duration
	for range rounds {
		if err := put(ctx, api, closed); err != nil {
			return err
		}
		drain(conn)
		stop := knock(conn)
		start := time.Now()
		if err := put(ctx, api, open); err != nil {
			close(stop)
			return err
		}
		err := answered(conn)
		took = append(took, time.Since(start))
		close(stop)
		if err != nil {
			return fmt.Errorf("the rule did not take effect: %w", err)
		}
		start = time.Now()
		if err := get(ctx, api, "/v1/healthz"); err != nil {
			return err
		}
		baseline = append(baseline, time.Since(start))
	}
	b.row(fmt.Sprintf("policy import to first allowed packet, 1 rule, %d endpoints", endpoints), took, baseline, 20*time.Millisecond)
	return nil
}

// http is a client of the agent's API.
func (b *bench) http() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", b.Socket)
		},
	}}
}

func put(ctx context.Context, api *http.Client, rules string) error {
	return call(ctx, api, http.MethodPut, "/v1/policy?replace=true", rules)
}

func get(ctx context.Context, api *http.Client, path string) error {
	return call(ctx, api, http.MethodGet, path, "")
}

func call(ctx context.Context, api *http.Client, method, path, body string) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewBufferString(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := api.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, text)
	}
	return nil
}

// knock sends a datagram every 100 µs until it is stopped, for two seconds at most.
func knock(conn net.Conn) (stop chan struct{}) {
	stop = make(chan struct{})
	go func() {
		tick := time.NewTicker(100 * time.Microsecond)
		defer tick.Stop()
		limit := time.After(2 * time.Second)
		for {
			select {
			case <-stop:
				return
			case <-limit:
				return
			case <-tick.C:
				if _, err := conn.Write([]byte("knock")); err != nil {
					return
				}
			}
		}
	}()
	return stop
}

// answered waits for the first datagram back.
func answered(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 64))
	return err
}

// drain reads what is still on its way, until nothing has come for a while. That
// also sets the next import apart from the one before: one that follows at once
// waits up to a grace period of the kernel, some ten milliseconds, for it.
func drain(conn net.Conn) {
	for {
		if conn.SetReadDeadline(time.Now().Add(30*time.Millisecond)) != nil {
			return
		}
		if _, err := conn.Read(make([]byte, 64)); err != nil {
			return
		}
	}
}
