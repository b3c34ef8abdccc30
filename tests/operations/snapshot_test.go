package operations

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/server"
)

// fillAndSave makes a store with a compacted past, deleted keys and leases, and saves a snapshot of it under load.
func fillAndSave(t *testing.T) (source *grpc.ClientConn, file string) {
	t.Helper()
	ctx := bounded(t)
	source = start(t, prepare(t))
	kv := pb.NewKVClient(source)
	if _, err := pb.NewLeaseClient(source).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 77, TTL: 100_000}); err != nil {
		t.Fatal(err)
	}
	var revision int64
	for i := range 300 {
		put := &pb.PutRequest{Key: []byte(fmt.Sprintf("before/%d", i%50)), Value: []byte(fmt.Sprint(i))}
		if i%10 == 0 {
			put.Lease = 77
		}
		answer, err := kv.Put(ctx, put)
		if err != nil {
			t.Fatal(err)
		}
		revision = answer.Header.Revision
	}
	if _, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("before/1"), RangeEnd: []byte("before/2")}); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: revision - 100, Physical: true}); err != nil {
		t.Fatal(err)
	}
	stop := writers(t, source, 8)
	time.Sleep(300 * time.Millisecond)
	file = filepath.Join(t.TempDir(), "snapshot")
	mustTool(t, *save, "--endpoints="+connectionEndpoint(source), file)
	time.Sleep(200 * time.Millisecond)
	stop()
	return source, file
}

func connectionEndpoint(connection *grpc.ClientConn) string {
	return connection.Target()[len("passthrough:///"):]
}

func restore(t *testing.T, file string, to *server.Server, flags ...string) {
	t.Helper()
	arguments := []string{"restore", file, "--data-dir=" + to.Data, "--name=m0", "--initial-cluster=m0=" + to.PeerURL, "--initial-advertise-peer-urls=" + to.PeerURL, "--initial-cluster-token=another"}
	mustTool(t, *offline, append(arguments, flags...)...)
}

func history(ctx context.Context, t *testing.T, connection *grpc.ClientConn, from, to int64) (events []*mvccpb.Event) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewWatchClient(connection).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		t.Fatal(err)
	}
	for {
		response, err := stream.Recv()
		if err != nil || response.Canceled {
			t.Fatalf("watch from %d to %d: %v %v", from, to, response, err)
		}
		for _, event := range response.Events {
			if event.Kv.ModRevision > to {
				return events
			}
			events = append(events, event)
		}
		if len(events) > 0 && events[len(events)-1].Kv.ModRevision >= to {
			return events
		}
	}
}

func all(ctx context.Context, t *testing.T, connection *grpc.ClientConn, revision int64) *pb.RangeResponse {
	t.Helper()
	answer, err := pb.NewKVClient(connection).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// A snapshot under load is one moment of the store: everything up to a revision, nothing after it.
func TestSnapshotRestoresElsewhere(t *testing.T) {
	ctx := bounded(t)
	source, file := fillAndSave(t)
	elsewhere := prepare(t)
	restore(t, file, elsewhere)
	copied := start(t, elsewhere)
	before, after := all(ctx, t, source, 0), all(ctx, t, copied, 0)
	revision := after.Header.Revision
	if before.Header.ClusterId == after.Header.ClusterId {
		t.Error("the restored cluster has the old cluster's id")
	}
	if revision < 302 || revision > before.Header.Revision {
		t.Fatalf("restored at revision %d, the source is at %d", revision, before.Header.Revision)
	}
	then := all(ctx, t, source, revision)
	if len(then.Kvs) != len(after.Kvs) {
		t.Fatalf("%d pairs restored, the source had %d at revision %d", len(after.Kvs), len(then.Kvs), revision)
	}
	for i := range then.Kvs {
		if !proto.Equal(then.Kvs[i], after.Kvs[i]) {
			t.Errorf("%v was restored as %v", then.Kvs[i], after.Kvs[i])
		}
	}
	compareHashes(ctx, t, source, copied, revision)
	compareHistories(ctx, t, source, copied, revision)
	lease, err := pb.NewLeaseClient(copied).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 77, Keys: true})
	if err != nil || lease.GrantedTTL != 100_000 || len(lease.Keys) == 0 {
		t.Errorf("the lease came back as %v, %v", lease, err)
	}
	put, err := pb.NewKVClient(copied).Put(ctx, &pb.PutRequest{Key: []byte("after"), Value: []byte("x")})
	if err != nil || put.Header.Revision != revision+1 {
		t.Errorf("the first write after the restore: %v, %v", put, err)
	}
	if next := history(ctx, t, copied, revision+1, revision+1); len(next) != 1 || string(next[0].Kv.Key) != "after" {
		t.Errorf("a watch from the next revision on shows %v", next)
	}
}

