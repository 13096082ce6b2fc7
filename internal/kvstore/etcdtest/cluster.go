// SPDX-License-Identifier: Apache-2.0

// Package etcdtest runs real etcd clusters of several members inside a test's
// process, on loopback ports, and cuts members off from each other.
package etcdtest

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// Cluster is a running cluster. Its methods end the test on failure; they are
// safe for concurrent use.
type Cluster struct {
	t       testing.TB
	members []*member
}

type member struct {
	dir          string
	client, peer url.URL

	mu      sync.Mutex
	running *embed.Etcd
}

// New starts a cluster of so many members, and stops it at the test's end.
func New(t testing.TB, members int) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	for range members {
		c.members = append(c.members, &member{
			dir: t.TempDir(), client: freeURL(t), peer: freeURL(t),
		})
	}
	t.Cleanup(func() {
		for i := range c.members {
			c.Stop(i)
		}
	})
	var starts sync.WaitGroup
	for i := range c.members {
		starts.Go(func() { c.Start(i) })
	}
	starts.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return c
}

func freeURL(t testing.TB) url.URL {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return url.URL{Scheme: "http", Host: l.Addr().String()}
}

// URL returns where clients find a member.
func (c *Cluster) URL(i int) string { return c.members[i].client.String() }

// URLs returns where clients find all members.
func (c *Cluster) URLs() (urls []string) {
	for i := range c.members {
		urls = append(urls, c.URL(i))
	}
	return urls
}

// Start runs a member on its data, and waits until it is ready.
func (c *Cluster) Start(i int) { c.start(i, func(*embed.Config) {}) }

// start runs a member whose configuration is completed by more.
func (c *Cluster) start(i int, more func(*embed.Config)) {
	m := c.members[i]
	var all []string
	for n, other := range c.members {
		all = append(all, fmt.Sprintf("m%d=%s", n, other.peer.String()))
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = fmt.Sprintf("m%d", i), m.dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{m.client}, []url.URL{m.client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{m.peer}, []url.URL{m.peer}
	cfg.InitialCluster = strings.Join(all, ",")
	cfg.TickMs, cfg.ElectionMs = 50, 500
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	more(cfg)
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		c.t.Errorf("start etcd member %d: %v", i, err)
		return
	}
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		c.t.Errorf("etcd member %d is not ready after 30 s", i)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running = server
}

// Stop ends a member; a second time does nothing.
func (c *Cluster) Stop(i int) {
	m := c.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running != nil {
		m.running.Close()
		m.running = nil
	}
}

// Cut stops all traffic between a member and the others. Its clients still reach
// it.
func (c *Cluster) Cut(i int) {
	c.pairs(i, func(a, b *embed.Etcd) { a.Server.CutPeer(b.Server.MemberID()) })
}

// Mend ends a Cut.
func (c *Cluster) Mend(i int) {
	c.pairs(i, func(a, b *embed.Etcd) { a.Server.MendPeer(b.Server.MemberID()) })
}

// pairs calls f for a member and each other that runs, in both directions.
func (c *Cluster) pairs(i int, f func(a, b *embed.Etcd)) {
	one := c.server(i)
	for n := range c.members {
		if other := c.server(n); n != i && one != nil && other != nil {
			f(one, other)
			f(other, one)
		}
	}
}

func (c *Cluster) server(i int) *embed.Etcd {
	m := c.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running
}
