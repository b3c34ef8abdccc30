package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"ringstone.test/internal/loopdisk"
)

// diskBytes of each member's disk; sparse. A member refuses puts while less than two segments and a checkpoint are free.
const diskBytes = 2 << 30

type disk struct{ loopdisk.Disk }

// newDisk makes and mounts a disk below a folder. The mounts are in the namespace that the script has made, and go with it.
func newDisk(folder string) (*disk, error) {
	d := &disk{loopdisk.In(folder)}
	if err := d.Make(diskBytes); err != nil {
		return nil, err
	}
	return d, d.On()
}

// freeze lets nothing be written for so long: who writes or syncs waits. The function that it returns waits for the end.
//
// A process of its own does it, which no signal of this one's terminal reaches: a file system that stays frozen can't be got
// rid of any more.
func (d *disk) freeze(lasts time.Duration) (thawed func() error, err error) {
	const script = `trap '' INT TERM HUP; fsfreeze -f "$0" || exit 1; echo frozen; sleep "$1"; fsfreeze -u "$0"`
	helper := exec.Command("sh", "-c", script, d.Mount, fmt.Sprintf("%.3f", lasts.Seconds()))
	helper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	said, err := helper.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := helper.Start(); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(said).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("fsfreeze %s: %w", d.Mount, errors.Join(err, helper.Wait()))
	}
	return helper.Wait, nil
}

// fill takes all the room that there is, for so long.
func (d *disk) fill() (undo func() error, err error) {
	path := filepath.Join(d.Mount, "ballast")
	var room syscall.Statfs_t
	if err := syscall.Statfs(d.Mount, &room); err != nil {
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
