// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
)

// recordVersion is the version of the files this package writes. A reader
// refuses newer versions, so that a downgrade never half-understands a file.
const recordVersion = 1

// record is the file form of an Endpoint.
type record struct {
	Version        int            `json:"version"`
	ID             uint16         `json:"id"`
	External       External       `json:"external"`
	Labels         []string       `json:"labels"`
	LabelsKnown    bool           `json:"labels-known"`
	UserLabels     []string       `json:"user-labels,omitempty"`
	IdentityLabels []string       `json:"identity-labels"`
	Identity       uint32         `json:"identity"`
	PolicyID       uint32         `json:"policy-id"`
	IPv4           netip.Addr     `json:"ipv4"`
	IPv6           netip.Addr     `json:"ipv6"`
	HostName       string         `json:"host-name"`
	PeerName       string         `json:"peer-name"`
	HostMAC        string         `json:"host-mac"`
	MAC            string         `json:"mac"`
	MTU            int            `json:"mtu"`
	NetNS          string         `json:"netns,omitempty"`
	ContainerIf    string         `json:"container-interface,omitempty"`
	Traced         bool           `json:"traced,omitempty"`
	State          State          `json:"state"`
	Created        time.Time      `json:"created"`
	Log            []StatusChange `json:"log"`
}

// files keeps one JSON file per endpoint in a directory.
//
// A file is written beside its place and renamed over it, so a reader sees the
// old or the new file. It is not forced to disk: what this guards against is the
// death of the agent, and after the death of the machine the devices that the
// files describe are gone too. A file torn by that is set aside at restore.
type files struct{ dir string }

func (f files) path(id uint16) string {
	return filepath.Join(f.dir, strconv.Itoa(int(id))+".json")
}

func (f files) save(e *Endpoint) error {
	data, err := json.MarshalIndent(toRecord(e), "", " ")
	if err == nil {
		err = WriteFile(f.path(e.ID), data, false)
	}
	if err != nil {
		return fmt.Errorf("save endpoint %d: %w", e.ID, err)
	}
	return nil
}

func (f files) remove(id uint16) error {
	if err := os.Remove(f.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget endpoint %d: %w", id, err)
	}
	return nil
}

// load reads every endpoint file. Files that cannot be read are renamed to
// *.bad and returned as errors: their endpoints stay closed, as the kernel rows
// of unknown endpoints are removed.
func (f files) load() (all []*Endpoint, bad []error, err error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read saved endpoints: %w", err)
	}
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), ".json")
		id, convErr := strconv.ParseUint(name, 10, 16)
		if !ok || convErr != nil {
			continue
		}
		path := filepath.Join(f.dir, entry.Name())
		e, readErr := read(path, uint16(id))
		if readErr != nil {
			readErr = fmt.Errorf("%w; set aside as %s.bad, start the workload again", readErr, entry.Name())
			bad = append(bad, errors.Join(readErr, os.Rename(path, path+".bad")))
			continue
		}
		all = append(all, e)
	}
	return all, bad, nil
}

func read(path string, id uint16) (*Endpoint, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the path is built from the state directory
	if err != nil {
		return nil, fmt.Errorf("endpoint file: %w", err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("endpoint file %s is damaged: %w", path, err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("endpoint file %s has version %d, this agent reads %d", path, r.Version, recordVersion)
	}
	if r.ID != id || r.ID == 0 {
		return nil, fmt.Errorf("endpoint file %s is damaged: it holds endpoint %d", path, r.ID)
	}
	return r.endpoint(path)
}

func toRecord(e *Endpoint) record {
	return record{
		Version: recordVersion, ID: e.ID, External: e.External,
		Labels: e.Labels.Strings(), LabelsKnown: e.LabelsKnown,
		UserLabels: e.UserLabels.Strings(), IdentityLabels: e.IdentityLabels.Strings(), Traced: e.Traced,
		Identity: uint32(e.Identity), PolicyID: e.PolicyID, IPv4: e.IPv4, IPv6: e.IPv6,
		HostName: e.Device.HostName, PeerName: e.Device.PeerName,
		HostMAC: e.Device.HostMAC.String(), MAC: e.Device.MAC.String(), MTU: e.Device.MTU,
		NetNS: e.Device.NetNS, ContainerIf: e.Device.ContainerIfName,
		State: e.State, Created: e.Created, Log: e.Log,
	}
}

func (r *record) endpoint(path string) (*Endpoint, error) {
	labels, err1 := label.ParseSet(r.Labels)
	relevant, err2 := label.ParseSet(r.IdentityLabels)
	hostMAC, err3 := net.ParseMAC(r.HostMAC)
	mac, err4 := net.ParseMAC(r.MAC)
	user, err5 := label.ParseSet(r.UserLabels)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return nil, fmt.Errorf("endpoint file %s is damaged: %w", path, err)
	}
	return &Endpoint{
		ID: r.ID, External: r.External, Labels: labels, LabelsKnown: r.LabelsKnown,
		UserLabels: user, IdentityLabels: relevant, Traced: r.Traced,
		Identity: identity.ID(r.Identity), PolicyID: r.PolicyID, IPv4: r.IPv4, IPv6: r.IPv6,
		Device: Device{
			HostName: r.HostName, PeerName: r.PeerName, HostMAC: hostMAC, MAC: mac, MTU: r.MTU,
			NetNS: r.NetNS, ContainerIfName: r.ContainerIf,
		},
		State: r.State, Created: r.Created, Log: r.Log,
	}, nil
}

// WriteFile replaces a file in one step: it writes a temporary file beside it
// and renames it. With sync the data is on disk before the rename.
func WriteFile(path string, data []byte, sync bool) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(data)
	if err == nil && sync {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
