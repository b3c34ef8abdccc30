// Package loopdisk makes disks of files: ext4 on a loop device. It needs root.
package loopdisk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Disk is a file with ext4 on it, and where it is mounted.
type Disk struct {
	File, Mount string
}

// In names a disk below a folder; Make makes it.
func In(folder string) Disk {
	return Disk{filepath.Join(folder, "disk"), filepath.Join(folder, "mount")}
}

// Command runs a program; its error has what the program printed.
func Command(name string, arguments ...string) error {
	output, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, output)
	}
	return nil
}

// Make makes the file, sparse and of so many bytes, its file system, and the folder to mount it at.
func (d Disk) Make(bytes int64) error {
	file, err := os.Create(d.File)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Truncate(bytes), file.Close(), os.MkdirAll(d.Mount, 0o700)); err != nil {
		return err
	}
	return Command("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", d.File)
}

// On mounts it; the loop device goes when it is unmounted.
func (d Disk) On() error { return Command("mount", "-o", "loop", d.File, d.Mount) }

// Off unmounts it once nobody holds it any more: a killed process's io_uring requests end a moment after it does.
func (d Disk) Off() error {
	var err error
	for range 500 {
		if err = syscall.Unmount(d.Mount, 0); !errors.Is(err, syscall.EBUSY) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}
