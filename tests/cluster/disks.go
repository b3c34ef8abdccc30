package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// diskBytes of each member's disk; sparse. A member refuses puts while less than two segments and a checkpoint are free.
const diskBytes = 2 << 30

// disk is a file with ext4 on it, mounted by loop.
type disk struct {
	file, mount string
}

func command(name string, arguments ...string) error {
	output, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, output)
	}
	return nil
}

// newDisk makes and mounts a disk below a folder. The mounts are in the namespace that the script has made, and go with it.
func newDisk(folder string) (*disk, error) {
	d := &disk{filepath.Join(folder, "disk"), filepath.Join(folder, "mount")}
	file, err := os.Create(d.file)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(file.Truncate(diskBytes), file.Close(), os.Mkdir(d.mount, 0o700)); err != nil {
		return nil, err
	}
	if err := command("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", d.file); err != nil {
		return nil, err
	}
	return d, command("mount", "-o", "loop", d.file, d.mount)
}

// off unmounts it once nobody holds it any more: a killed process's io_uring requests end a moment after it does.
func (d *disk) off() error {
	var err error
	for range 500 {
		if err = syscall.Unmount(d.mount, 0); !errors.Is(err, syscall.EBUSY) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// freeze lets nothing be written for so long: who writes or syncs waits. The function that it returns waits for the end.
//
// A process of its own does it, which no signal of this one's terminal reaches: a file system that stays frozen can't be got
// rid of any more.
func (d *disk) freeze(lasts time.Duration) (thawed func() error, err error) {
	const script = `trap '' INT TERM HUP; fsfreeze -f "$0" || exit 1; echo frozen; sleep "$1"; fsfreeze -u "$0"`
	helper := exec.Command("sh", "-c", script, d.mount, fmt.Sprintf("%.3f", lasts.Seconds()))
	helper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	said, err := helper.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := helper.Start(); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(said).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("fsfreeze %s: %w", d.mount, errors.Join(err, helper.Wait()))
	}
	return helper.Wait, nil
}

// fill takes all the room that there is, for so long.
func (d *disk) fill() (undo func() error, err error) {
	path := filepath.Join(d.mount, "ballast")
	var room syscall.Statfs_t
	if err := syscall.Statfs(d.mount, &room); err != nil {
		return nil, err
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	// What its own metadata takes is found out by trying.
	for bytes := int64(room.Bavail) * room.Bsize; bytes > 0; bytes -= 1 << 20 {
		err = syscall.Fallocate(int(file.Fd()), 0, 0, bytes)
		if !errors.Is(err, syscall.ENOSPC) {
			break
		}
	}
	return func() error { return os.Remove(path) }, err
}
