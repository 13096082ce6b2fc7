// SPDX-License-Identifier: Apache-2.0

// Package apiserver answers the agent's REST API on its unix socket. It turns
// requests into calls of the agent and what comes back into the models of
// package api; it decides nothing itself. api/openapi.yaml describes every
// route, and a test holds the two together.
package apiserver
