package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/server"
)

// ownMember stands in requests and normalised answers for "the id of the member that answers".
const ownMember = uint64(0xfeedfacecafebeef)

const callBound = 30 * time.Second

// side is one of the two servers, with what we learned of its private names: ids that differ by design.
type side struct {
	name       string
	server     *server.Server // nil when only an endpoint was given
	folder     string
	connection *grpc.ClientConn
	keepAlive  pb.Lease_LeaseKeepAliveClient

	clusterID, memberID uint64
	// Lease ids that this server picked by itself: the control's id to ours, and back.
	leaseOut, leaseBack map[int64]int64
	// When each lease (by the control's id) was last granted or renewed here.
	renewed map[int64]time.Time
	granted map[int64]int64
	// Hashes seen, by {hash revision, compact revision}: the same question must get the same answer.
	hashes map[[2]int64]uint32
}

// openSide starts a server by its command, or connects to an endpoint when the command looks like one.
func openSide(name, command string, flags ...string) (*side, error) {
	s := &side{
		name: name, leaseOut: map[int64]int64{}, leaseBack: map[int64]int64{},
		renewed: map[int64]time.Time{}, granted: map[int64]int64{}, hashes: map[[2]int64]uint32{},
	}
	endpoint := command
	if !isEndpoint(command) {
		folder, err := server.TemporaryFolder("differential-" + name + "-")
		if err != nil {
			return nil, err
		}
		s.folder = folder
		s.server, err = server.New(command, folder, flags...)
		if err != nil {
			return nil, err
		}
		if err := s.server.Start(30 * time.Second); err != nil {
			s.close()
			return nil, err
		}
		endpoint = s.server.Endpoint
	}
	if err := s.connect(endpoint); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func isEndpoint(command string) bool {
	return !strings.ContainsAny(command, "/ ") && strings.Contains(command, ":")
}

func (s *side) connect(endpoint string) error {
	connection, err := grpc.NewClient("passthrough:///"+endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		return err
	}
	s.connection = connection
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	answer, err := settledStatus(ctx, pb.NewMaintenanceClient(connection))
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	header := answer.Header
	if header.GetClusterId() == 0 || header.GetMemberId() == 0 || header.GetRaftTerm() == 0 {
		return fmt.Errorf("%s: a zero id or term in %v", s.name, header)
	}
	if s.memberID != 0 && (s.memberID != header.MemberId || s.clusterID != header.ClusterId) {
		return fmt.Errorf("%s: ids changed across a restart", s.name)
	}
	s.clusterID, s.memberID = header.ClusterId, header.MemberId
	return nil
}

// settledStatus waits until the storage version has caught up with the server's: etcd looks after that every 4 s, and
// whether it is so at once after the start is a race inside it.
func settledStatus(ctx context.Context, client pb.MaintenanceClient) (answer *pb.StatusResponse, err error) {
	eventually(10*time.Second, func() bool {
		answer, err = client.Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return true
		}
		minor := answer.Version[:strings.LastIndex(answer.Version, ".")+1]
		return strings.HasPrefix(answer.StorageVersion, minor)
	})
	return answer, err
}

// restart ends the server, with or without notice, and starts it again on the same data.
func (s *side) restart(kill bool) error {
	s.disconnect()
	if kill {
		s.server.Kill()
	} else if err := s.server.Stop(15 * time.Second); err != nil {
		return err
	}
	if err := s.server.Start(60 * time.Second); err != nil {
		return err
	}
	return s.connect(s.server.Endpoint)
}

func (s *side) disconnect() {
	if s.connection != nil {
		_ = s.connection.Close()
	}
	s.connection, s.keepAlive = nil, nil
}

func (s *side) close() {
	s.disconnect()
	if s.server != nil {
		s.server.Kill()
	}
	if s.folder != "" {
		_ = os.RemoveAll(s.folder)
	}
}

// call is one request to both sides. Raw bytes, when set, are sent in place of the request's own encoding.
type call struct {
	method   string
	request  proto.Message
	raw      []byte
	metadata metadata.MD
}

// answer is what came back: no message or one for a unary call, any number for a stream.
type answer struct {
	messages []proto.Message
	code     codes.Code
	text     string
}

func (a *answer) ok() bool { return a.code == codes.OK }

func (a *answer) fail(err error) *answer {
	a.code, a.text = status.Code(err), status.Convert(err).Message()
	return a
}

