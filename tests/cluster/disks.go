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
func (d *disk) freeze(lasts time.Duration) (thawed func() error, err error) {
	return d.freezes(1, lasts)
}

// slowSync is what a request to a slow disk waits for, at most; slowPause is how long requests go through in between.
const slowSync, slowPause = 60 * time.Millisecond, 10 * time.Millisecond

// slow lets all that is written wait for up to slowSync, again and again.
func (d *disk) slow(lasts time.Duration) (fast func() error, err error) {
	return d.freezes(int(lasts/(slowSync+slowPause))+1, slowSync)
}

// freezes the file system so many times, for so long each.
//
// A process of its own does it, which no signal of this one's terminal reaches: a file system that stays frozen can't be got
// rid of any more.
func (d *disk) freezes(times int, each time.Duration) (thawed func() error, err error) {
	const script = `trap '' INT TERM HUP; n=$2
while fsfreeze -f "$0" || exit 1; do
    [ "$n" != "$2" ] || echo frozen
    sleep "$1"; fsfreeze -u "$0" || exit 1
    n=$((n - 1)); [ "$n" != 0 ] || exit 0
    sleep "$3"
done`
	helper := exec.Command("sh", "-c", script, d.Mount, seconds(each), fmt.Sprint(times), seconds(slowPause))
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

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }

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

func (t *test) standsStill(who int, lasts time.Duration) error {
	thawed, err := t.cluster.disks[who].freeze(lasts)
	if err != nil {
		return err
	}
	return thawed()
}

func (t *test) isSlow(who int, lasts time.Duration) error {
	fast, err := t.cluster.disks[who].slow(lasts)
	if err != nil {
		return err
	}
	return fast()
}

func (t *test) isFull(load *load, s scene, who int) error {
	undo, err := t.cluster.disks[who].fill()
	if err != nil {
		return err
	}
	// The member looks at its disk now and then, and must meet the end of it.
	time.Sleep(s.lasts)
	if who != s.leader {
		err = t.written(load)
	}
	return errors.Join(err, undo())
}

// powerCut takes what was not synced from the disks of some members, with the members.
func (t *test) powerCut(lasts time.Duration, who ...int) error {
	// Stopped first: nobody tells of a sync that is under way at the cut.
	for _, i := range who {
		if err := t.cluster.members[i].Freeze(); err != nil {
			return err
		}
	}
	for _, i := range who {
		if err := t.cluster.disks[i].CutPower(); err != nil {
			return err
		}
		t.cluster.members[i].Kill()
	}
	time.Sleep(lasts)
	return t.remounted(who...)
}

func (t *test) remounted(who ...int) error {
	for _, i := range who {
		disk := t.cluster.disks[i]
		if err := errors.Join(disk.Off(), disk.On(), t.cluster.members[i].Launch()); err != nil {
			return err
		}
	}
	return nil
}

const (
	// diskFailed is the exit status of a member whose disk has failed (docs/operations.md).
	diskFailed = 16
	// syncsEnd is more than any sync of a healthy disk takes.
	syncsEnd = 200 * time.Millisecond
)

// fails lets every request to a disk fail from now on. The member must end and name the disk, the others go on; then the disk
// works again, with what was synced.
func (t *test) fails(load *load, s scene, who int) error {
	member, disk := t.cluster.members[who], t.cluster.disks[who]
	// A sync that is under way at the cut can return success with nothing on disk, which no disk that fails does.
	if err := member.Freeze(); err != nil {
		return err
	}
	time.Sleep(syncsEnd)
	if err := errors.Join(disk.CutPower(), member.Signal(syscall.SIGCONT)); err != nil {
		return err
	}
	select {
	case <-member.Exited():
	case <-time.After(patience):
		return fmt.Errorf("member %d does not end though its disk has failed\n%s", who, member.LogTail())
	}
	if !t.isEtcd() && (member.ExitCode() != diskFailed || !strings.Contains(member.LogTail(), disk.Mount)) {
		return fmt.Errorf("member %d ends with status %d, not %d, or does not name its disk\n%s", who, member.ExitCode(), diskFailed, member.LogTail())
	}
	if len(t.cluster.members) > 2 {
		if err := t.written(load); err != nil {
			return err
		}
	}
	time.Sleep(s.lasts)
	return t.remounted(who)
}
