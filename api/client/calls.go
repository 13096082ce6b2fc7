// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cilium.local/cilium/api"
)

// get reads one resource.
func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var out T
	err := c.call(ctx, request{method: "GET", path: path, query: query}, &out)
	return out, err
}

// Healthz returns the condition of the agent.
func (c *Client) Healthz(ctx context.Context) (*api.StatusResponse, error) {
	return get[*api.StatusResponse](ctx, c, "/healthz", nil)
}

// Config returns how the agent is configured.
func (c *Client) Config(ctx context.Context) (*api.DaemonConfiguration, error) {
	return get[*api.DaemonConfiguration](ctx, c, "/config", nil)
}

// ConfigPatch changes options of the running agent.
func (c *Client) ConfigPatch(ctx context.Context, spec *api.DaemonConfigurationSpec) error {
	return c.call(ctx, request{method: "PATCH", path: "/config", body: spec}, nil)
}

// NodeList returns the known nodes.
func (c *Client) NodeList(ctx context.Context) ([]api.NodeElement, error) {
	return get[[]api.NodeElement](ctx, c, "/node", nil)
}

// NodeDelete gives back the ranges that a node which is gone has claimed, and returns
// them. With force the node's lease need not have ended, but its agent must be gone.
func (c *Client) NodeDelete(ctx context.Context, name string, force bool) (*api.NodeDeletion, error) {
	out := new(api.NodeDeletion)
	r := request{method: "DELETE", path: "/node/" + url.PathEscape(name)}
	if force {
		r.query = url.Values{"force": {"true"}}
	}
	if err := c.call(ctx, r, out); err != nil {
		return nil, err
	}
	return out, nil
}

// DebugInfo returns all that the agent tells for a bug report.
func (c *Client) DebugInfo(ctx context.Context) (*api.DebugInfo, error) {
	return get[*api.DebugInfo](ctx, c, "/debuginfo", nil)
}

// Metrics returns all metrics.
func (c *Client) Metrics(ctx context.Context) ([]api.Metric, error) {
	return get[[]api.Metric](ctx, c, "/metrics", nil)
}

// endpointPath escapes an endpoint's name: a number, or a prefix such as
// container-id: with a value.
func endpointPath(id string) string { return "/endpoint/" + url.PathEscape(id) }

// EndpointList returns the endpoints that carry all the labels.
func (c *Client) EndpointList(ctx context.Context, labels ...string) ([]api.Endpoint, error) {
	return get[[]api.Endpoint](ctx, c, "/endpoint", labelQuery(labels))
}

// EndpointGet returns one endpoint.
func (c *Client) EndpointGet(ctx context.Context, id string) (*api.Endpoint, error) {
	return get[*api.Endpoint](ctx, c, endpointPath(id), nil)
}

// EndpointPut creates an endpoint, with the number in the request or a free one
// when that is 0, and returns it once it is connected.
func (c *Client) EndpointPut(ctx context.Context, req *api.EndpointChangeRequest) (*api.Endpoint, error) {
	out := new(api.Endpoint)
	path := endpointPath(strconv.Itoa(int(req.ID)))
	if err := c.call(ctx, request{method: "PUT", path: path, body: req}, out); err != nil {
		return nil, err
	}
	return out, nil
}

// EndpointPatch changes container and labels of an endpoint; other fields of the
// request must be empty. Nil labels leave those that the endpoint has.
func (c *Client) EndpointPatch(ctx context.Context, id string, req *api.EndpointChangeRequest) (*api.Endpoint, error) {
	out := new(api.Endpoint)
	if err := c.call(ctx, request{method: "PATCH", path: endpointPath(id), body: req}, out); err != nil {
		return nil, err
	}
	return out, nil
}

// EndpointDelete removes an endpoint. An *Error with code 206 says that it is
// gone, but that a step of the removal failed.
func (c *Client) EndpointDelete(ctx context.Context, id string) error {
	return c.call(ctx, request{method: "DELETE", path: endpointPath(id)}, nil)
}

// EndpointConfig returns how an endpoint is configured.
func (c *Client) EndpointConfig(ctx context.Context, id string) (*api.EndpointConfigurationStatus, error) {
	return get[*api.EndpointConfigurationStatus](ctx, c, endpointPath(id)+"/config", nil)
}

// EndpointConfigPatch changes options and labels of an endpoint.
func (c *Client) EndpointConfigPatch(ctx context.Context, id string, spec *api.EndpointConfigurationSpec) error {
	return c.call(ctx, request{method: "PATCH", path: endpointPath(id) + "/config", body: spec}, nil)
}

// EndpointLog returns the log of an endpoint, oldest line first.
func (c *Client) EndpointLog(ctx context.Context, id string) ([]api.EndpointStatusChange, error) {
	return get[[]api.EndpointStatusChange](ctx, c, endpointPath(id)+"/log", nil)
}

