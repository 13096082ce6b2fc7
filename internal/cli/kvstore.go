// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func (t *tool) kvstore() *cobra.Command {
	return group("kvstore", "Read and write the key-value store through the agent", t.kvstoreGet(), t.kvstoreSet(), t.kvstoreDelete())
}

const keyArg = "KEY, such as cilium/state/identities/v1/id/1000"

func (t *tool) kvstoreGet() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use:     "get KEY",
		Short:   "Print the value of a key, or with --recursive all that begin with it",
		Example: "  cilium kvstore get --recursive cilium/state/",
		Args:    exactArgs(keyArg),
	}
	cmd.Flags().BoolVar(&recursive, "recursive", false, "all keys that begin with KEY, with their values")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := t.client()
		defer c.Close()
		list, err := c.KVGet(cmd.Context(), args[0], recursive)
		if err != nil {
			return err
		}
		return out.print(t.Out, list, func(w io.Writer) {
			for _, kv := range list {
				if recursive {
					fmt.Fprintf(w, "%s => %s\n", kv.Key, kv.Value)
				} else {
					fmt.Fprintln(w, kv.Value)
				}
			}
		})
	}
	return cmd
}

func (t *tool) kvstoreSet() *cobra.Command {
	return &cobra.Command{
		Use:   "set KEY VALUE",
		Short: "Write a key",
		Args:  exactArgs(keyArg, "VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := t.client()
			defer c.Close()
			return c.KVSet(cmd.Context(), args[0], args[1])
		},
	}
}

func (t *tool) kvstoreDelete() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use:   "delete KEY",
		Short: "Remove a key, or with --recursive all that begin with it",
		Args:  exactArgs(keyArg),
	}
	cmd.Flags().BoolVar(&recursive, "recursive", false, "all keys that begin with KEY")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := t.client()
		defer c.Close()
		n, err := c.KVDelete(cmd.Context(), args[0], recursive)
		if err != nil {
			return err
		}
		fmt.Fprintf(t.Out, "Keys removed: %d\n", n)
		return nil
	}
	return cmd
}
