package main

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ringstone.test/internal/history"
	"ringstone.test/internal/server"
)

const (
	leaseHolders = 4
	// leaseTTL is the least that an election timeout of a second allows.
	leaseTTL = 2 * time.Second
	// endsWithin is how long a lease may live on behind the last promise once all members serve: a new leader gives each lease its
	// whole time again.
	endsWithin = 3*leaseTTL + 10*time.Second
)

// holders each hold a lease with a key, keep it alive for a while, and then let it end by itself or revoke it. The key's delete is an
// operation of unknown outcome that was called when the last promise ended: whoever takes the key away before that has a
// revision that was seen by others before the call, which the judge of the history complains about.
type holders struct {
	mu sync.Mutex
	// granted, renewed and revoked count answers.
	granted, renewed, revoked int
	wrong                     []string
}

func startHolders(l *load, seed int64) *holders {
	h := &holders{}
	for n := range leaseHolders {
		random := rand.New(rand.NewSource(seed + 1000 + int64(n)))
		l.group.Go(func() {
			connections := l.dial()
			defer hangUp(connections)
			for life := 0; !l.stopped(); life++ {
				h.live(l, connections, fmt.Sprintf("lease/%d-%d", n, life), random)
			}
		})
	}
	return h
}

func (l *load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// rest waits, but not beyond the end of the load.
func (l *load) rest(length time.Duration) {
	select {
	case <-l.stop:
	case <-time.After(length):
	}
}

// live is one lease, from its grant to its end. Its key is its own, so that each delete has one lease that it can be of.
func (h *holders) live(l *load, connections []*grpc.ClientConn, key string, random *rand.Rand) {
	someone := func() *grpc.ClientConn { return connections[random.Intn(len(connections))] }
	began := l.now()
	granted, err := grant(someone())
	if err != nil {
		l.rest(100 * time.Millisecond)
		return
	}
	h.count(&h.granted)
	promised := began + (time.Duration(granted.TTL) * time.Second).Nanoseconds()
	put := history.Operation{Client: -2, Kind: history.Put, Key: key, Value: key, Call: l.now()}
	err = putLeased(someone(), &put, granted.ID)
	put.Return = l.now()
	switch {
	case err == nil:
		put.Outcome = history.Answered
	case status.Code(err) == codes.NotFound && l.now() < promised:
		h.complain("lease %x was granted, and is not known to a put before its time: %v", granted.ID, err)
		return
	case status.Code(err) == codes.NotFound:
		return
	default:
		put.Outcome, put.Return = history.Unknown, 0
	}
	l.record(put)
	for end := time.Now().Add(time.Duration(random.Int63n(int64(3 * leaseTTL)))); time.Now().Before(end) && !l.stopped(); l.rest(leaseTTL / 4) {
		asked := l.now()
		ttl, err := keepAlive(someone(), granted.ID)
		switch {
		case err != nil:
		case ttl <= 0:
			if now := l.now(); now < promised {
				h.complain("lease %x is gone %v before its time", granted.ID, time.Duration(promised-now))
			}
			end = time.Now()
		default:
			h.count(&h.renewed)
			promised = max(promised, asked+(time.Duration(ttl)*time.Second).Nanoseconds())
		}
	}
	gone := history.Operation{Client: -2, Kind: history.Delete, Key: key, Call: promised, Outcome: history.Unknown}
	if put.Outcome == history.Answered && random.Intn(3) == 0 && l.now()+time.Second.Nanoseconds() < promised {
		gone.Call = l.now()
		if revision, err := revoke(someone(), granted.ID); err == nil {
			h.count(&h.revoked)
			gone.Outcome, gone.Revision, gone.Return, gone.Done = history.Answered, revision, l.now(), true
		}
	}
	l.record(gone)
}

func grant(connection *grpc.ClientConn) (*pb.LeaseGrantResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	return pb.NewLeaseClient(connection).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: int64(leaseTTL / time.Second)})
}

func putLeased(connection *grpc.ClientConn, o *history.Operation, lease int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	answer, err := pb.NewKVClient(connection).Put(ctx, &pb.PutRequest{Key: []byte(o.Key), Value: []byte(o.Value), Lease: lease})
	o.Revision = answer.GetHeader().GetRevision()
	return err
}

// keepAlive tells the time that is promised from now on, in seconds; none for a lease that is gone.
func keepAlive(connection *grpc.ClientConn, lease int64) (ttl int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), leaseTTL/2)
	defer cancel()
	stream, err := pb.NewLeaseClient(connection).LeaseKeepAlive(ctx)
	if err == nil {
		err = stream.Send(&pb.LeaseKeepAliveRequest{ID: lease})
	}
	if err != nil {
		return 0, err
	}
	answer, err := stream.Recv()
	return answer.GetTTL(), err
}

func revoke(connection *grpc.ClientConn, lease int64) (revision int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	answer, err := pb.NewLeaseClient(connection).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: lease})
	return answer.GetHeader().GetRevision(), err
}

func (h *holders) count(what *int) {
	h.mu.Lock()
	*what++
	h.mu.Unlock()
}

func (h *holders) complain(format string, arguments ...any) {
	h.mu.Lock()
	h.wrong = append(h.wrong, fmt.Sprintf(format, arguments...))
	h.mu.Unlock()
}

// leaseComplaints waits for the ends of the leases that nobody keeps any more.
func (l *load) leaseComplaints() []string {
	h := l.holders
	complaints := h.wrong
	left, deadline := int64(-1), time.Now().Add(endsWithin)
	for left != 0 && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond)
		left = l.leased()
	}
	if left != 0 {
		complaints = append(complaints, fmt.Sprintf("%d keys of leases that nobody keeps are left after %v", left, endsWithin))
	}
	fmt.Printf("%d leases were granted, %d kept alive, %d revoked\n", h.granted, h.renewed, h.revoked)
	return complaints
}

// leased counts the keys on leases; -1 where nobody tells.
func (l *load) leased() int64 {
	connection, err := server.Dial(l.cluster.members[0].Endpoint)
	if err != nil {
		return -1
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	answer, err := pb.NewKVClient(connection).Range(ctx, &pb.RangeRequest{Key: []byte("lease/"), RangeEnd: []byte("lease0"), CountOnly: true})
	if err != nil {
		return -1
	}
	return answer.Count
}