// EndpointHealthz returns the condition of an endpoint.
func (c *Client) EndpointHealthz(ctx context.Context, id string) (*api.EndpointHealth, error) {
	return get[*api.EndpointHealth](ctx, c, endpointPath(id)+"/healthz", nil)
}

// EndpointLabels returns the labels of an endpoint.
func (c *Client) EndpointLabels(ctx context.Context, id string) (*api.LabelConfiguration, error) {
	return get[*api.LabelConfiguration](ctx, c, endpointPath(id)+"/labels", nil)
}

// EndpointLabelsPatch replaces all labels of an endpoint.
func (c *Client) EndpointLabelsPatch(ctx context.Context, id string, labels api.Labels) error {
	if labels == nil {
		labels = api.Labels{}
	}
	body := api.LabelConfigurationSpec{User: labels}
	return c.call(ctx, request{method: "PATCH", path: endpointPath(id) + "/labels", body: body}, nil)
}

// IdentityList returns the identities that carry all the labels.
func (c *Client) IdentityList(ctx context.Context, labels ...string) ([]api.Identity, error) {
	return get[[]api.Identity](ctx, c, "/identity", labelQuery(labels))
}

// IdentityGet returns one identity, by number or reserved name.
func (c *Client) IdentityGet(ctx context.Context, id string) (*api.Identity, error) {
	return get[*api.Identity](ctx, c, "/identity/"+url.PathEscape(id), nil)
}

// IPAMAllocate reserves a free address of the family "ipv4" or "ipv6", or of
// both with "".
func (c *Client) IPAMAllocate(ctx context.Context, family, owner string) (*api.IPAMResponse, error) {
	query := url.Values{"owner": {owner}}
	if family != "" {
		query.Set("family", family)
	}
	out := new(api.IPAMResponse)
	if err := c.call(ctx, request{method: "POST", path: "/ipam", query: query}, out); err != nil {
		return nil, err
	}
	return out, nil
}

// IPAMAllocateIP reserves one address. A taken one fails with code 409, one out
// of the node's range with 400.
func (c *Client) IPAMAllocateIP(ctx context.Context, ip, owner string) error {
	path := "/ipam/" + url.PathEscape(ip)
	return c.call(ctx, request{method: "POST", path: path, query: url.Values{"owner": {owner}}}, nil)
}

// IPAMRelease gives a reserved address back. An unknown one fails with code 404.
func (c *Client) IPAMRelease(ctx context.Context, ip string) error {
	return c.call(ctx, request{method: "DELETE", path: "/ipam/" + url.PathEscape(ip)}, nil)
}

// PolicyGet returns the rules that carry all the labels.
func (c *Client) PolicyGet(ctx context.Context, labels ...string) (*api.Policy, error) {
	return get[*api.Policy](ctx, c, "/policy", labelQuery(labels))
}

// PolicyPut imports documents, all or none; with replace, rules of the same
// labels are replaced. A refused document fails with an *Error that lists the
// problems.
func (c *Client) PolicyPut(ctx context.Context, documents []api.PolicyDocument, replace bool) (*api.Policy, error) {
	out := new(api.Policy)
	if err := c.call(ctx, importRequest("PUT", "/policy", documents, replace), out); err != nil {
		return nil, err
	}
	return out, nil
}

func importRequest(method, path string, documents []api.PolicyDocument, replace bool) request {
	return request{
		method: method, path: path, query: url.Values{"replace": {strconv.FormatBool(replace)}},
		body:        api.PolicyImport{Documents: documents},
		contentType: "application/vnd.cilium.policy-import+json",
	}
}

// PolicyDelete removes the rules that carry all the labels.
func (c *Client) PolicyDelete(ctx context.Context, labels ...string) (*api.Policy, error) {
	return c.policyDelete(ctx, labelQuery(labels))
}

// PolicyDeleteAll removes every rule.
func (c *Client) PolicyDeleteAll(ctx context.Context) (*api.Policy, error) {
	return c.policyDelete(ctx, url.Values{"all": {"true"}})
}

func (c *Client) policyDelete(ctx context.Context, query url.Values) (*api.Policy, error) {
	out := new(api.Policy)
	if err := c.call(ctx, request{method: "DELETE", path: "/policy", query: query}, out); err != nil {
		return nil, err
	}
	return out, nil
}

// PolicyExplain asks why a packet fared as it did: that of an event, or the last
// one that policy dropped on its way from or to an endpoint. One of both is given.
func (c *Client) PolicyExplain(ctx context.Context, event, lastDrop string) (*api.PolicyExplanation, error) {
	query := url.Values{}
	if event != "" {
		query.Set("event", event)
	} else {
		query.Set("last-drop", lastDrop)
	}
	out := new(api.PolicyExplanation)
	if err := c.call(ctx, request{method: "GET", path: "/policy/explain", query: query}, out); err != nil {
		return nil, err
	}
	return out, nil
}

