package ledger

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/server"
)

// change is one key's part of a write. A value that no other write carries makes each put recognisable; a delete is
// recognised by its writer's own key.
type change struct {
	key    string
	value  string
	delete bool
}

// attempt is one write that was sent: all of its changes happen at one revision, or none.
type attempt struct {
	changes  []change
	revision int64 // 0 while nothing was acknowledged
}

// Load is a round of writers, and a watch beside them.
type Load struct {
	group    sync.WaitGroup
	stop     context.CancelFunc
	mu       sync.Mutex
	attempts []*attempt
	leases   []int64 // grants acknowledged
	watched  []*mvccpb.Event
	highest  int64 // highest revision in any answer
	// Unanswered counts the writes that got no answer; Snapshots the whole ones that were taken.
	Unanswered int
	Snapshots  atomic.Int64
	floor      int64 // verified: what may be compacted to
	watchers   []*watcher
	asked      int64
	compacted  int64
	expiries   map[string]time.Time
	wrong      []string
}

func dial(endpoint string) *grpc.ClientConn {
	connection, err := server.Dial(endpoint)
	if err != nil {
		panic(err) // only malformed targets do this
	}
	return connection
}

// Options says what goes on beside the writers.
type Options struct {
	Writers int
	// Everything: compactions, watchers that resume, leases that end, large values, snapshots.
	Everything bool
	// LargeBytes is the size of large values; they make the log grow, so that checkpoints come.
	LargeBytes int
}

// Start puts a server under load until Finish.
func (b *Ledger) Start(endpoint string, round int, options Options, seed int64) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{stop: cancel, expiries: map[string]time.Time{}, watchers: b.watchers, floor: b.verified()}
	writers := options.Writers
	if options.Everything {
		l.startRest(ctx, endpoint, round, options)
	}
	for writer := range writers {
		random := rand.New(rand.NewSource(seed + int64(writer)))
		l.group.Go(func() { l.write(ctx, endpoint, round, writer, random) })
	}
	l.group.Go(func() { l.watch(ctx, endpoint) })
	return l
}

// Finish waits for the writers of a killed server and enters what they know into the ledger.
func (l *Load) Finish(book *Ledger) {
	time.Sleep(10 * time.Millisecond)
	l.stop()
	l.group.Wait()
	for _, a := range l.attempts {
		if a.revision == 0 {
			l.Unanswered++
		}
	}
	book.enter(l)
}

func (l *Load) write(ctx context.Context, endpoint string, round, writer int, random *rand.Rand) {
	connection := dial(endpoint)
	defer connection.Close()
	kv, lease := pb.NewKVClient(connection), pb.NewLeaseClient(connection)
	for n := 0; ctx.Err() == nil; n++ {
		if n%200 == 199 {
			l.grant(ctx, lease)
			continue
		}
		a := &attempt{changes: changesOf(round, writer, n, random)}
		l.mu.Lock()
		l.attempts = append(l.attempts, a)
		l.mu.Unlock()
		revision, err := send(ctx, kv, a)
		if err != nil {
			return // the server is gone; whether this one counts, its history will say
		}
		l.mu.Lock()
		a.revision, l.highest = revision, max(l.highest, revision)
		l.mu.Unlock()
	}
}

func (l *Load) grant(ctx context.Context, client pb.LeaseClient) {
	granted, err := client.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 1_000_000})
	if err == nil {
		l.mu.Lock()
		l.leases = append(l.leases, granted.ID)
		l.mu.Unlock()
	}
}

// changesOf makes the n-th write of a writer: mostly one put, sometimes a transaction over several keys, sometimes a
// delete of the key that it put just before.
func changesOf(round, writer, n int, random *rand.Rand) []change {
	name := func(i int) string { return fmt.Sprintf("w%02d/%02d", writer, i) }
	value := fmt.Sprintf("%d.%d.%d ", round, writer, n)
	padding := make([]byte, random.Intn(300))
	for i := range padding {
		padding[i] = 'a' + byte(random.Intn(26))
	}
	switch kind := n % 10; {
	case kind == 4:
		var list []change
		for i := range 1 + random.Intn(5) {
			list = append(list, change{key: name(20 + i), value: fmt.Sprintf("%s%d %s", value, i, padding)})
		}
		return list
	case kind == 6:
		return []change{{key: name(19), value: value}}
	case kind == 7: // the put before was acknowledged, so there is a key to delete
		return []change{{key: name(19), delete: true}}
	default:
		return []change{{key: name(random.Intn(19)), value: value + string(padding)}}
	}
}

func send(ctx context.Context, kv pb.KVClient, a *attempt) (revision int64, err error) {
	first := a.changes[0]
	switch {
	case first.delete:
		answer, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(first.key)})
		return answer.GetHeader().GetRevision(), err
	case len(a.changes) == 1:
		answer, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(first.key), Value: []byte(first.value)})
		return answer.GetHeader().GetRevision(), err
	}
	request := &pb.TxnRequest{}
	for _, c := range a.changes {
		put := &pb.PutRequest{Key: []byte(c.key), Value: []byte(c.value)}
		request.Success = append(request.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	answer, err := kv.Txn(ctx, request)
	return answer.GetHeader().GetRevision(), err
}

// watch records what a watcher was shown while the writers were at work: shown is as good as acknowledged.
func (l *Load) watch(ctx context.Context, endpoint string) {
	connection := dial(endpoint)
	defer connection.Close()
	stream, err := pb.NewWatchClient(connection).Watch(ctx)
	if err != nil {
		return
	}
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	if stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}) != nil {
		return
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return
		}
		l.mu.Lock()
		l.watched = append(l.watched, response.Events...)
		l.highest = max(l.highest, response.Header.GetRevision())
		l.mu.Unlock()
	}
}
