package main

import (
	"context"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/history"
	"ringstone.test/internal/server"
)

const (
	// hotKeys are what clients contend for; the others are wide.
	hotKeys, wideKeys = 8, 200
	// callBound is behind the longest fault: an outcome that is not known by then never will be.
	callBound = 3 * time.Second
)

// load is clients at work, and what they were told.
type load struct {
	cluster  *cluster
	began    time.Time
	stop     chan struct{}
	group    sync.WaitGroup
	recorded []history.Operation
	lock     sync.Mutex
	total    atomic.Int64
	larges   atomic.Int64
	// written is the time of the latest acknowledged write, in nanoseconds since began.
	written  atomic.Int64
	watchers []*watcher
	holders  *holders
	// compactions that were answered.
	compactions atomic.Int64
}

func startLoad(c *cluster, clients int, seed int64) *load {
	l := &load{cluster: c, began: time.Now(), stop: make(chan struct{})}
	for n := range clients {
		l.group.Add(1)
		go func() {
			defer l.group.Done()
			l.client(n, rand.New(rand.NewSource(seed+int64(n))))
		}()
	}
	l.watchers = startWatchers(l, seed)
	l.holders = startHolders(l, seed)
	l.group.Go(func() { l.compact(rand.New(rand.NewSource(seed - 100))) })
	return l
}

func (l *load) count() int { return int(l.total.Load()) }

// finish ends the clients and those who hold leases; the watchers go on.
func (l *load) finish() []history.Operation {
	close(l.stop)
	l.group.Wait()
	return l.recorded
}

// record enters what was asked for beside the clients.
func (l *load) record(operations ...history.Operation) {
	l.lock.Lock()
	l.recorded = append(l.recorded, operations...)
	l.lock.Unlock()
}

func (l *load) now() int64 { return time.Since(l.began).Nanoseconds() }

// largeBytes is the length of a large value: etcd takes requests up to 1.5 MiB.
const largeBytes = 1 << 20

// large puts large values to one key.
func (l *load) large(member, puts int) error {
	connection, err := server.Dial(l.cluster.members[member].Endpoint)
	if err != nil {
		return err
	}
	defer connection.Close()
	for range puts {
		n := l.larges.Add(1)
		o := history.Operation{Client: -1, Member: member, Kind: history.Put, Key: "large", Value: fmt.Sprintf("large-%d-%s", n, strings.Repeat("x", largeBytes))}
		if l.call(pb.NewKVClient(connection), &o) {
			o.Value = brief(o.Value)
			l.record(o)
		}
	}
	return nil
}

// client goes from member to member; a call that has no answer it does not repeat.
func (l *load) client(n int, random *rand.Rand) {
	connections := l.dial()
	defer hangUp(connections)
	stubs := make([]pb.KVClient, len(connections))
	for i, connection := range connections {
		stubs[i] = pb.NewKVClient(connection)
	}
	var own []history.Operation
	known := map[string]string{}
	for count := 0; ; count++ {
		select {
		case <-l.stop:
			l.record(own...)
			return
		case <-time.After(time.Duration(random.Intn(4)) * time.Millisecond):
		}
		o := operation(n, count, random, known)
		o.Member = random.Intn(len(stubs))
		if l.call(stubs[o.Member], &o) {
			own = append(own, o)
			l.total.Add(1)
		}
		if o.Outcome != history.Answered {
			time.Sleep(time.Duration(random.Intn(50)) * time.Millisecond)
		} else {
			known[o.Key] = o.Found
			if o.Kind == history.Put || o.Kind == history.Swap && o.Done {
				known[o.Key] = o.Value
				l.written.Store(o.Return)
			}
		}
	}
}

// dial makes a connection to each member.
func (l *load) dial() []*grpc.ClientConn {
	connections := make([]*grpc.ClientConn, len(l.cluster.members))
	for i, member := range l.cluster.members {
		quick := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 200 * time.Millisecond}
		connection, err := grpc.NewClient("passthrough:///"+member.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<31-1)))
		if err != nil {
			panic(err) // only malformed targets do this
		}
		connections[i] = connection
	}
	return connections
}

func hangUp(connections []*grpc.ClientConn) {
	for _, connection := range connections {
		_ = connection.Close()
	}
}

func operation(client, count int, random *rand.Rand, known map[string]string) history.Operation {
	key := fmt.Sprint("wide/", random.Intn(wideKeys))
	if random.Intn(2) == 0 {
		key = fmt.Sprint("hot/", random.Intn(hotKeys))
	}
	o := history.Operation{Client: client, Key: key}
	switch n := random.Intn(100); {
	case n < 35:
		o.Kind, o.Value = history.Put, fmt.Sprintf("%d-%d", client, count)
	case n < 50:
		o.Kind, o.Value, o.Expected = history.Swap, fmt.Sprintf("%d-%d", client, count), known[key]
	case n < 60:
		o.Kind = history.Delete
	case n < 70:
		o.Kind = history.Serializable
	default:
		o.Kind = history.Get
	}
	return o
}

// call sends the operation and notes what came back; false if nothing is known that could matter.
func (l *load) call(kv pb.KVClient, o *history.Operation) bool {
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	o.Call = l.now()
	err := send(ctx, kv, o)
	o.Return = l.now()
	switch {
	case err == nil:
		o.Outcome = history.Answered
		return true
	case strings.Contains(err.Error(), "not supported for learner") || strings.Contains(err.Error(), "database space exceeded"):
		// A member that is being replaced, and one whose disk is full: it has not happened.
		return false
	case status.Code(err) == codes.InvalidArgument || status.Code(err) == codes.FailedPrecondition:
		panic(fmt.Sprintf("refused: %v: %+v", err, *o))
	}
	if strings.Contains(err.Error(), "while dialing") {
		// It was never sent.
		return false
	}
	o.Outcome, o.Return = history.Unknown, 0
	return o.Kind != history.Get && o.Kind != history.Serializable
}

func send(ctx context.Context, kv pb.KVClient, o *history.Operation) error {
	key := []byte(o.Key)
	switch o.Kind {
	case history.Put:
		answer, err := kv.Put(ctx, &pb.PutRequest{Key: key, Value: []byte(o.Value)})
		if err != nil {
			return err
		}
		o.Revision = answer.Header.Revision
	case history.Swap:
		answer, err := kv.Txn(ctx, swap(key, o))
		if err != nil {
			return err
		}
		o.Revision, o.Done = answer.Header.Revision, answer.Succeeded
	case history.Delete:
		answer, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key})
		if err != nil {
			return err
		}
		o.Revision, o.Done = answer.Header.Revision, answer.Deleted > 0
	case history.Get, history.Serializable:
		answer, err := kv.Range(ctx, &pb.RangeRequest{Key: key, Serializable: o.Kind == history.Serializable})
		if err != nil {
			return err
		}
		o.Revision = answer.Header.Revision
		if len(answer.Kvs) > 0 {
			o.Found, o.FoundAt = string(answer.Kvs[0].Value), answer.Kvs[0].ModRevision
		}
	}
	return nil
}

func swap(key []byte, o *history.Operation) *pb.TxnRequest {
	compare := &pb.Compare{Key: key, Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Value{Value: []byte(o.Expected)}}
	if o.Expected == "" {
		compare.Target, compare.TargetUnion = pb.Compare_CREATE, &pb.Compare_CreateRevision{CreateRevision: 0}
	}
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte(o.Value)}}}
	return &pb.TxnRequest{Compare: []*pb.Compare{compare}, Success: []*pb.RequestOp{put}}
}