// PolicyLint finds what is hardly meant in the rules, as they would be after
// PolicyPut with the same arguments. Nothing is imported.
func (c *Client) PolicyLint(ctx context.Context, documents []api.PolicyDocument, replace bool) (*api.PolicyLint, error) {
	out := new(api.PolicyLint)
	if err := c.call(ctx, importRequest("POST", "/policy/lint", documents, replace), out); err != nil {
		return nil, err
	}
	return out, nil
}

// PolicyDryRun checks an import as the agent does, and answers as PolicyPut with the
// same arguments would. Nothing is imported.
func (c *Client) PolicyDryRun(ctx context.Context, documents []api.PolicyDocument, replace bool) (*api.Policy, error) {
	req := importRequest("PUT", "/policy", documents, replace)
	req.query.Set("dry-run", "true")
	out := new(api.Policy)
	if err := c.call(ctx, req, out); err != nil {
		return nil, err
	}
	return out, nil
}

// PolicySimulate tries the rules, as they would be after PolicyPut with the same
// arguments, on the flows that were recorded since so long. Nothing is imported.
func (c *Client) PolicySimulate(ctx context.Context, documents []api.PolicyDocument, replace bool, since time.Duration) (*api.PolicySimulation, error) {
	req := importRequest("POST", "/policy/simulate", documents, replace)
	req.query.Set("since", since.String())
	out := new(api.PolicySimulation)
	if err := c.call(ctx, req, out); err != nil {
		return nil, err
	}
	return out, nil
}

// PolicyHits reads what each rule decided so far.
func (c *Client) PolicyHits(ctx context.Context) (*api.PolicyHits, error) {
	out := new(api.PolicyHits)
	if err := c.call(ctx, request{method: "GET", path: "/policy/hits"}, out); err != nil {
		return nil, err
	}
	return out, nil
}

// PolicyResolve asks how a packet would fare.
func (c *Client) PolicyResolve(ctx context.Context, selector *api.TraceSelector) (*api.PolicyTraceResult, error) {
	out := new(api.PolicyTraceResult)
	if err := c.call(ctx, request{method: "POST", path: "/policy/resolve", body: selector}, out); err != nil {
		return nil, err
	}
	return out, nil
}

// MapList names the maps of the kernel.
func (c *Client) MapList(ctx context.Context) (*api.BPFMapList, error) {
	return get[*api.BPFMapList](ctx, c, "/map", nil)
}

// MapGet returns the rows of a map as keys and values.
func (c *Client) MapGet(ctx context.Context, name string) (*api.BPFMap, error) {
	return get[*api.BPFMap](ctx, c, "/map/"+url.PathEscape(name), nil)
}

// MapFlush empties a map that is a cache; Entries of the answer says how many
// rows there were.
func (c *Client) MapFlush(ctx context.Context, name string) (*api.BPFMap, error) {
	out := new(api.BPFMap)
	if err := c.call(ctx, request{method: "DELETE", path: "/map/" + url.PathEscape(name)}, out); err != nil {
		return nil, err
	}
	return out, nil
}

// TableList names all tables.
func (c *Client) TableList(ctx context.Context) (*api.TableList, error) {
	return get[*api.TableList](ctx, c, "/table", nil)
}

// Table returns one table, of the agent or of the kernel.
func (c *Client) Table(ctx context.Context, name string) (*api.Table, error) {
	return get[*api.Table](ctx, c, "/table/"+url.PathEscape(name), nil)
}

// keyPath keeps the slashes of a key, which separate path elements too.
func keyPath(key string) string {
	parts := strings.Split(strings.TrimPrefix(key, "/"), "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return "/kvstore/" + strings.Join(parts, "/")
}

// KVGet returns a key of the key-value store, or with recursive all keys that
// begin with it.
func (c *Client) KVGet(ctx context.Context, key string, recursive bool) ([]api.KeyValue, error) {
	return get[[]api.KeyValue](ctx, c, keyPath(key), recursiveQuery(recursive))
}

// KVSet writes a key of the key-value store.
func (c *Client) KVSet(ctx context.Context, key, value string) error {
	req := request{method: "PUT", path: keyPath(key), body: strings.NewReader(value), contentType: "application/octet-stream"}
	return c.call(ctx, req, nil)
}

// KVDelete removes a key of the key-value store, or with recursive all keys that
// begin with it, and returns how many there were.
func (c *Client) KVDelete(ctx context.Context, key string, recursive bool) (int, error) {
	var out api.Deleted
	err := c.call(ctx, request{method: "DELETE", path: keyPath(key), query: recursiveQuery(recursive)}, &out)
	return out.Deleted, err
}

func recursiveQuery(recursive bool) url.Values {
	if !recursive {
		return nil
	}
	return url.Values{"recursive": {"true"}}
}

func labelQuery(labels []string) url.Values {
	if len(labels) == 0 {
		return nil
	}
	return url.Values{"labels": labels}
}
