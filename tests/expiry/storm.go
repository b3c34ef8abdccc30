package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/server"
)

const (
	connections = 8
	inFlight    = 48
	// pollInterval is between two lists of the leases.
	pollInterval = 200 * time.Millisecond
	prefix       = "expiry/"
)

// lease is one lease with all that is seen of it.
type lease struct {
	ttl      time.Duration
	asked    time.Time // before the grant was sent
	answered time.Time // after its answer
	// goneBy is when its end was seen: by its key's delete, or by a list that was answered without it.
	goneBy  time.Time
	deletes int
}

func (l *lease) deadline() time.Time { return l.answered.Add(l.ttl) }

type storm struct {
	leases   []lease
	keys     int
	granting time.Duration

	clients  []*grpc.ClientConn
	mu       sync.Mutex
	undeled  int
	keysGone chan struct{}
}

func newStorm(endpoint string, leases, keys int) (*storm, error) {
	s := &storm{leases: make([]lease, leases), keys: keys, undeled: keys, keysGone: make(chan struct{})}
	for range connections {
		client, err := server.Dial(endpoint)
		if err != nil {
			return nil, err
		}
		s.clients = append(s.clients, client)
	}
	return s, s.watch()
}

// id of a lease by its number; 0 is none.
func id(number int) int64 { return int64(number) + 1 }

func key(number int) []byte { return binary.BigEndian.AppendUint32([]byte(prefix), uint32(number)) }

// grant makes all leases, the first ones with a key, so that they are due at about the same time.
func (s *storm) grant(due time.Time) error {
	began := time.Now()
	var next atomic.Int64
	var group sync.WaitGroup
	failures := make(chan error, connections*inFlight)
	for worker := range connections * inFlight {
		client := s.clients[worker%connections]
		group.Go(func() {
			for {
				number := int(next.Add(1)) - 1
				if number >= len(s.leases) {
					return
				}
				if err := s.grantOne(client, number, due); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	group.Wait()
	s.granting = time.Since(began)
	select {
	case err := <-failures:
		return fmt.Errorf("a grant: %w", err)
	default:
		return nil
	}
}

func (s *storm) grantOne(client *grpc.ClientConn, number int, due time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	lease := &s.leases[number]
	lease.asked = time.Now()
	// Rounded up: the deadlines lie in the second that begins when they are due.
	lease.ttl = (due.Sub(lease.asked) + time.Second).Truncate(time.Second)
	if lease.ttl < 2*time.Second {
		return fmt.Errorf("granting takes too long for the TTL")
	}
	_, err := pb.NewLeaseClient(client).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id(number), TTL: int64(lease.ttl / time.Second)})
	if err != nil {
		return err
	}
	lease.answered = time.Now()
	if number >= s.keys {
		return nil
	}
	_, err = pb.NewKVClient(client).Put(ctx, &pb.PutRequest{Key: key(number), Value: []byte("held"), Lease: id(number)})
	return err
}

func (s *storm) deadlines() (first, last time.Time) {
	first = s.leases[0].deadline()
	for i := range s.leases {
		deadline := s.leases[i].deadline()
		if deadline.Before(first) {
			first = deadline
		}
		if deadline.After(last) {
			last = deadline
		}
	}
	return first, last
}

// watch notes when the keys go.
func (s *storm) watch() error {
	client, err := server.Dial(s.clients[0].Target()[len("passthrough:///"):])
	if err != nil {
		return err
	}
	stream, err := pb.NewWatchClient(client).Watch(context.Background())
	if err != nil {
		return err
	}
	create := &pb.WatchCreateRequest{Key: []byte(prefix), RangeEnd: []byte("expiry0"), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				return
			}
			s.noteDeletes(response, time.Now())
		}
	}()
	return nil
}

func (s *storm) noteDeletes(response *pb.WatchResponse, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, event := range response.Events {
		lease := &s.leases[binary.BigEndian.Uint32(event.Kv.Key[len(prefix):])]
		lease.deletes++
		if lease.deletes == 1 {
			lease.goneBy = now
			s.undeled--
		}
	}
	if s.undeled == 0 && len(response.Events) > 0 {
		select {
		case <-s.keysGone:
		default:
			close(s.keysGone)
		}
	}
}

// observe lists the leases until none is left, then waits for the last delete.
func (s *storm) observe(giveUp time.Time) {
	for time.Now().Before(giveUp) {
		began := time.Now()
		left, err := s.list()
		if err != nil {
			fmt.Println("a list of the leases:", err)
			return
		}
		if left == 0 {
			break
		}
		time.Sleep(time.Until(began.Add(pollInterval)))
	}
	if s.keys == 0 {
		return
	}
	select {
	case <-s.keysGone:
	case <-time.After(5 * time.Second):
	}
}

func (s *storm) list() (left int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := pb.NewLeaseClient(s.clients[0]).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return 0, err
	}
	now := time.Now()
	alive := make([]bool, len(s.leases))
	for _, listed := range answer.Leases {
		if number := listed.ID - 1; number >= 0 && number < int64(len(alive)) {
			alive[number] = true
			left++
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for number := s.keys; number < len(s.leases); number++ {
		if !alive[number] && s.leases[number].goneBy.IsZero() {
			s.leases[number].goneBy = now
		}
	}
	return left, nil
}