func compareHashes(ctx context.Context, t *testing.T, source, copied *grpc.ClientConn, revision int64) {
	t.Helper()
	left, err := pb.NewMaintenanceClient(source).HashKV(ctx, &pb.HashKVRequest{Revision: revision})
	if err != nil {
		t.Fatal(err)
	}
	right, err := pb.NewMaintenanceClient(copied).HashKV(ctx, &pb.HashKVRequest{Revision: revision})
	if err != nil {
		t.Fatal(err)
	}
	if left.Hash != right.Hash || left.CompactRevision != right.CompactRevision || left.HashRevision != right.HashRevision {
		t.Errorf("hashes: source %v, restored %v", left, right)
	}
}

func compareHistories(ctx context.Context, t *testing.T, source, copied *grpc.ClientConn, revision int64) {
	t.Helper()
	const oldest = 301 - 100 // what fillAndSave compacted at
	left, right := history(ctx, t, source, oldest, revision), history(ctx, t, copied, oldest, revision)
	if len(left) != len(right) {
		t.Fatalf("the restored history has %d events, the source's %d", len(right), len(left))
	}
	for i := range left {
		if !proto.Equal(left[i], right[i]) {
			t.Fatalf("event %d: %v was restored as %v", i, left[i], right[i])
		}
	}
}

// With a bumped revision, nobody who watched the old cluster can take a new revision for one that it has seen.
func TestRestoreBumpsTheRevision(t *testing.T) {
	ctx := bounded(t)
	source, file := fillAndSave(t)
	elsewhere := prepare(t)
	restore(t, file, elsewhere, "--bump-revision=1000000", "--mark-compacted")
	copied := start(t, elsewhere)
	after := all(ctx, t, copied, 0)
	if after.Header.Revision < 1_000_000+302 {
		t.Errorf("restored at revision %d", after.Header.Revision)
	}
	if len(after.Kvs) == 0 {
		t.Error("the bump lost the pairs")
	}
	old := all(ctx, t, source, 0).Header.Revision
	if _, err := pb.NewKVClient(copied).Range(ctx, &pb.RangeRequest{Key: []byte("x"), Revision: old}); err == nil {
		t.Errorf("revision %d of the old cluster can be read", old)
	}
	put, err := pb.NewKVClient(copied).Put(ctx, &pb.PutRequest{Key: []byte("after")})
	if err != nil || put.Header.Revision != after.Header.Revision+1 {
		t.Errorf("the first write after the restore: %v, %v", put, err)
	}
}

func TestSnapshotStatus(t *testing.T) {
	_, file := fillAndSave(t)
	output := mustTool(t, *offline, "status", file, "-w", "json")
	var status struct {
		Hash      uint64 `json:"hash"`
		Revision  int64  `json:"revision"`
		TotalKey  int64  `json:"totalKey"`
		TotalSize int64  `json:"totalSize"`
	}
	if err := json.Unmarshal([]byte(output), &status); err != nil {
		t.Fatalf("%v in %q", err, output)
	}
	if status.Revision < 302 || status.TotalKey < 50 || status.TotalSize <= 0 || status.Hash == 0 {
		t.Errorf("%+v", status)
	}
}

// A damaged snapshot is refused, wherever the damage is, and nothing is left behind that a server would start on.
func TestDamagedSnapshotIsRefused(t *testing.T) {
	_, file := fillAndSave(t)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string][]byte{"cut by a byte": whole[:len(whole)-1], "cut in half": whole[:len(whole)/2], "empty": {}, "longer": append(append([]byte{}, whole...), 0)}
	for _, at := range []int{0, 100, len(whole) / 3, len(whole) / 2, len(whole) - 40, len(whole) - 1} {
		flipped := append([]byte{}, whole...)
		flipped[at] ^= 1
		damages[fmt.Sprintf("bit flipped at %d of %d", at, len(whole))] = flipped
	}
	for name, content := range damages {
		damaged := filepath.Join(t.TempDir(), "damaged")
		if err := os.WriteFile(damaged, content, 0o600); err != nil {
			t.Fatal(err)
		}
		to := prepare(t)
		output, status := tool(t, *offline, "restore", damaged, "--data-dir="+to.Data, "--name=m0", "--initial-cluster=m0="+to.PeerURL, "--initial-advertise-peer-urls="+to.PeerURL)
		if status == 0 {
			t.Errorf("%s: restored all the same:\n%s", name, output)
		}
	}
}

func TestRestoreKeepsAnExistingFolder(t *testing.T) {
	_, file := fillAndSave(t)
	to := prepare(t)
	if err := os.MkdirAll(to.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(to.Data, "precious")
	if err := os.WriteFile(precious, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	output, status := tool(t, *offline, "restore", file, "--data-dir="+to.Data, "--name=m0", "--initial-cluster=m0="+to.PeerURL, "--initial-advertise-peer-urls="+to.PeerURL)
	if status == 0 {
		t.Errorf("restored over an existing folder:\n%s", output)
	}
	if content, err := os.ReadFile(precious); err != nil || string(content) != "x" {
		t.Errorf("what was in the folder is gone: %v", err)
	}
}
