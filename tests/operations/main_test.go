// Package operations does to a server what its operator does: snapshots and restores, wrong flags, two of them on one
// folder or one port, a polite end under load.
package operations

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/server"
)

var (
	command = flag.String("server", "", "command of the server")
	save    = flag.String("save", "", "command that saves a snapshot: SAVE --endpoints=HOST:PORT FILE")
	offline = flag.String("offline", "", "command with the words restore and status for a saved snapshot, as \"etcdutl snapshot\"")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *command == "" || *save == "" || *offline == "" {
		println("-server, -save and -offline are needed")
		os.Exit(2)
	}
	os.Exit(m.Run())
}

const startBound = 30 * time.Second

func prepare(t *testing.T, flags ...string) *server.Server {
	t.Helper()
	s, err := server.New(*command, t.TempDir(), flags...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t *testing.T, s *server.Server) *grpc.ClientConn {
	t.Helper()
	if err := s.Start(startBound); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	connection, err := server.Dial(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// tool runs a command line client and answers its output and exit status.
func tool(t *testing.T, line string, arguments ...string) (string, int) {
	t.Helper()
	words := append(strings.Fields(line), arguments...)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, words[0], words[1:]...)
	output, err := child.CombinedOutput()
	if child.ProcessState == nil {
		t.Fatalf("%s: %v", words[0], err)
	}
	return string(output), child.ProcessState.ExitCode()
}

func mustTool(t *testing.T, line string, arguments ...string) string {
	t.Helper()
	output, status := tool(t, line, arguments...)
	if status != 0 {
		t.Fatalf("%s %q ended with %d:\n%s", line, arguments, status, output)
	}
	return output
}

// writers put until stopped; the answer of stop is the last acknowledged revision.
func writers(t *testing.T, connection *grpc.ClientConn, count int) (stop func() int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	var mu sync.Mutex
	var last int64
	for writer := range count {
		group.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				answer, err := pb.NewKVClient(connection).Put(ctx, &pb.PutRequest{Key: []byte(fmt.Sprintf("w%d/%d", writer, n%500)), Value: []byte(strings.Repeat("x", n%400))})
				if err != nil {
					return
				}
				mu.Lock()
				last = max(last, answer.Header.Revision)
				mu.Unlock()
			}
		})
	}
	return func() int64 {
		cancel()
		group.Wait()
		return last
	}
}
