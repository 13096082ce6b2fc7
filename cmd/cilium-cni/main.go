// SPDX-License-Identifier: Apache-2.0

// Command cilium-cni is the CNI plugin. A container runtime starts it for every
// operation; it calls the node's agent.
package main

import (
	"github.com/containernetworking/cni/pkg/skel"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"cilium.local/cilium/internal/cni"
	"cilium.local/cilium/internal/version"
)

func main() {
	skel.PluginMainFuncs(cni.Functions(), cniversion.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"),
		"cilium-cni "+version.Text()+": connects containers through the node's cilium-agent")
}
