package operations

import (
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// SIGTERM under load: it ends in time and with success, and what was acknowledged is there after the next start.
func TestTermination(t *testing.T) {
	s := prepare(t)
	connection := start(t, s)
	stop := writers(t, connection, 16)
	time.Sleep(500 * time.Millisecond)
	begin := time.Now()
	if err := s.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	t.Logf("ended %v after SIGTERM", time.Since(begin))
	last := stop()
	if last < 100 {
		t.Fatalf("no load: revision %d", last)
	}
	connection = start(t, s)
	if now := all(bounded(t), t, connection, 0).Header.Revision; now < last {
		t.Errorf("revision %d after %d had been acknowledged", now, last)
	}
}

// A watch that nobody ends is no reason to wait at SIGTERM: its client learns at once that it must look elsewhere.
func TestWatchEndsAtTermination(t *testing.T) {
	s := prepare(t)
	connection := start(t, s)
	stream, err := pb.NewWatchClient(connection).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	create := &pb.WatchCreateRequest{Key: []byte("a")}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the watch ended with %v, expected Unavailable", err)
	}
	t.Logf("the watch ended %v after SIGTERM", time.Since(begin))
	if err := s.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	t.Logf("the process ended %v after SIGTERM", time.Since(begin))
}

func TestUnknownFlag(t *testing.T) {
	s := prepare(t, "--frobnicate=1")
	expectRefusal(t, s.Start(10*time.Second), "frobnicate")
	if s.ExitCode() != 2 {
		t.Errorf("exit status %d, expected 2", s.ExitCode())
	}
}

func TestPortInUse(t *testing.T) {
	first := prepare(t)
	start(t, first)
	second := prepare(t, "--listen-client-urls=http://"+first.Endpoint)
	expectRefusal(t, second.Start(10*time.Second), first.Endpoint[strings.LastIndex(first.Endpoint, ":")+1:])
	if second.ExitCode() == 0 {
		t.Error("exit status 0")
	}
}

// expectRefusal wants a start that failed by itself, with a message that names the cause.
func expectRefusal(t *testing.T, err error, named string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "exited at start") {
		t.Fatalf("it did not refuse to start: %v", err)
	}
	if !strings.Contains(err.Error(), named) {
		t.Errorf("the message does not name %q:\n%v", named, err)
	}
}

// Readiness is lost before the process is: a balancer has time to look elsewhere.
func TestReadiness(t *testing.T) {
	s := prepare(t)
	start(t, s)
	ready := func() int {
		answer, err := http.Get("http://" + s.Endpoint + "/readyz")
		if err != nil {
			return 0
		}
		defer answer.Body.Close()
		_, _ = io.Copy(io.Discard, answer.Body)
		return answer.StatusCode
	}
	if status := ready(); status != http.StatusOK {
		t.Fatalf("/readyz answers %d", status)
	}
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for ready() == http.StatusOK {
		if time.Now().After(deadline) {
			t.Fatal("ready 10 s after SIGTERM")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// The same data folder cannot be used twice; the first server does not notice.
func TestFolderInUse(t *testing.T) {
	first := prepare(t)
	connection := start(t, first)
	second := prepare(t, "--data-dir="+first.Data)
	err := second.Start(3 * time.Second)
	t.Cleanup(second.Kill)
	if err == nil {
		t.Fatal("two servers run on one folder")
	}
	if _, err := pb.NewKVClient(connection).Put(bounded(t), &pb.PutRequest{Key: []byte("x")}); err != nil {
		t.Error(err)
	}
}
