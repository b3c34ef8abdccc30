package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watcher is one watch and the revisions that it was told of.
type watcher struct {
	low, high string

	mu      sync.Mutex
	told    []int64
	deletes int
}

func (w *watcher) note(events []*mvccpb.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, event := range events {
		if event.Type == mvccpb.DELETE {
			w.deletes++
		}
		w.told = append(w.told, event.Kv.ModRevision)
	}
}

func (w *watcher) seen() ([]int64, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told), w.deletes
}

// watch makes all watchers and returns once all of them are confirmed.
func (l *load) watch() error {
	for number := range l.settings.watchers {
		low := folder(number)
		l.watchers = append(l.watchers, &watcher{low: low, high: strings.TrimSuffix(low, "/") + "0"})
	}
	for range l.wide {
		l.all = append(l.all, &watcher{low: prefix, high: strings.TrimSuffix(prefix, "/") + "0"})
	}
	confirmed := make(chan error, len(l.watchers)+len(l.all))
	stream := 0
	for chunk := range slices.Chunk(l.watchers, streamWatchers) {
		l.stream(l.clients[stream%connections], chunk, confirmed)
		stream++
	}
	for _, wide := range l.all {
		l.stream(l.clients[stream%connections], []*watcher{wide}, confirmed)
		stream++
	}
	for range len(l.watchers) + len(l.all) {
		select {
		case err := <-confirmed:
			if err != nil {
				return err
			}
		case <-time.After(30 * time.Second):
			return fmt.Errorf("a watcher is not confirmed within 30 s")
		}
	}
	return nil
}

func (l *load) stream(client *grpc.ClientConn, watchers []*watcher, confirmed chan<- error) {
	stream, err := pb.NewWatchClient(client).Watch(context.Background())
	if err != nil {
		confirmed <- err
		return
	}
	go func() {
		for {
			answer, err := stream.Recv()
			switch {
			case err != nil:
				l.fault(fmt.Errorf("a watch stream: %w", err))
				return
			case answer.Canceled:
				l.fault(fmt.Errorf("watcher %d was cancelled: %s", answer.WatchId, answer.CancelReason))
			case answer.Created:
				confirmed <- nil
			default:
				watchers[answer.WatchId].note(answer.Events)
			}
		}
	}()
	for number, w := range watchers {
		create := &pb.WatchCreateRequest{Key: []byte(w.low), RangeEnd: []byte(w.high), WatchId: int64(number)}
		if number == 0 {
			// 0 asks for an id, and the first one is 0.
			create.WatchId = 0
		}
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			confirmed <- err
			return
		}
	}
}

func count(watchers []*watcher) (events int) {
	for _, w := range watchers {
		told, _ := w.seen()
		events += len(told)
	}
	return events
}

func (l *load) narrowEvents() int { return count(l.watchers) }
func (l *load) wideEvents() int   { return count(l.all) }

// judge compares what the watchers were told with the revisions of the answers.
func (l *load) judge(check func(name, complaint string)) {
	wrong, deletes := "", 0
	for lease, w := range l.watchers {
		told, gone := w.seen()
		deletes += gone
		if wrong == "" && !slices.Equal(told, l.revisions[lease]) {
			wrong = fmt.Sprintf("the watcher of %s was told of %v, the changes were %v", w.low, told, l.revisions[lease])
		}
	}
	check("each watcher is told of its keys' changes, once and in order", wrong)
	every := slices.Concat(l.revisions...)
	slices.Sort(every)
	wrong = ""
	for _, w := range l.all {
		told, gone := w.seen()
		deletes += gone
		if wrong == "" && !slices.Equal(told, every) {
			wrong = fmt.Sprintf("one was told of %d changes, there were %d", len(told), len(every))
		}
	}
	check("each watcher of all keys is told of all changes, once and in order", wrong)
	early := ""
	if ended := l.ended.Load(); ended > 0 || deletes > 0 {
		early = fmt.Sprintf("%d keep-alives were told that their lease had ended, %d keys were deleted", ended, deletes)
	}
	check("no lease ended early", early)
	few := ""
	if renewals, least := l.renewals.Load(), int64(l.duration/l.ttl)*int64(l.leases)*2; renewals < least {
		few = fmt.Sprintf("%d keep-alives were answered, at least %d were due", renewals, least)
	}
	check("keep-alives were answered", few)
	broken := ""
	select {
	case err := <-l.faults:
		broken = err.Error()
	default:
	}
	check("no call failed", broken)
	if l.changed == 0 {
		check("keys changed", "none did")
	}
}
