package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cgroup is a group of our own with a limit of memory.
type cgroup struct {
	folder string
	usage  string
}

// newCgroup makes one, below the memory controller of version 1 or in the tree of version 2.
func newCgroup(bytes int64) (*cgroup, error) {
	name := fmt.Sprintf("ringstone-test-%d", os.Getpid())
	for _, kind := range []struct{ root, limit, usage string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"},
		{"/sys/fs/cgroup", "memory.max", "memory.current"},
	} {
		folder := filepath.Join(kind.root, name)
		if os.Mkdir(folder, 0o755) != nil {
			continue
		}
		group := &cgroup{folder, filepath.Join(folder, kind.usage)}
		if os.WriteFile(filepath.Join(folder, kind.limit), []byte(strconv.FormatInt(bytes, 10)), 0) != nil {
			group.remove()
			continue
		}
		interrupted := make(chan os.Signal, 1)
		signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
		go func() {
			<-interrupted
			// The server ends with us; its group goes when it is empty.
			group.end()
			group.remove()
			os.Exit(1)
		}()
		return group, nil
	}
	return nil, errors.New("no cgroup with a limit of memory can be made here: it needs root")
}

// command writes a script that runs the program inside of the group.
func (c *cgroup) command(folder, program string) (string, error) {
	path := filepath.Join(folder, "inside")
	script := fmt.Sprintf("#!/bin/sh\necho $$ > '%s/cgroup.procs' || exit 1\nexec '%s' serve \"$@\"\n", c.folder, program)
	return path, os.WriteFile(path, []byte(script), 0o755)
}

// end kills what is left inside of the group, which holds only what we have started.
func (c *cgroup) end() {
	content, _ := os.ReadFile(filepath.Join(c.folder, "cgroup.procs"))
	for _, line := range strings.Fields(string(content)) {
		if pid, err := strconv.Atoi(line); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func (c *cgroup) remove() {
	for range 100 {
		if err := os.Remove(c.folder); err == nil || os.IsNotExist(err) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Println("the cgroup could not be removed:", c.folder)
}

func (c *cgroup) usageMiB() int64 {
	content, _ := os.ReadFile(c.usage)
	bytes, _ := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
	return bytes >> 20
}
