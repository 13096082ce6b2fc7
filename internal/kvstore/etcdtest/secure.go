// SPDX-License-Identifier: Apache-2.0

package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// Authority signs certificates for a test.
type Authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority returns one that nobody trusts yet.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t}
	a.cert = &x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = a.sign(a.cert)
	return a
}

func (a *Authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// PEM returns the authority's own certificate, for those who trust it.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// Issue writes a certificate for 127.0.0.1, of a server or a client, and its key.
func (a *Authority) Issue(certFile, keyFile string) {
	a.t.Helper()
	cert, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: filepath.Base(certFile)}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert.Raw}, keyFile: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

// Secure is a store of one member that asks its clients for certificates, from
// DIR/ca.pem, and has DIR/server.pem with DIR/server.key itself. Tokens of users
// last for TokenTTL seconds.
type Secure struct {
	Dir      string
	TokenTTL uint
	member   *member
	c        *Cluster
}

// NewSecure starts the store on certificates that are there, and stops it at the
// test's end.
func NewSecure(t testing.TB, dir string, tokenTTL uint) *Secure {
	t.Helper()
	m := &member{dir: filepath.Join(dir, "data"), client: freeURL(t), peer: freeURL(t)}
	m.client.Scheme = "https"
	s := &Secure{Dir: dir, TokenTTL: tokenTTL, member: m, c: &Cluster{t: t, members: []*member{m}}}
	t.Cleanup(s.Stop)
	s.Start()
	return s
}

// URL returns where clients find the store.
func (s *Secure) URL() string { return s.member.client.String() }

// Stop ends the store; a second time does nothing.
func (s *Secure) Stop() { s.c.Stop(0) }

// Start runs the store on its data, and waits until it is ready.
func (s *Secure) Start() {
	s.c.start(0, func(cfg *embed.Config) {
		cfg.AuthTokenTTL = s.TokenTTL
		cfg.ClientTLSInfo = transport.TLSInfo{
			CertFile: filepath.Join(s.Dir, "server.pem"), KeyFile: filepath.Join(s.Dir, "server.key"),
			TrustedCAFile: filepath.Join(s.Dir, "ca.pem"), ClientCertAuth: true, Logger: zap.NewNop(),
		}
	})
}
