package loopdisk

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

const (
	ext4Shutdown       = 0x8004587d
	shutdownNoLogFlush = 2
)

// CutPower drops what is not on the disk; from then on every request to the file system fails until it is mounted anew.
//
// A sync that is under way meanwhile can return success with nothing on disk: whoever may tell somebody of it must be stopped before.
func (d Disk) CutPower() error {
	folder, err := os.Open(d.Mount)
	if err != nil {
		return err
	}
	defer folder.Close()
	flags := uint32(shutdownNoLogFlush)
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, folder.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&flags)))
	if errno != 0 {
		return fmt.Errorf("EXT4_IOC_SHUTDOWN: %w", errno)
	}
	return nil
}
