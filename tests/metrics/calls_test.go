package metrics

import (
	"context"
	"flag"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/server"
)

var (
	command = flag.String("server", "", "command of the server")
	etcd    = flag.String("etcd", "", "etcd, to compare with")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *command == "" || *etcd == "" {
		println("-server and -etcd are needed")
		os.Exit(2)
	}
	os.Exit(m.Run())
}

func start(t *testing.T, command string, flags ...string) *server.Server {
	t.Helper()
	s, err := server.New(command, t.TempDir(), flags...)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, s *server.Server) (context.Context, *grpc.ClientConn) {
	t.Helper()
	connection, err := grpc.NewClient("passthrough:///"+s.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { _ = connection.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "client-api-version", "3.7"), connection
}

// exercise makes one call of each kind that counts somewhere.
func exercise(t *testing.T, s *server.Server) {
	t.Helper()
	ctx, connection := connect(t, s)
	kv(ctx, t, connection)
	leases(ctx, t, connection)
	watch(ctx, t, connection)
	maintenance(ctx, t, connection)
	for _, path := range []string{"/health", "/livez", "/readyz", "/readyz/serializable_read"} {
		answer, err := http.Get("http://" + s.Endpoint + path)
		must(t, err)
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
	}
}

func kv(ctx context.Context, t *testing.T, connection *grpc.ClientConn) {
	client := pb.NewKVClient(connection)
	for _, value := range []string{"one", "three", "five5"} {
		_, err := client.Put(ctx, &pb.PutRequest{Key: []byte("a/" + value), Value: []byte(value)})
		must(t, err)
	}
	_, err := client.Range(ctx, &pb.RangeRequest{Key: []byte("a/"), RangeEnd: []byte("a0")})
	must(t, err)
	if _, err = client.Range(ctx, &pb.RangeRequest{Key: []byte("a/"), Revision: 1 << 40}); err == nil {
		t.Error("a future revision can be read")
	}
	if _, err = client.Put(ctx, &pb.PutRequest{}); err == nil {
		t.Error("a key can be empty")
	}
	_, err = client.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("a/one")})
	must(t, err)
	read := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a/three")}}}
	write := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("b"), Value: []byte("1")}}}
	_, err = client.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{read, read}})
	must(t, err)
	_, err = client.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{read, write}})
	must(t, err)
	_, err = client.Compact(ctx, &pb.CompactionRequest{Revision: 3, Physical: true})
	must(t, err)
}

func leases(ctx context.Context, t *testing.T, connection *grpc.ClientConn) {
	client := pb.NewLeaseClient(connection)
	for id, ttl := range map[int64]int64{7: 5, 8: 1000} {
		_, err := client.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
		must(t, err)
	}
	_, err := client.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 7})
	must(t, err)
	_, err = client.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	must(t, err)
	stream, err := client.LeaseKeepAlive(ctx)
	must(t, err)
	must(t, stream.Send(&pb.LeaseKeepAliveRequest{ID: 7}))
	_, err = stream.Recv()
	must(t, err)
	must(t, stream.CloseSend())
	if _, err = stream.Recv(); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
	_, err = client.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 7})
	must(t, err)
}

// watch leaves one stream with one watch open.
func watch(ctx context.Context, t *testing.T, connection *grpc.ClientConn) {
	stream, err := pb.NewWatchClient(connection).Watch(ctx)
	must(t, err)
	create := &pb.WatchCreateRequest{Key: []byte("w")}
	must(t, stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}))
	_, err = stream.Recv()
	must(t, err)
	_, err = pb.NewKVClient(connection).Put(ctx, &pb.PutRequest{Key: []byte("w"), Value: []byte("seen")})
	must(t, err)
	_, err = stream.Recv()
	must(t, err)
}

func maintenance(ctx context.Context, t *testing.T, connection *grpc.ClientConn) {
	client := pb.NewMaintenanceClient(connection)
	_, err := client.Status(ctx, &pb.StatusRequest{})
	must(t, err)
	_, err = client.Hash(ctx, &pb.HashRequest{})
	must(t, err)
	_, err = client.HashKV(ctx, &pb.HashKVRequest{})
	must(t, err)
	stream, err := client.Snapshot(ctx, &pb.SnapshotRequest{})
	must(t, err)
	for err == nil {
		_, err = stream.Recv()
	}
	if err != io.EOF {
		t.Errorf("the snapshot ended with %v", err)
	}
	_, err = pb.NewClusterClient(connection).MemberList(ctx, &pb.MemberListRequest{})
	must(t, err)
	// The last: it refuses what comes after it.
	_, err = client.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 77, Alarm: pb.AlarmType_NOSPACE})
	must(t, err)
}
