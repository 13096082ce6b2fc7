// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"cilium.local/cilium/test/lab"
)

// httpClient is a client of a node's agent, which keeps its connection.
func httpClient(node *lab.Node) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", node.Socket)
		},
	}}
}

// importRules imports rules on a node, and returns when they are accepted.
func importRules(ctx context.Context, node *lab.Node, rules string) error {
	client := httpClient(node)
	defer client.CloseIdleConnections()
	return put(ctx, client, rules)
}

// put replaces the rules that have the same labels.
func put(ctx context.Context, api *http.Client, rules string) error {
	return call(ctx, api, http.MethodPut, "/v1/policy?replace=true", rules)
}

// post adds rules to those that are there.
func post(ctx context.Context, api *http.Client, rules string) error {
	return call(ctx, api, http.MethodPut, "/v1/policy", rules)
}

func removeRules(ctx context.Context, api *http.Client) error {
	return call(ctx, api, http.MethodDelete, "/v1/policy?all=true", "")
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
