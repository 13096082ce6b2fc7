// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// configFile is how a store is reached, with the names that etcd's own client
// uses in such files. Relative paths begin at the folder of the file.
type configFile struct {
	Endpoints    []string `yaml:"endpoints"`
	TrustedCA    string   `yaml:"trusted-ca-file"`
	Cert         string   `yaml:"cert-file"`
	Key          string   `yaml:"key-file"`
	Username     string   `yaml:"username"`
	Password     string   `yaml:"password"`
	PasswordFile string   `yaml:"password-file"`
}

// ReadConfig reads how a store is reached from a YAML file in the form of etcd's
// own client: endpoints, trusted-ca-file, cert-file, key-file, username, and
// password or password-file. Certificates are read again for every connection, and the
// password for every login, so they may be replaced while the store is open. Errors name the file and the field.
func ReadConfig(path string) (Config, error) {
	cfg, err := readConfig(path)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

func readConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, bare(err)
	}
	var file configFile
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, err
	}
	if len(file.Endpoints) == 0 {
		return Config{}, errors.New("endpoints: name at least one URL, such as https://10.0.0.1:2379")
	}
	if err := CheckEndpoints(file.Endpoints); err != nil {
		return Config{}, fmt.Errorf("endpoints: %w", err)
	}
	file.beginAt(filepath.Dir(path))
	if err := file.checkUser(); err != nil {
		return Config{}, err
	}
	cfg := Config{
		Endpoints: file.Endpoints, Username: file.Username, Password: file.Password, PasswordFile: file.PasswordFile,
	}
	cfg.TLS, err = file.tls(strings.HasPrefix(file.Endpoints[0], "https:"))
	return cfg, err
}

// CheckEndpoints refuses URLs that cannot be those of a store's members, and a
// mixture with and without TLS: a client that one member sends away goes to the
// next. unix:///PATH is the socket of a store on this machine.
func CheckEndpoints(urls []string) error {
	for _, text := range urls {
		u, err := url.Parse(text)
		switch {
		case err == nil && u.Scheme == "unix" && u.Host == "" && u.Path != "":
		case err != nil || u.Hostname() == "" || u.Port() == "" || strings.TrimSuffix(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil:
			return fmt.Errorf("%q: write it as https://HOST:PORT or http://HOST:PORT", text)
		case u.Scheme != "http" && u.Scheme != "https":
			return fmt.Errorf("%q: use http or https, not %s", text, u.Scheme)
		}
		if first, _, _ := strings.Cut(urls[0], ":"); first != u.Scheme {
			return fmt.Errorf("%q and %q: use https for all or for none", urls[0], text)
		}
	}
	return nil
}

func (f *configFile) beginAt(folder string) {
	for _, path := range []*string{&f.TrustedCA, &f.Cert, &f.Key, &f.PasswordFile} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(folder, *path)
		}
	}
}

func (f *configFile) checkUser() error {
	if f.Password != "" && f.PasswordFile != "" {
		return errors.New("password and password-file: give one of them")
	}
	if f.PasswordFile != "" {
		if _, err := readPassword(f.PasswordFile); err != nil {
			return err
		}
	}
	with := f.Password != "" || f.PasswordFile != ""
	switch {
	case f.Username == "" && with:
		return errors.New("username: a password is given, and no user")
	case f.Username != "" && !with:
		return fmt.Errorf("password: none is given for the user %s (or give password-file)", f.Username)
	}
	return nil
}

// readPassword reads a file that holds a password and the end of its line.
func readPassword(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("password-file: %s: %w", path, bare(err))
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" {
		return "", fmt.Errorf("password-file: %s is empty", path)
	}
	return password, nil
}

// bare is the reason alone of an error about a file that the caller names.
func bare(err error) error {
	var about *os.PathError
	if errors.As(err, &about) {
		return about.Err
	}
	return err
}
