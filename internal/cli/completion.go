// SPDX-License-Identifier: Apache-2.0

package cli

import "github.com/spf13/cobra"

func (t *tool) completion() *cobra.Command {
	return &cobra.Command{
		Use:   "completion [bash|zsh|fish]",
		Short: "Print the script that lets a shell complete the commands; bash unless another is named",
		Example: `  source <(cilium completion bash)
  cilium completion zsh > "${fpath[1]}/_cilium"`,
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			shell := "bash"
			switch len(args) {
			case 0:
			case 1:
				shell = args[0]
			default:
				return usage("%q is one argument too many", args[1])
			}
			root := cmd.Root()
			switch shell {
			case "bash":
				return root.GenBashCompletionV2(t.Out, true)
			case "zsh":
				return root.GenZshCompletion(t.Out)
			case "fish":
				return root.GenFishCompletion(t.Out, true)
			}
			return usage("shell %q: use bash, zsh or fish", shell)
		},
	}
}
