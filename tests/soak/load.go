package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/probe"
	"ringstone.test/internal/server"
)

const (
	connections = 10
	inFlight    = 32
	prefix      = "/soak/"
	// streamWatchers is how many watchers share a stream, as an API server's do.
	streamWatchers = 100
)

type load struct {
	*settings
	clients  []*grpc.ClientConn
	watchers []*watcher
	all      []*watcher
	// revisions of the changes to the keys of each lease, in order.
	revisions [][]int64
	changed   int
	took      probe.Latencies
	// renewals counts keep-alive answers; those with a TTL of 0 say that the lease has ended.
	renewals, ended atomic.Int64
	faults          chan error
}

func newLoad(endpoint string, s *settings) (*load, error) {
	l := &load{settings: s, revisions: make([][]int64, s.leases), faults: make(chan error, 1)}
	for range connections {
		client, err := server.Dial(endpoint)
		if err != nil {
			return nil, err
		}
		l.clients = append(l.clients, client)
	}
	return l, nil
}

func (l *load) fault(err error) {
	select {
	case l.faults <- err:
	default:
	}
}

// folder holds the keys of a lease.
func folder(lease int) string { return fmt.Sprintf("%s%06d/", prefix, lease) }

func (l *load) key(number int) []byte {
	return fmt.Appendf(nil, "%s%06d", folder(number%l.leases), number/l.leases)
}

// each calls for all numbers below count, on all connections.
func (l *load) each(count int, call func(client *grpc.ClientConn, number int) error) error {
	var next atomic.Int64
	var group sync.WaitGroup
	failures := make(chan error, connections*inFlight)
	for worker := range connections * inFlight {
		client := l.clients[worker%connections]
		group.Go(func() {
			for {
				number := int(next.Add(1)) - 1
				if number >= count {
					return
				}
				if err := call(client, number); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

func (l *load) put(client *grpc.ClientConn, number int, value []byte) (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	answer, err := pb.NewKVClient(client).Put(ctx, &pb.PutRequest{Key: l.key(number), Value: value, Lease: int64(number%l.leases) + 1})
	if err != nil {
		return 0, err
	}
	return answer.Header.Revision, nil
}

func (l *load) setUp() error {
	err := l.each(l.leases, func(client *grpc.ClientConn, number int) error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, err := pb.NewLeaseClient(client).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: int64(number) + 1, TTL: int64(l.ttl / time.Second)})
		return err
	})
	if err != nil {
		return fmt.Errorf("a grant: %w", err)
	}
	l.keepAlive()
	value := make([]byte, 256)
	err = l.each(l.keys, func(client *grpc.ClientConn, number int) error {
		_, err := l.put(client, number, value)
		return err
	})
	if err != nil {
		return fmt.Errorf("a put: %w", err)
	}
	return l.watch()
}

// keepAlive renews each lease three times in its TTL, spread evenly, a stream a connection.
func (l *load) keepAlive() {
	for index, client := range l.clients {
		stream, err := pb.NewLeaseClient(client).LeaseKeepAlive(context.Background())
		if err != nil {
			l.fault(err)
			return
		}
		go func() {
			for {
				answer, err := stream.Recv()
				if err != nil {
					l.fault(fmt.Errorf("keep-alives: %w", err))
					return
				}
				l.renewals.Add(1)
				if answer.TTL <= 0 {
					l.ended.Add(1)
				}
			}
		}()
		go func() {
			mine := (l.leases - index + connections - 1) / connections
			for began := time.Now(); ; began = began.Add(l.ttl / 3) {
				for number := range mine {
					if wait := time.Until(began.Add(l.ttl / 3 * time.Duration(number) / time.Duration(mine))); wait > time.Millisecond {
						time.Sleep(wait)
					}
					if stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(index+number*connections) + 1}) != nil {
						return
					}
				}
			}
		}()
	}
}

// change puts random keys at an even pace until done.
func (l *load) change(done time.Time, eachSecond func()) {
	began, spacing := time.Now(), time.Duration(float64(time.Minute)/(float64(l.keys)*l.changes))
	random := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, 256)
	second := began
	for number := 0; ; number++ {
		due := began.Add(spacing * time.Duration(number))
		if due.After(done) {
			break
		}
		time.Sleep(time.Until(due))
		key := random.IntN(l.keys)
		asked := time.Now()
		revision, err := l.put(l.clients[number%connections], key, value)
		if err != nil {
			l.fault(fmt.Errorf("a put: %w", err))
			break
		}
		l.took = append(l.took, time.Since(asked))
		l.revisions[key%l.leases] = append(l.revisions[key%l.leases], revision)
		l.changed++
		if time.Since(second) >= time.Second {
			second = time.Now()
			eachSecond()
		}
	}
	slices.Sort(l.took)
	// The last events are on their way.
	time.Sleep(2 * time.Second)
}

func (l *load) latencies() probe.Latencies { return l.took }
