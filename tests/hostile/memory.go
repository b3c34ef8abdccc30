package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// anonymous is the resident anonymous memory of a process, in bytes.
func anonymous(pid int) int64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		if rest, found := strings.CutPrefix(line, "RssAnon:"); found {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}

// peak watches a process's anonymous memory.
type peak struct {
	most atomic.Int64
	stop chan struct{}
	done chan struct{}
}

func watchMemory(pid int) *peak {
	p := &peak{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for {
			p.most.Store(max(p.most.Load(), anonymous(pid)))
			select {
			case <-p.stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return p
}

func (p *peak) finish() int64 {
	close(p.stop)
	<-p.done
	return p.most.Load()
}
