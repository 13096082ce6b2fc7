// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// EnsureBPFFS makes the folder dir and mounts a BPF file system on it, unless it
// is on one already. It mounts nowhere else.
func EnsureBPFFS(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		if inSysfs(dir) {
			return fmt.Errorf("make the folder %s: %w: mount the BPF file system first (mount -t bpf bpf /sys/fs/bpf), or choose a folder elsewhere", dir, err)
		}
		return fmt.Errorf("make the folder %s: %w", dir, err)
	}
	mounted, err := isBPFFS(dir)
	if err != nil || mounted {
		return err
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a BPF file system on %s: %w (are you root, and is CONFIG_BPF_SYSCALL on?)", dir, err)
	}
	return nil
}

func isBPFFS(dir string) (bool, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return false, fmt.Errorf("find out the file system of %s: %w", dir, err)
	}
	return uint32(stat.Type) == unix.BPF_FS_MAGIC, nil
}

// inSysfs tells whether the nearest folder that exists is in sysfs, where no
// folders can be made.
func inSysfs(dir string) bool {
	for {
		var stat unix.Statfs_t
		err := unix.Statfs(dir, &stat)
		if err == nil {
			return stat.Type == unix.SYSFS_MAGIC
		}
		if !errors.Is(err, unix.ENOENT) || dir == "/" {
			return false
		}
		dir = filepath.Dir(dir)
	}
}
