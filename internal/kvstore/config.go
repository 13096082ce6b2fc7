// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"go.yaml.in/yaml/v3"
)

// ReadConfig reads how a store is reached from a file in etcd's own client form.
func ReadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	var file struct {
		Endpoints []string `yaml:"endpoints"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	if len(file.Endpoints) == 0 {
		return Config{}, errors.New(path + ": endpoints: name at least one URL")
	}
	return Config{Endpoints: file.Endpoints}, nil
}
