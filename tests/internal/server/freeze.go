package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Freeze stops the process and waits until none of its threads runs. SIGCONT lets it go on.
func (s *Server) Freeze() error {
	if err := s.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	// A thread that waits for the disk stops only after that.
	for began := time.Now(); time.Since(began) < time.Minute; {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.Pid()))
		if err != nil || len(tasks) == 0 {
			return fmt.Errorf("process %d is gone", s.Pid())
		}
		if allStopped(tasks) {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("process %d does not stop", s.Pid())
}

func allStopped(tasks []string) bool {
	for _, task := range tasks {
		stat, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		// io_uring's own workers are not stopped by signals: they serve requests, and tell nobody.
		if strings.Contains(string(stat), "(iou-") {
			continue
		}
		if !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return true
}