// rawCodec sends bytes as they are and decodes answers as usual.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error { return proto.Unmarshal(data, v.(proto.Message)) }

// do sends the call to this side, in this side's own names.
func (s *side) do(c *call) *answer {
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	if c.metadata != nil {
		ctx = metadata.NewOutgoingContext(ctx, c.metadata)
	}
	var request any
	var options []grpc.CallOption
	if c.raw != nil {
		request, options = c.raw, append(options, grpc.ForceCodec(rawCodec{}))
	} else {
		request = s.outgoing(c.request)
	}
	switch c.method {
	case pb.Lease_LeaseKeepAlive_FullMethodName:
		return s.doKeepAlive(request.(*pb.LeaseKeepAliveRequest))
	case pb.KV_RangeStream_FullMethodName:
		return s.doStream(ctx, c.method, request, options)
	}
	response := newResponse(c.method)
	if err := s.connection.Invoke(ctx, c.method, request, response, options...); err != nil {
		return new(answer).fail(err)
	}
	return &answer{messages: []proto.Message{response}}
}

func (s *side) doStream(ctx context.Context, method string, request any, options []grpc.CallOption) *answer {
	result := new(answer)
	stream, err := s.connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method, options...)
	if err != nil {
		return result.fail(err)
	}
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		return result.fail(err)
	}
	if err := stream.CloseSend(); err != nil {
		return result.fail(err)
	}
	for {
		response := newResponse(method)
		err := stream.RecvMsg(response)
		if errors.Is(err, io.EOF) {
			return result
		}
		if err != nil {
			return result.fail(err)
		}
		result.messages = append(result.messages, response)
	}
}

// doKeepAlive uses one long stream, as clients do.
func (s *side) doKeepAlive(request *pb.LeaseKeepAliveRequest) *answer {
	result := new(answer)
	if s.keepAlive == nil {
		stream, err := pb.NewLeaseClient(s.connection).LeaseKeepAlive(context.Background())
		if err != nil {
			return result.fail(err)
		}
		s.keepAlive = stream
	}
	if err := s.keepAlive.Send(request); err != nil {
		s.keepAlive = nil
		return result.fail(err)
	}
	response, err := s.keepAlive.Recv()
	if err != nil {
		s.keepAlive = nil
		return result.fail(err)
	}
	result.messages = append(result.messages, response)
	return result
}

// endKeepAlive half-closes the stream and answers how the server ended it.
func (s *side) endKeepAlive() *answer {
	if s.keepAlive == nil {
		return new(answer)
	}
	stream := s.keepAlive
	s.keepAlive = nil
	if err := stream.CloseSend(); err != nil {
		return new(answer).fail(err)
	}
	if _, err := stream.Recv(); err != nil && !errors.Is(err, io.EOF) {
		return new(answer).fail(err)
	}
	return new(answer)
}

func newResponse(method string) proto.Message {
	switch method {
	case pb.KV_Range_FullMethodName:
		return new(pb.RangeResponse)
	case pb.KV_RangeStream_FullMethodName:
		return new(pb.RangeStreamResponse)
	case pb.KV_Put_FullMethodName:
		return new(pb.PutResponse)
	case pb.KV_DeleteRange_FullMethodName:
		return new(pb.DeleteRangeResponse)
	case pb.KV_Txn_FullMethodName:
		return new(pb.TxnResponse)
	case pb.KV_Compact_FullMethodName:
		return new(pb.CompactionResponse)
	case pb.Lease_LeaseGrant_FullMethodName:
		return new(pb.LeaseGrantResponse)
	case pb.Lease_LeaseRevoke_FullMethodName:
		return new(pb.LeaseRevokeResponse)
	case pb.Lease_LeaseTimeToLive_FullMethodName:
		return new(pb.LeaseTimeToLiveResponse)
	case pb.Lease_LeaseLeases_FullMethodName:
		return new(pb.LeaseLeasesResponse)
	case pb.Maintenance_Alarm_FullMethodName:
		return new(pb.AlarmResponse)
	case pb.Maintenance_Status_FullMethodName:
		return new(pb.StatusResponse)
	case pb.Maintenance_HashKV_FullMethodName:
		return new(pb.HashKVResponse)
	case pb.Maintenance_Defragment_FullMethodName:
		return new(pb.DefragmentResponse)
	case pb.Cluster_MemberList_FullMethodName:
		return new(pb.MemberListResponse)
	}
	panic("no response type for " + method)
}
