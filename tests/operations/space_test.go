package operations

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/server"
)

// smallDisk is a file system of its own, which needs root; etcd, whose page file can't be bounded by a disk without an
// end of the process, is no control here.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", bytes)); err != nil {
		t.Fatalf("a tmpfs can't be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(folder, syscall.MNT_DETACH) })
	return folder
}

// A disk that fills up: puts are refused with etcd's text before anything fails, everything else goes on, a restart finds
// all that was acknowledged, and after a compaction there is room again without anybody's help.
func TestFullDisk(t *testing.T) {
	if strings.HasSuffix(strings.Fields(*command)[0], "etcd") {
		t.Skip("etcd ends on a full disk")
	}
	disk := smallDisk(t, 700<<20)
	s, err := server.New(*command, t.TempDir(), "--data-dir="+filepath.Join(disk, "data"), "--quota-backend-bytes=-1")
	if err != nil {
		t.Fatal(err)
	}
	s.Data = filepath.Join(disk, "data")
	connection := start(t, s)
	written := fill(t, connection, 0)
	t.Logf("%d values of 256 KiB before the first refusal", written)
	if written < 100 {
		t.Fatalf("%d values on a disk of 700 MiB: refused too early", written)
	}
	kv := pb.NewKVClient(connection)
	if answer, err := kv.Range(bounded(t), &pb.RangeRequest{Key: []byte("fill/"), RangeEnd: []byte("fill0"), CountOnly: true}); err != nil || answer.Count != int64(written) {
		t.Fatalf("a read beside the full disk: %v %v", answer, err)
	}
	if _, err := pb.NewLeaseClient(connection).LeaseRevoke(bounded(t), &pb.LeaseRevokeRequest{ID: 1}); status.Code(err) != codes.NotFound {
		t.Errorf("a revoke is answered %v, expected that there is no such lease", err)
	}
	if !strings.Contains(s.LogTail(), "the disk is nearly full") {
		t.Errorf("the log does not say what the matter is:\n%s", s.LogTail())
	}

	s.Kill()
	connection = start(t, s)
	kv = pb.NewKVClient(connection)
	answer, err := kv.Range(bounded(t), &pb.RangeRequest{Key: []byte("fill/"), RangeEnd: []byte("fill0"), CountOnly: true})
	if err != nil || answer.Count != int64(written) {
		t.Fatalf("after SIGKILL on a full disk: %v %v, expected %d keys", answer, err, written)
	}
	deleted, err := kv.DeleteRange(bounded(t), &pb.DeleteRangeRequest{Key: []byte("fill/"), RangeEnd: []byte("fill0")})
	if err != nil || deleted.Deleted != int64(written) {
		t.Fatalf("the delete: %v %v\n%s", deleted, err, s.LogTail())
	}
	if _, err := kv.Compact(bounded(t), &pb.CompactionRequest{Revision: deleted.Header.Revision, Physical: true}); err != nil {
		t.Fatal(err)
	}
	again := time.Now()
	for {
		_, err := kv.Put(bounded(t), &pb.PutRequest{Key: []byte("room"), Value: make([]byte, 256<<10)})
		if err == nil {
			break
		}
		if status.Code(err) != codes.ResourceExhausted || time.Since(again) > 20*time.Second {
			t.Fatalf("no put %v after the compaction: %v\n%s", time.Since(again), err, s.LogTail())
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("puts are taken %v after the compaction", time.Since(again))
	// What was freed comes back a checkpoint at a time, and a fast writer meets the limit in between.
	if second := fill(t, connection, 5*time.Second); second < written/2 {
		t.Errorf("%d values fit in after the compaction, %d before", second, written)
	}
	if err := s.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
}

// fill puts large values until they are refused for space, and for as long as `patience` after that; it answers how many
// were taken.
func fill(t *testing.T, connection *grpc.ClientConn, patience time.Duration) int {
	t.Helper()
	value := make([]byte, 256<<10)
	taken := time.Now()
	for n := 0; n < 10_000; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := pb.NewKVClient(connection).Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "fill/%06d", n), Value: value})
		cancel()
		if err == nil {
			n, taken = n+1, time.Now()
			continue
		}
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "etcdserver: mvcc: database space exceeded") {
			t.Fatalf("put %d ended with %v", n, err)
		}
		if time.Since(taken) >= patience {
			return n
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the disk never becomes full")
	return 0
}
