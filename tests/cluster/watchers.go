package main

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"ringstone.test/internal/history"
)

const (
	// watchPatience is how long a watch of a cluster that serves may need for what has happened.
	watchPatience = 20 * time.Second
	// progressPause is between two requests for a notice.
	progressPause   = 500 * time.Millisecond
	compactionPause = 1500 * time.Millisecond
	// keptRevisions of what all watchers have seen are not compacted, so that members have a past to show.
	keptRevisions = 300
)

// watcher watches a prefix at one member; when its watch ends, or now and then without a reason, it asks another member for what
// follows the last event that it saw. What it is shown in all must be the history: each event once, in order, none left out.
type watcher struct {
	prefix string
	// picky asks for a member that has a leader, so its watch ends on one that is cut off.
	picky bool
	// longest is how long it stays at a member.
	longest time.Duration

	stop context.CancelFunc
	done chan struct{}
	mu   sync.Mutex
	// last is the revision up to which it needs no history any more.
	last    int64
	shown   []history.Event
	resumed int
	wrong   []string
}

func startWatchers(l *load, seed int64) []*watcher {
	all := []*watcher{
		{longest: time.Hour}, {longest: time.Hour, picky: true}, {longest: 2 * time.Second},
		{prefix: "hot/", longest: 5 * time.Second, picky: true}, {prefix: "lease/", longest: 5 * time.Second},
	}
	for n, w := range all {
		ctx, cancel := context.WithCancel(context.Background())
		w.stop, w.done = cancel, make(chan struct{})
		random := rand.New(rand.NewSource(seed - 1 - int64(n)))
		go func() {
			defer close(w.done)
			connections := l.dial()
			defer hangUp(connections)
			for ctx.Err() == nil {
				w.watch(ctx, connections[random.Intn(len(connections))])
				time.Sleep(time.Duration(random.Intn(20)) * time.Millisecond)
			}
		}()
	}
	return all
}

// watch stays at a member until the watch ends.
func (w *watcher) watch(ctx context.Context, connection *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(ctx, w.longest)
	defer cancel()
	if w.picky {
		ctx = metadata.AppendToOutgoingContext(ctx, "hasleader", "true")
	}
	stream, err := pb.NewWatchClient(connection).Watch(ctx)
	if err != nil {
		return
	}
	w.mu.Lock()
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: w.last + 1, ProgressNotify: true}
	w.resumed++
	w.mu.Unlock()
	if w.prefix != "" {
		create.Key, create.RangeEnd = []byte(w.prefix), []byte(w.prefix)
		create.RangeEnd[len(w.prefix)-1]++
	}
	if stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}) != nil {
		return
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(progressPause):
			}
			if stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}) != nil {
				return
			}
		}
	}()
	for {
		response, err := stream.Recv()
		if err != nil {
			return
		}
		w.take(response)
		if response.Canceled {
			return
		}
	}
}

func (w *watcher) take(response *pb.WatchResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if response.CompactRevision > 0 {
		w.wrong = append(w.wrong, fmt.Sprintf("a watch of %q from %d is told that this was compacted, and it was not: %v", w.prefix, w.last+1, response))
	}
	for _, event := range response.Events {
		if event.Kv.ModRevision <= w.last {
			w.wrong = append(w.wrong, fmt.Sprintf("a watch of %q went from revision %d to %d", w.prefix, w.last, event.Kv.ModRevision))
		}
		w.last = event.Kv.ModRevision
		w.shown = append(w.shown, eventOf(event))
	}
	// A notice promises that all up to it was shown.
	if len(response.Events) == 0 && !response.Created && !response.Canceled {
		w.last = max(w.last, response.Header.GetRevision())
	}
}

// compact takes away what all watchers have seen, again and again.
func (l *load) compact(random *rand.Rand) {
	connections := l.dial()
	defer hangUp(connections)
	for asked := int64(0); !l.stopped(); l.rest(compactionPause) {
		target := int64(math.MaxInt64)
		for _, w := range l.watchers {
			target = min(target, w.seen())
		}
		target -= keptRevisions
		if target <= asked {
			continue
		}
		asked = target
		ctx, cancel := context.WithTimeout(context.Background(), callBound)
		_, err := pb.NewKVClient(connections[random.Intn(len(connections))]).Compact(ctx, &pb.CompactionRequest{Revision: target})
		cancel()
		if err == nil {
			l.compactions.Add(1)
		}
	}
}

// history waits until each watcher was shown all up to a revision, and ends them. It answers what the first one was shown, which is
// the history unless a judge says otherwise, and what the others' accounts have against it.
func (l *load) history(upTo int64) (events []history.Event, complaints []string) {
	resumed, shown := 0, 0
	deadline := time.Now().Add(watchPatience)
	for _, w := range l.watchers {
		for w.seen() < upTo && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
		}
		if seen := w.seen(); seen < upTo {
			complaints = append(complaints, fmt.Sprintf("a watch of %q was shown nothing behind revision %d within %v; the store is at %d", w.prefix, seen, watchPatience, upTo))
		}
	}
	for _, w := range l.watchers {
		w.stop()
		<-w.done
		resumed, shown = resumed+w.resumed, shown+len(w.shown)
	}
	events = l.watchers[0].shown
	for _, w := range l.watchers {
		complaints = append(complaints, w.wrong...)
		complaints = append(complaints, w.compare(events, upTo)...)
	}
	fmt.Printf("%d watchers were shown %d events over %d watches; %d compactions\n", len(l.watchers), shown, resumed, l.compactions.Load())
	return events, complaints
}

func (w *watcher) seen() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// compare holds what it was shown to the history, as far as both must go.
func (w *watcher) compare(events []history.Event, upTo int64) []string {
	own := w.shown
	for _, event := range events {
		if !strings.HasPrefix(event.Key, w.prefix) || event.Revision > upTo {
			continue
		}
		if len(own) == 0 || own[0].Revision > event.Revision {
			return []string{fmt.Sprintf("a watch of %q was not shown revision %d (%s)", w.prefix, event.Revision, event.Key)}
		}
		if own[0] != event {
			return []string{fmt.Sprintf("a watch of %q was shown revision %d (%s) where the history has %d (%s)", w.prefix, own[0].Revision, own[0].Key, event.Revision, event.Key)}
		}
		own = own[1:]
	}
	if len(own) > 0 && own[0].Revision <= upTo {
		return []string{fmt.Sprintf("a watch of %q was shown revision %d (%s), which another one was not", w.prefix, own[0].Revision, own[0].Key)}
	}
	return nil
}
