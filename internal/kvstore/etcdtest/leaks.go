// SPDX-License-Identifier: Apache-2.0

package etcdtest

import "go.uber.org/goleak"

// Leftovers are what members leave behind in a process for a moment, or for
// good: connections between them, which end by themselves, and a log.
func Leftovers() []goleak.Option {
	var all []goleak.Option
	for _, function := range []string{
		"net/http.(*persistConn).readLoop", "net/http.(*persistConn).writeLoop",
		"net/http.(*conn).serve", "net/http.(*connReader).backgroundRead",
		"go.etcd.io/etcd/client/pkg/v3/logutil.NewMergeLogger",
	} {
		all = append(all, goleak.IgnoreAnyFunction(function))
	}
	return all
}
