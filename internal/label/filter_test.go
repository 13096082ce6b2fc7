// SPDX-License-Identifier: Apache-2.0

package label_test

import (
	"strings"
	"testing"

	"cilium.local/cilium/internal/label"
)

func TestFilterKeepsWhatTellsWorkloadsApart(t *testing.T) {
	tests := []struct {
		name, specs, kept, dropped string
	}{
		{
			"defaults", "",
			"container:com.docker.compose.project=p container:com.docker.compose.service=web container:id=app1 " +
				"container:io.cilium.port.web=80/tcp k8s:app.kubernetes.io/name=x k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=n " +
				"k8s:io.kubernetes.pod.namespace=n reserved:init",
			"container:com.docker.compose.config-hash=1 container:com.docker.compose.project.config_files=f " +
				"container:maintainer=m container:org.opencontainers.image.version=1 " +
				"k8s:annotation.a=b k8s:beta.kubernetes.io/arch=amd64 k8s:controller-revision-hash=1 " +
				"k8s:io.kubernetes.pod.name=p k8s:kubernetes.io/a=b k8s:pod-template-hash=1 k8s:topology.kubernetes.io/zone=z",
		},
		{
			"what differs at each start", "",
			"container:com.docker.compose.project=p container:com.docker.compose.service=web container:com.docker.swarm.service.name=s " +
				"container:com.hashicorp.nomad.job_name=j container:com.hashicorp.nomad.task_name=t container:io.podman.compose.project=p",
			"container:PODMAN_SYSTEMD_UNIT=u@1.service container:com.docker.compose.container-number=1 " +
				"container:com.docker.compose.depends_on=db container:com.docker.compose.oneoff=False container:com.docker.compose.replace=r " +
				"container:com.docker.compose.slug=s container:com.docker.swarm.node.id=n container:com.docker.swarm.task " +
				"container:com.docker.swarm.task.id=t container:com.docker.swarm.task.name=s.1.t container:com.hashicorp.nomad.alloc_id=1 " +
				"container:com.hashicorp.nomad.node_id=1 container:desktop.docker.io/binds/0/Source=s container:io.containerd.image.config.stop-signal=15 " +
				"container:io.cri-containerd.kind=sandbox container:io.podman.compose.config-hash=1 container:nerdctl/state-dir=d",
		},
		{
			"keys that only begin like bookkeeping", "",
			"container:com.docker.compose.imagery=i container:com.docker.compose.slugs=s container:maintainers=us container:org.label-schemas=x", "",
		},
		{
			"more is left out", "!id !k8s:env",
			"container:env=x container:name=n", "container:id=1 k8s:env=x",
		},
		{
			"only what is named is kept, and what is reserved", "id k8s:app",
			"container:id=1 container:io.cilium.port.web=80/tcp k8s:app=a reserved:host", "container:app=a container:name=n",
		},
		{
			"the first spec that matches decides", "!k8s:app.secret k8s:app",
			"k8s:app.name=a", "k8s:app.secret=b k8s:other=c",
		},
		{
			"a default is overruled", "k8s:pod-template-",
			"k8s:pod-template-hash=1", "k8s:app=a",
		},
		{"a whole source", "!container:", "k8s:id=1", "container:id=1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f, err := label.NewFilter(strings.Fields(test.specs))
			if err != nil {
				t.Fatal(err)
			}
			kept, dropped := f.Apply(set(t, test.kept+" "+test.dropped))
			if kept.String() != test.kept || dropped.String() != test.dropped {
				t.Errorf("kept %s\ndropped %s", kept, dropped)
			}
		})
	}
}

func TestFilterRefusesSpecsThatSayNothing(t *testing.T) {
	for spec, want := range map[string]string{
		"": `label filter "": write [!][source:]prefix`, "!": `label filter "!": write [!][source:]prefix`,
		" ": `label filter " ": write [!][source:]prefix`,
	} {
		if _, err := label.NewFilter([]string{spec}); err == nil || err.Error() != want {
			t.Errorf("%q: %v", spec, err)
		}
	}
}
