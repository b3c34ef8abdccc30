// Package server starts, stops and kills a server under test as a child process. Anything that takes etcd's flags will
// do: etcd itself, or `ringstone serve`.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Server is one child process with its data folder and its ports, which stay the same across restarts.
type Server struct {
	// Endpoint is the client address, host:port.
	Endpoint string
	// PeerURL is the address that the member's id follows from.
	PeerURL string
	// Folder holds the data folder and the log file.
	Folder string
	// Data is the data folder; it need not exist before the first start.
	Data string

	command []string
	flags   []string
	start   func(*exec.Cmd) error
	child   *exec.Cmd
	exited  chan struct{}
	pid     atomic.Int64
}

// Place is where a member runs.
type Place struct {
	// Folder exists; the log file goes there.
	Folder string
	// Data is the data folder; where empty, it is below Folder.
	Data string
	// Host is an address of the member's own, on which it has etcd's usual ports; where empty, it has free ports of loopback.
	Host string
	// Start starts the process, where that is not done by Start of the command itself.
	Start func(*exec.Cmd) error
}

// New prepares a server in an existing empty folder. The command may hold arguments, as in "target/release/ringstone
// serve"; flags come after the ones set here.
func New(command, folder string, flags ...string) (*Server, error) {
	alone, err := NewMembers(command, []Place{{Folder: folder}}, flags...)
	if err != nil {
		return nil, err
	}
	return alone[0], nil
}

// NewCluster prepares the members m0, m1, ... of a new cluster, each in a folder of its own below an existing one.
func NewCluster(command, folder string, members int, flags ...string) ([]*Server, error) {
	places := make([]Place, members)
	for i := range places {
		places[i].Folder = filepath.Join(folder, fmt.Sprintf("m%d", i))
		if err := os.Mkdir(places[i].Folder, 0o755); err != nil {
			return nil, err
		}
	}
	return NewMembers(command, places, flags...)
}

// NewMembers prepares the members m0, m1, ... of a new cluster, each at a place.
func NewMembers(command string, places []Place, flags ...string) ([]*Server, error) {
	servers := make([]*Server, len(places))
	var cluster []string
	for i, place := range places {
		client, peer := place.Host+":2379", place.Host+":2380"
		if place.Host == "" {
			var err error
			if client, err = freePort(); err != nil {
				return nil, err
			}
			if peer, err = freePort(); err != nil {
				return nil, err
			}
		}
		data := place.Data
		if data == "" {
			data = filepath.Join(place.Folder, "data")
		}
		start := place.Start
		if start == nil {
			start = (*exec.Cmd).Start
		}
		servers[i] = &Server{Endpoint: client, PeerURL: "http://" + peer, Folder: place.Folder, Data: data, command: strings.Fields(command), start: start}
		cluster = append(cluster, fmt.Sprintf("m%d=%s", i, servers[i].PeerURL))
	}
	for i, s := range servers {
		clientURL := "http://" + s.Endpoint
		own := []string{
			fmt.Sprintf("--name=m%d", i),
			"--data-dir=" + s.Data,
			"--listen-client-urls=" + clientURL,
			"--advertise-client-urls=" + clientURL,
			"--listen-peer-urls=" + s.PeerURL,
			"--initial-advertise-peer-urls=" + s.PeerURL,
			"--initial-cluster=" + strings.Join(cluster, ","),
			"--initial-cluster-token=ringstone-test",
			"--initial-cluster-state=new",
			"--log-level=warn",
		}
		s.flags = append(own, flags...)
	}
	return servers, nil
}

func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// AddFlags adds flags, which win against those before them, from the next start on.
func (s *Server) AddFlags(flags ...string) { s.flags = append(s.flags, flags...) }

// Start runs the program and returns once it answers a linearizable read, or fails after the bound.
func (s *Server) Start(bound time.Duration) error {
	if err := s.Launch(); err != nil {
		return err
	}
	return s.awaitReady(bound)
}

// Launch runs the program and does not wait for anything.
func (s *Server) Launch() error {
	logFile, err := os.OpenFile(filepath.Join(s.Folder, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close()
	arguments := append(append([]string{}, s.command[1:]...), s.flags...)
	child := exec.Command(s.command[0], arguments...)
	child.Stdout, child.Stderr = logFile, logFile
	child.Env = environment()
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.start(child); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		_ = child.Wait()
		close(exited)
	}()
	s.child, s.exited = child, exited
	s.pid.Store(int64(child.Process.Pid))
	return nil
}

// environment is ours without etcd's own settings, which would collide with the flags.
func environment() []string {
	var kept []string
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "ETCD_") {
			kept = append(kept, setting)
		}
	}
	return kept
}

func (s *Server) awaitReady(bound time.Duration) error {
	deadline := time.Now().Add(bound)
	for {
		select {
		case <-s.exited:
			return fmt.Errorf("%s exited at start: %v\n%s", s.command[0], s.child.ProcessState, s.LogTail())
		default:
		}
		err := Probe(s.Endpoint, time.Second)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %v: %w\n%s", s.command[0], bound, err, s.LogTail())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Probe answers whether a server at the endpoint serves a linearizable read.
func Probe(endpoint string, bound time.Duration) error {
	connection, err := grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	_, err = pb.NewKVClient(connection).Range(ctx, &pb.RangeRequest{Key: []byte("probe"), CountOnly: true})
	return err
}

// Kill sends SIGKILL and waits until the process is gone.
func (s *Server) Kill() {
	s.end(syscall.SIGKILL, 10*time.Second)
}

// Stop sends SIGTERM and reports the exit status; a process that does not go in time is killed.
func (s *Server) Stop(bound time.Duration) error {
	if !s.end(syscall.SIGTERM, bound) {
		s.Kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM", s.command[0], bound)
	}
	state := s.child.ProcessState
	// etcd ends itself by the signal it got once it has shut down.
	status, ok := state.Sys().(syscall.WaitStatus)
	if state.ExitCode() == 0 || ok && status.Signaled() && status.Signal() == syscall.SIGTERM {
		return nil
	}
	return errors.New(s.command[0] + " ended with " + state.String())
}

func (s *Server) end(signal syscall.Signal, bound time.Duration) bool {
	if s.child == nil || s.child.Process == nil {
		return true
	}
	_ = s.child.Process.Signal(signal)
	select {
	case <-s.exited:
		return true
	case <-time.After(bound):
		return false
	}
}

// Pid is the process's id, 0 before the first start. Any goroutine may ask.
func (s *Server) Pid() int { return int(s.pid.Load()) }

// Exited is closed once the process is gone.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// ExitCode is the process's status after it has gone; -1 when a signal ended it.
func (s *Server) ExitCode() int { return s.child.ProcessState.ExitCode() }

// Signal sends a signal to the process.
func (s *Server) Signal(signal syscall.Signal) error { return s.child.Process.Signal(signal) }

// Alive answers whether the process runs.
func (s *Server) Alive() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// LogTail is the end of what the process printed.
func (s *Server) LogTail() string {
	content, err := os.ReadFile(filepath.Join(s.Folder, "log"))
	if err != nil {
		return ""
	}
	const most = 4000
	if len(content) > most {
		content = content[len(content)-most:]
	}
	return string(content)
}

// Dial makes a connection on which answers may have any size.
func Dial(endpoint string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<31-1)))
}
