// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/docker"
	"cilium.local/cilium/internal/endpoint"
)

// dockerSink implements docker.Sink: it finds the endpoints by Docker's numbers.
type dockerSink struct{ a *Agent }

// Endpoints returns the endpoints that Docker's network driver made.
func (s dockerSink) Endpoints() []docker.Endpoint {
	var all []docker.Endpoint
	for _, e := range s.a.endpoints.List() {
		if e.External.DockerEndpointID == "" {
			continue
		}
		all = append(all, docker.Endpoint{
			ID: e.External.DockerEndpointID, NetworkID: e.External.DockerNetworkID,
			ContainerID: e.External.ContainerID, Created: e.Created,
		})
	}
	return all
}

func (s dockerSink) find(endpointID string) (endpoint.Endpoint, error) {
	return s.a.endpoints.Lookup("docker-endpoint:" + endpointID)
}

// SetContainer gives an endpoint its container and the labels of that, which
// opens it. An endpoint that is gone meanwhile is no error.
func (s dockerSink) SetContainer(ctx context.Context, endpointID string, c docker.Container) error {
	e, err := s.find(endpointID)
	if err == nil {
		err = s.a.endpoints.SetContainer(ctx, e.ID, c.ID, c.Name, c.Labels)
	}
	if err == nil {
		err = s.a.endpoints.Note(e.ID, c.LeftOut.String())
	}
	if errors.Is(err, endpoint.ErrNotFound) {
		return nil
	}
	return err
}

// Remove deletes an endpoint that Docker has forgotten, and gives back the
// addresses that Docker reserved for it.
func (s dockerSink) Remove(ctx context.Context, endpointID string) error {
	e, err := s.find(endpointID)
	if err != nil {
		return nil //nolint:nilerr // it is gone, as wanted
	}
	if err := s.a.endpoints.Delete(ctx, e.ID); err != nil && !errors.Is(err, endpoint.ErrNotFound) {
		return err
	}
	var errs []error
	for _, addr := range e.Addresses() {
		if err := s.a.book.ReleaseReserved(addr); err != nil && !errors.Is(err, apiserver.ErrNotFound) {
			errs = append(errs, fmt.Errorf("release what Docker reserved: %w", err))
		}
	}
	return errors.Join(errs...)
}

// openDocker prepares to follow Docker; Docker need not be there yet.
func (a *Agent) openDocker(context.Context) (err error) {
	if a.cfg.Docker != "" {
		a.docker, err = docker.New(docker.Config{Socket: a.cfg.Docker}, dockerSink{a}, a.log)
	}
	return err
}

func (a *Agent) dockerStatus() *api.Status {
	if a.docker == nil {
		return &api.Status{State: api.SeverityDisabled}
	}
	if err := a.docker.Status(); err != nil {
		return &api.Status{State: api.SeverityWarning, Msg: err.Error() + "; new containers stay closed until it answers"}
	}
	return &api.Status{State: api.SeverityOk, Msg: "Docker at " + a.cfg.Docker}
}
