package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"ringstone.test/internal/server"
)

// store is a server with a number of keys, and what was measured of it.
type store struct {
	program    string
	keys       int
	valueBytes int
	server     *server.Server

	restarts      []time.Duration
	replayedMiB   []float64
	anonymousPeak int64
	idleBytes     int64
	idleCore      float64
}

func newStore(program string, keys, valueBytes, memoryLimit int) (*store, error) {
	folder, err := server.TemporaryFolder("size-")
	if err != nil {
		return nil, err
	}
	flags := []string{"--quota-backend-bytes=-1", "--log-level=info"}
	if memoryLimit > 0 {
		flags = append(flags, fmt.Sprintf("--memory-limit=%d", memoryLimit))
	}
	child, err := server.New(program+" serve", folder, flags...)
	if err != nil {
		return nil, err
	}
	return &store{program: program, keys: keys, valueBytes: valueBytes, server: child}, nil
}

func (s *store) remove() {
	s.server.Kill()
	_ = os.RemoveAll(s.server.Folder)
}

func (s *store) String() string {
	return fmt.Sprintf("%d keys: restart median %v of %v, replayed MiB %.1f, anonymous memory at most %d MiB",
		s.keys, s.median().Round(time.Millisecond), s.restarts, s.replayedMiB, s.anonymousPeak>>20)
}

func (s *store) median() time.Duration {
	sorted := slices.Sorted(slices.Values(s.restarts))
	return sorted[len(sorted)/2]
}

func (s *store) restart() float64 { return s.median().Seconds() }

func (s *store) bench(arguments ...string) *exec.Cmd {
	words := append([]string{"bench", "put", "--endpoint", s.server.Endpoint, "--keys", strconv.Itoa(s.keys),
		"--value-bytes", strconv.Itoa(s.valueBytes)}, arguments...)
	load := exec.Command(s.program, words...)
	load.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return load
}

// fill puts all keys.
func (s *store) fill() error {
	if err := s.server.Start(30 * time.Second); err != nil {
		return err
	}
	stop := s.watchMemory()
	defer stop()
	began := time.Now()
	output, err := s.bench("--duration", "1s", "--warm-up", "0s").CombinedOutput()
	if err != nil {
		return fmt.Errorf("filling with %d keys: %w\n%s%s", s.keys, err, output, s.server.LogTail())
	}
	fmt.Printf("%d keys put in %v\n", s.keys, time.Since(began).Round(100*time.Millisecond))
	return nil
}

// killUnderLoad ends the server in the middle of puts to random keys, and starts it again.
func (s *store) killUnderLoad(kill int, pause time.Duration) error {
	defer s.watchMemory()()
	load := s.bench("--no-preload", "--duration", "60s", "--seed", strconv.Itoa(kill+1))
	if err := load.Start(); err != nil {
		return err
	}
	time.Sleep(pause)
	s.server.Kill()
	_ = load.Process.Kill()
	_ = load.Wait()
	began := time.Now()
	if err := s.server.Start(120 * time.Second); err != nil {
		return err
	}
	took := time.Since(began)
	replayed, err := s.lastReplay()
	if err != nil {
		return err
	}
	s.restarts = append(s.restarts, took.Round(time.Millisecond))
	s.replayedMiB = append(s.replayedMiB, replayed)
	fmt.Printf("kill %d, %d keys, after %v: serving again after %v, %.1f MiB of log replayed\n",
		kill, s.keys, pause.Round(time.Millisecond), took.Round(time.Millisecond), replayed)
	return nil
}

// lastReplay reads from the log what the last start said that it replays, in MiB.
func (s *store) lastReplay() (float64, error) {
	content, err := os.ReadFile(filepath.Join(s.server.Folder, "log"))
	if err != nil {
		return 0, err
	}
	lines := bytes.Split(content, []byte("\n"))
	for _, line := range slices.Backward(lines) {
		var opened struct {
			Msg   string `json:"msg"`
			Bytes *int64 `json:"replayed-bytes"`
		}
		if json.Unmarshal(line, &opened) == nil && opened.Msg == "log and page file opened" && opened.Bytes != nil {
			return float64(*opened.Bytes) / (1 << 20), nil
		}
	}
	return 0, fmt.Errorf("the log does not say what was replayed\n%s", s.server.LogTail())
}

// watchMemory records the peak of anonymous memory until it is stopped.
func (s *store) watchMemory() (stop func()) {
	var stopped atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stopped.Load() {
			if kib, err := s.procField("status", "RssAnon:"); err == nil {
				s.anonymousPeak = max(s.anonymousPeak, kib<<10)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return func() {
		stopped.Store(true)
		<-done
	}
}

func (s *store) procField(file, field string) (int64, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", s.server.Pid(), file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == field {
			return strconv.ParseInt(words[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("no %s in %s", field, file)
}

// idle measures a server that nobody asks anything.
func (s *store) idle() error {
	const settle, span = 5 * time.Second, 10 * time.Second
	time.Sleep(settle)
	before, err := s.procField("io", "write_bytes:")
	if err != nil {
		return err
	}
	busy, err := s.cpu()
	if err != nil {
		return err
	}
	time.Sleep(span)
	after, err := s.procField("io", "write_bytes:")
	if err != nil {
		return err
	}
	busyAfter, err := s.cpu()
	s.idleBytes = after - before
	s.idleCore = (busyAfter - busy).Seconds() / span.Seconds()
	return err
}

// cpu is the process's time on a core so far.
func (s *store) cpu() (time.Duration, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.server.Pid()))
	if err != nil {
		return 0, err
	}
	var total int64
	for _, thread := range threads {
		content, err := os.ReadFile(thread)
		if err != nil {
			continue
		}
		ns, err := strconv.ParseInt(strings.Fields(string(content))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		total += ns
	}
	return time.Duration(total), nil
}
