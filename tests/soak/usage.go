package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is what a process has taken.
type usage struct {
	cpu                 time.Duration
	anonymous, resident int64
}

// usageOf reads /proc; a process that is gone has taken nothing.
func usageOf(pid int) usage {
	var u usage
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		user, _ := strconv.ParseInt(fields[11], 10, 64)
		system, _ := strconv.ParseInt(fields[12], 10, 64)
		// A clock tick is 10 ms on every Linux that Go runs on.
		u.cpu = time.Duration(user+system) * 10 * time.Millisecond
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		figure := strings.Fields(rest)
		if len(figure) == 0 {
			continue
		}
		kib, _ := strconv.ParseInt(figure[0], 10, 64)
		switch name {
		case "RssAnon":
			u.anonymous = kib << 10
		case "VmRSS":
			u.resident = kib << 10
		}
	}
	return u
}
