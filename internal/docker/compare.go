// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"cilium.local/cilium/internal/label"
)

// attachments maps Docker's endpoints to their containers. An endpoint without
// a container has an empty one.
type attachments map[string]string

// unattached begins the key of an endpoint without container in Docker's answer.
const unattached = "ep-"

// attached asks Docker what is attached to the networks of the endpoints. A
// network that is gone has nothing attached.
func (w *Watcher) attached(ctx context.Context, endpoints []Endpoint) (attachments, error) {
	found, asked := attachments{}, map[string]bool{}
	for _, e := range endpoints {
		if asked[e.NetworkID] || e.NetworkID == "" {
			continue
		}
		asked[e.NetworkID] = true
		answer, err := w.api.NetworkInspect(ctx, e.NetworkID, client.NetworkInspectOptions{})
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ask what is attached to network %s: %w", e.NetworkID, err)
		}
		for container, attachment := range answer.Network.Containers {
			if strings.HasPrefix(container, unattached) {
				container = ""
			}
			found[attachment.EndpointID] = container
		}
	}
	return found, nil
}

// containers asks for one container, or for all with an empty id.
func (w *Watcher) containers(ctx context.Context, id string) (map[string]Container, error) {
	options := client.ContainerListOptions{All: true}
	if id != "" {
		options.Filters = client.Filters{}.Add("id", id)
	}
	answer, err := w.api.ContainerList(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	found := make(map[string]Container, len(answer.Items))
	for _, item := range answer.Items {
		c := Container{ID: item.ID}
		if len(item.Names) > 0 {
			c.Name = strings.TrimPrefix(item.Names[0], "/")
		}
		reported := make([]label.Label, 0, len(item.Labels))
		for key, value := range item.Labels {
			reported = append(reported, label.Label{Key: key, Value: value})
		}
		c.Labels, c.LeftOut = label.FromRuntime(label.SourceContainer, reported)
		found[c.ID] = c
	}
	return found, nil
}

// identify tells the sink the containers of the endpoints, as far as Docker
// knows them; container narrows down whose.
func (w *Watcher) identify(ctx context.Context, endpoints []Endpoint, container string) error {
	where, err := w.attached(ctx, endpoints)
	if err != nil {
		return err
	}
	known, err := w.containers(ctx, container)
	if err != nil {
		return err
	}
	return w.tell(ctx, endpoints, where, known)
}

// tell hands the containers of the endpoints to the sink.
func (w *Watcher) tell(ctx context.Context, endpoints []Endpoint, where attachments, known map[string]Container) error {
	var errs []error
	for _, e := range endpoints {
		c, ok := known[where[e.ID]]
		if !ok {
			continue
		}
		if err := w.sink.SetContainer(ctx, e.ID, c); err != nil {
			errs = append(errs, fmt.Errorf("endpoint %s of container %s: %w", e.ID, c.Name, err))
			continue
		}
		w.log.Debug("container known", "endpoint", e.ID, "container", c.Name, "labels", c.Labels)
	}
	return errors.Join(errs...)
}

// misses is how many comparisons in a row must not find an endpoint before it
// is held to be gone: one may fall between two steps of Docker's.
const misses = 2

// compare identifies all endpoints whose container is not known, and removes
// those that Docker does not have any more. An error means that Docker did not
// answer fully; then nothing is removed.
func (w *Watcher) compare(ctx context.Context) error {
	endpoints := w.sink.Endpoints()
	if len(endpoints) == 0 {
		clear(w.missing)
		return nil
	}
	where, err := w.attached(ctx, endpoints)
	if err != nil {
		return err
	}
	var unknown []Endpoint
	missing := map[string]int{}
	for _, e := range endpoints {
		if _, found := where[e.ID]; !found {
			missing[e.ID] = w.missing[e.ID] + 1
			w.removeMissing(ctx, e, missing[e.ID])
		} else if e.ContainerID == "" {
			unknown = append(unknown, e)
		}
	}
	w.missing = missing
	if len(unknown) == 0 {
		return nil
	}
	known, err := w.containers(ctx, "")
	if err != nil {
		return err
	}
	if err := w.tell(ctx, unknown, where, known); err != nil && ctx.Err() == nil {
		w.log.Warn("containers of endpoints are not known yet", "error", err)
	}
	return nil
}

// removeMissing removes an endpoint that has been missing for long enough.
func (w *Watcher) removeMissing(ctx context.Context, e Endpoint, times int) {
	if times < misses || time.Since(e.Created) < w.cfg.Grace {
		return
	}
	w.log.Info("Docker no longer has the endpoint", "endpoint", e.ID, "container", e.ContainerID)
	if err := w.sink.Remove(ctx, e.ID); err != nil && ctx.Err() == nil {
		w.log.Warn("endpoint that Docker no longer has is not removed", "endpoint", e.ID, "error", err)
	}
}
