// SPDX-License-Identifier: Apache-2.0

package kvstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/kvstore/etcdtest"
)

// secured is a store with certificates and users, and a client's files for it.
type secured struct {
	*etcdtest.Secure
	t         *testing.T
	dir       string // of the client's files
	authority *etcdtest.Authority
}

const tokenLife = 2 // seconds

func newSecured(t *testing.T) *secured {
	t.Helper()
	if testing.Short() {
		t.Skip("runs servers for seconds")
	}
	s := &secured{t: t, dir: t.TempDir(), authority: etcdtest.NewAuthority(t)}
	server := shortDir(t)
	s.write(filepath.Join(server, "ca.pem"), string(s.authority.PEM()))
	s.authority.Issue(filepath.Join(server, "server.pem"), filepath.Join(server, "server.key"))
	s.write("ca.pem", string(s.authority.PEM()))
	s.write("password", "secret of the agents\n")
	s.authority.Issue(s.path("client.pem"), s.path("client.key"))
	s.Secure = etcdtest.NewSecure(t, server, tokenLife)
	s.addUsers()
	return s
}

func (s *secured) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(s.dir, name)
}

func (s *secured) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// file writes a store's configuration, and returns what is read from it.
func (s *secured) file(text string) kvstore.Config {
	s.t.Helper()
	s.write("store.yaml", fmt.Sprintf("endpoints: [%s]\n%s", s.URL(), text))
	cfg, err := kvstore.ReadConfig(s.path("store.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	cfg.RequestTimeout, cfg.ProbeEvery = 2*time.Second, 200*time.Millisecond
	return cfg
}

const (
	withCerts = "trusted-ca-file: ca.pem\ncert-file: client.pem\nkey-file: client.key\n"
	agentUser = withCerts + "username: agent\npassword-file: password\n"
)

// addUsers makes the user agent, who may do everything below cilium/, and the
// user reader, who may read there, as the guide has it.
func (s *secured) addUsers() {
	s.t.Helper()
	s.asRoot(func(ctx context.Context, client *clientv3.Client) error {
		_, e1 := client.UserAdd(ctx, "root", "root's")
		_, e2 := client.UserGrantRole(ctx, "root", "root")
		errs := []error{e1, e2}
		for user, permission := range map[string]clientv3.PermissionType{
			"agent": clientv3.PermissionType(clientv3.PermReadWrite), "reader": clientv3.PermissionType(clientv3.PermRead),
		} {
			_, e1 = client.UserAdd(ctx, user, "secret of the agents")
			_, e2 = client.RoleAdd(ctx, user)
			_, e3 := client.RoleGrantPermission(ctx, user, "cilium/", clientv3.GetPrefixRangeEnd("cilium/"), permission)
			_, e4 := client.UserGrantRole(ctx, user, user)
			errs = append(errs, e1, e2, e3, e4)
		}
		_, e1 = client.AuthEnable(ctx)
		return errors.Join(append(errs, e1)...)
	})
}

// asRoot is what an operator does.
func (s *secured) asRoot(do func(context.Context, *clientv3.Client) error) {
	s.t.Helper()
	cfg := s.file(withCerts)
	client, err := clientv3.New(clientv3.Config{
		Endpoints: cfg.Endpoints, TLS: cfg.TLS, Logger: zap.NewNop(), DialTimeout: 5 * time.Second,
		Username: "root", Password: "root's",
	})
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	if err := do(ctx, client); err != nil {
		s.t.Fatal(err)
	}
}

func TestStoreWithCertificatesAndUsers(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	cfg := s.file(agentUser)
	cfg.LeaseTTL = 5 * time.Second
	store := openStore(t, cfg)
	waitState(t, store, kvstore.StateOK)
	seen := follow(t, store, "cilium/state/")
	store.Keep("cilium/state/leased", "1")
	seen.expect(t, map[string]string{"cilium/state/leased": "1"})

	// Long after the token has expired, calls, watches and leases go on.
	time.Sleep(3*tokenLife*time.Second + time.Second)
	if err := store.Set(t.Context(), "cilium/state/plain", "2"); err != nil {
		t.Fatal(err)
	}
	seen.expect(t, map[string]string{"cilium/state/leased": "1", "cilium/state/plain": "2"})
	if value, err := store.Get(t.Context(), "cilium/state/leased"); err != nil || value != "1" {
		t.Errorf("the leased key is %q, %v", value, err)
	}

	// The same after the store's own restart, which forgets all tokens.
	s.Stop()
	waitState(t, store, kvstore.StateFailure)
	s.Start()
	waitState(t, store, kvstore.StateOK)
	if err := store.Set(t.Context(), "cilium/state/plain", "3"); err != nil {
		t.Fatal(err)
	}
	seen.expect(t, map[string]string{"cilium/state/leased": "1", "cilium/state/plain": "3"})
}

func TestReadOnlyUserReadsAndIsToldThatItMayNotWrite(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	owner := openStore(t, s.file(agentUser))
	reader := openStore(t, s.file(strings.Replace(agentUser, "agent", "reader", 1)))
	seen := follow(t, reader, "cilium/state/")
	if err := owner.Set(t.Context(), "cilium/state/k", "v"); err != nil {
		t.Fatal(err)
	}
	seen.expect(t, map[string]string{"cilium/state/k": "v"})
	err := reader.Set(t.Context(), "cilium/state/k", "w")
	if err == nil || !strings.Contains(err.Error(), "cilium/state/k") || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("a write was answered with: %v", err)
	}
}

func TestStoreThatIsAwayAtTheStartIsUsedOnceItIsThere(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	s.Stop()
	store := openStore(t, s.file(agentUser))
	waitState(t, store, kvstore.StateFailure)
	s.Start()
	waitState(t, store, kvstore.StateOK)
	if err := store.Set(t.Context(), "cilium/state/k", "v"); err != nil {
		t.Fatal(err)
	}
}

func TestStatusSaysWhyTheStoreRefuses(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	stranger := etcdtest.NewAuthority(t)
	s.write("strange-ca.pem", string(stranger.PEM()))
	stranger.Issue(s.path("strange.pem"), s.path("strange.key"))
	s.write("wrong", "guess")
	for name, c := range map[string]struct{ file, want string }{
		"wrong password":      {strings.Replace(agentUser, "password-file: password", "password-file: wrong", 1), "check username and password: the store does not know a user agent with that password"},
		"no user":             {withCerts, "the store wants a user: give username and password"},
		"unknown authority":   {strings.Replace(agentUser, "ca.pem", "strange-ca.pem", 1), "check trusted-ca-file"},
		"no certificate":      {"trusted-ca-file: ca.pem\nusername: agent\npassword-file: password\n", "check cert-file and key-file"},
		"other's authority":   {strings.NewReplacer("client.pem", "strange.pem", "client.key", "strange.key").Replace(agentUser), "check cert-file and key-file"},
		"plain, store is not": {"", "write them with https if it speaks TLS"},
	} {
		cfg := s.file(c.file)
		if c.file == "" {
			cfg.Endpoints, cfg.TLS = []string{strings.Replace(s.URL(), "https", "http", 1)}, nil
		}
		store := openStore(t, cfg)
		if st := waitState(t, store, kvstore.StateFailure); !strings.Contains(st.Msg, c.want) {
			t.Errorf("%s: status says %s", name, st.Msg)
		}
	}
}

func TestCertificatesAreReplacedWhileTheStoreIsOpen(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	store := openStore(t, s.file(agentUser))
	waitState(t, store, kvstore.StateOK)

	next := etcdtest.NewAuthority(t)
	s.write(filepath.Join(s.Dir, "ca.pem"), string(next.PEM()))
	next.Issue(filepath.Join(s.Dir, "server.pem"), filepath.Join(s.Dir, "server.key"))
	s.Stop()
	s.Start()
	if st := waitState(t, store, kvstore.StateFailure); !strings.Contains(st.Msg, s.URL()) {
		t.Errorf("status does not name the store: %s", st.Msg)
	}
	s.write("ca.pem", "-----BEGIN CERTIFICATE-----") // half written: what was read before is used
	time.Sleep(300 * time.Millisecond)
	s.write("ca.pem", string(next.PEM()))
	next.Issue(s.path("client.pem"), s.path("client.key"))
	waitState(t, store, kvstore.StateOK)
	if err := store.Set(t.Context(), "cilium/state/k", "v"); err != nil {
		t.Fatal(err)
	}
}

func TestPasswordIsReplacedWhileTheStoreIsOpen(t *testing.T) {
	t.Parallel()
	s := newSecured(t)
	store := openStore(t, s.file(agentUser))
	waitState(t, store, kvstore.StateOK)
	s.asRoot(func(ctx context.Context, root *clientv3.Client) error {
		_, err := root.UserChangePassword(ctx, "agent", "another secret")
		return err
	})
	s.Stop() // and with it all tokens
	s.Start()
	waitState(t, store, kvstore.StateFailure)
	s.write("password", "another secret\n")
	waitState(t, store, kvstore.StateOK)
}

func TestConfigurationFilesAreRefusedByField(t *testing.T) {
	dir := t.TempDir()
	authority := etcdtest.NewAuthority(t)
	authority.Issue(filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key"))
	for name, text := range map[string]string{"ca.pem": string(authority.PEM()), "empty": "\n", "junk": "junk"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const one = "endpoints: [https://10.0.0.1:2379]\n"
	for text, want := range map[string]string{
		"":                                     `endpoints: name at least one URL, such as https://10.0.0.1:2379`,
		"endpoint: x":                          "yaml: unmarshal errors:\n  line 1: field endpoint not found in type kvstore.configFile",
		"endpoints: [10.0.0.1:2379]":           `endpoints: "10.0.0.1:2379": write it as https://HOST:PORT or http://HOST:PORT`,
		"endpoints: [https://etcd]":            `endpoints: "https://etcd": write it as https://HOST:PORT or http://HOST:PORT`,
		"endpoints: [ftp://a:1]":               `endpoints: "ftp://a:1": use http or https, not ftp`,
		"endpoints: [https://a:1, http://b:1]": `endpoints: "https://a:1" and "http://b:1": use https for all or for none`,
		"endpoints: [http://a:1]\ntrusted-ca-file: ca.pem":     `trusted-ca-file, cert-file and key-file are for https, and the endpoints are http`,
		one + "cert-file: c.pem":                               `cert-file and key-file: give both or none`,
		one + "trusted-ca-file: none.pem":                      `trusted-ca-file: DIR/none.pem: no such file or directory`,
		one + "trusted-ca-file: junk":                          `trusted-ca-file: DIR/junk holds no certificate in PEM form`,
		one + "cert-file: c.pem\nkey-file: none":               `cert-file and key-file: DIR/c.pem and DIR/none: no such file or directory`,
		one + "cert-file: c.pem\nkey-file: ca.pem":             `cert-file and key-file: DIR/c.pem and DIR/ca.pem: tls: found a certificate rather than a key in the PEM for the private key`,
		one + "username: u":                                    `password: none is given for the user u (or give password-file)`,
		one + "password: p":                                    `username: a password is given, and no user`,
		one + "username: u\npassword: p\npassword-file: empty": `password and password-file: give one of them`,
		one + "username: u\npassword-file: empty":              `password-file: DIR/empty is empty`,
		one + "username: u\npassword-file: none":               `password-file: DIR/none: no such file or directory`,
	} {
		path := filepath.Join(dir, "store.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := kvstore.ReadConfig(path)
		if err == nil || err.Error() != strings.ReplaceAll(path+": "+want, "DIR", dir) {
			t.Errorf("%q:\ngot  %v\nwant %s", text, err, want)
		}
	}
	if _, err := kvstore.ReadConfig(filepath.Join(dir, "none.yaml")); err == nil || err.Error() != filepath.Join(dir, "none.yaml")+": no such file or directory" {
		t.Errorf("a missing file: %v", err)
	}
}
