// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
)

// credentials are the certificates of a connection, read anew for each one. If
// they cannot be read, as in the middle of a replacement, the last good ones are
// used: the other side decides whether they are still any good.
type credentials struct {
	caFile, certFile, keyFile string

	mu   sync.Mutex
	ca   *x509.CertPool
	pair *tls.Certificate
}

// tls returns nil for a store that is not encrypted.
func (f *configFile) tls(encrypted bool) (*tls.Config, error) {
	if (f.Cert == "") != (f.Key == "") {
		return nil, errors.New("cert-file and key-file: give both or none")
	}
	if !encrypted {
		if f.TrustedCA != "" || f.Cert != "" {
			return nil, errors.New("trusted-ca-file, cert-file and key-file are for https, and the endpoints are http")
		}
		return nil, nil
	}
	c := &credentials{caFile: f.TrustedCA, certFile: f.Cert, keyFile: f.Key}
	if _, err := c.authorities(); err != nil {
		return nil, fmt.Errorf("trusted-ca-file: %w", err)
	}
	if c.certFile == "" {
		return c.config(), nil
	}
	if _, err := c.own(); err != nil {
		return nil, fmt.Errorf("cert-file and key-file: %w", err)
	}
	return c.config(), nil
}

func (c *credentials) config() *tls.Config {
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		// The library's check knows only authorities that never change, so verify
		// makes the same check instead of it.
		InsecureSkipVerify: true,
		VerifyConnection:   c.verify,
	}
	if c.certFile != "" {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return c.own()
		}
	}
	return config
}

// verify checks the server's certificate: its chain, time, use and name.
func (c *credentials) verify(state tls.ConnectionState) error {
	roots, err := c.authorities()
	if err != nil {
		return err
	}
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server has no certificate")
	}
	between := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		between.AddCert(cert)
	}
	_, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, DNSName: state.ServerName,
	})
	return err
}

// authorities returns whom to trust; nil without an error stands for the system's.
func (c *credentials) authorities() (*x509.CertPool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.caFile == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	text, err := os.ReadFile(c.caFile)
	switch {
	case err != nil:
		err = fmt.Errorf("%s: %w", c.caFile, bare(err))
	case !pool.AppendCertsFromPEM(text):
		err = fmt.Errorf("%s holds no certificate in PEM form", c.caFile)
	default:
		c.ca = pool
	}
	if c.ca == nil {
		return nil, err
	}
	return c.ca, nil
}

// own returns the certificate by which the store knows this client.
func (c *credentials) own() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err == nil {
		c.pair = &pair
	}
	if c.pair == nil {
		return nil, fmt.Errorf("%s and %s: %w", c.certFile, c.keyFile, bare(err))
	}
	return c.pair, nil
}
