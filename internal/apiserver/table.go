// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"cilium.local/cilium/api"
)

func (s *Server) getTables(*http.Request) (int, any, error) {
	list := api.TableList{Tables: []api.Table{}}
	for _, t := range s.agent.Tables.Tables() {
		list.Tables = append(list.Tables, api.Table{Name: t.Name, Kernel: t.Kernel})
	}
	return http.StatusOK, list, nil
}

func (s *Server) getTable(r *http.Request) (int, any, error) {
	table, err := s.agent.Tables.Table(r.Context(), r.PathValue("name"))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, table, nil
}

// getMaps lists the tables that lie in the kernel.
func (s *Server) getMaps(r *http.Request) (int, any, error) {
	list := api.BPFMapList{Maps: []api.BPFMap{}}
	for _, t := range s.agent.Tables.Tables() {
		if !t.Kernel {
			continue
		}
		table, err := s.agent.Tables.Table(r.Context(), t.Name)
		if err != nil {
			return 0, nil, err
		}
		list.Maps = append(list.Maps, api.BPFMap{Path: t.Name, Entries: len(table.Rows)})
	}
	return http.StatusOK, list, nil
}

// kernelTable checks that the path names a map of the kernel.
func (s *Server) kernelTable(r *http.Request) (string, error) {
	name := r.PathValue("name")
	var known []string
	for _, t := range s.agent.Tables.Tables() {
		if t.Kernel && t.Name == name {
			return name, nil
		}
		if t.Kernel {
			known = append(known, t.Name)
		}
	}
	return "", fmt.Errorf("%w: no map %q; there are %s", ErrNotFound, name, strings.Join(known, ", "))
}

func (s *Server) getMap(r *http.Request) (int, any, error) {
	name, err := s.kernelTable(r)
	if err != nil {
		return 0, nil, err
	}
	table, err := s.agent.Tables.Table(r.Context(), name)
	if err != nil {
		return 0, nil, err
	}
	m := api.BPFMap{Path: name, Entries: len(table.Rows), Cache: []api.BPFMapEntry{}}
	for _, row := range table.Rows {
		m.Cache = append(m.Cache, mapEntry(table, row))
	}
	return http.StatusOK, m, nil
}

// mapEntry joins the cells of a row into a key and a value.
func mapEntry(table *api.Table, row []string) api.BPFMapEntry {
	keys := min(max(table.Keys, 1), len(row))
	var value []string
	for i := keys; i < len(row) && i < len(table.Columns); i++ {
		if row[i] != "" {
			value = append(value, strings.ToLower(table.Columns[i])+"="+row[i])
		}
	}
	return api.BPFMapEntry{Key: strings.Join(row[:keys], " "), Value: strings.Join(value, " ")}
}

// deleteMap empties a map that is only a cache.
func (s *Server) deleteMap(r *http.Request) (int, any, error) {
	name, err := s.kernelTable(r)
	if err != nil {
		return 0, nil, err
	}
	n, err := s.agent.Tables.Flush(r.Context(), name)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, api.BPFMap{Path: name, Entries: n}, nil
}

// getKey returns one key, or with recursive=true all below it.
func (s *Server) getKey(r *http.Request) (int, any, error) {
	key := r.PathValue("key")
	if r.URL.Query().Get("recursive") == "true" {
		list, err := s.agent.Store.List(r.Context(), key)
		if err != nil {
			return 0, nil, err
		}
		if list == nil {
			list = []api.KeyValue{}
		}
		return http.StatusOK, list, nil
	}
	if key == "" {
		return 0, nil, badRequest("key", "no key given: name one, or ask for all below a prefix with recursive=true")
	}
	value, err := s.agent.Store.Get(r.Context(), key)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, []api.KeyValue{{Key: key, Value: value}}, nil
}

// putKey writes the body as the value of a key.
func (s *Server) putKey(r *http.Request) (int, any, error) {
	key := r.PathValue("key")
	if key == "" {
		return 0, nil, badRequest("key", "no key given")
	}
	value, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("read the value from the request: %w", err)
	}
	return http.StatusOK, nil, s.agent.Store.Set(r.Context(), key, string(value))
}

// deleteKey removes a key, or with recursive=true all that begin with it.
func (s *Server) deleteKey(r *http.Request) (int, any, error) {
	key := r.PathValue("key")
	if key == "" {
		return 0, nil, badRequest("key", "no key given: the whole store is not deleted at once")
	}
	n, err := s.agent.Store.Delete(r.Context(), key, r.URL.Query().Get("recursive") == "true")
	if err != nil {
		return 0, nil, err
	}
	if n == 0 {
		return 0, nil, fmt.Errorf("%w: no key %s", ErrNotFound, key)
	}
	return http.StatusOK, api.Deleted{Deleted: n}, nil
}
