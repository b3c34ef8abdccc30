package ledger

import (
	"context"
	"fmt"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watcher lives through all kills: after each it asks for what follows the last event that it saw, as informers do. What
// it is shown in all is the history, from its beginning and without a hole.
type watcher struct {
	prefix string

	mu    sync.Mutex
	last  int64
	shown []shownEvent // not compared yet
	// Events of the history that were compared.
	compared int
	wrong    []string
}

type shownEvent struct {
	revision int64
	name     string
}

func newWatchers() []*watcher {
	return []*watcher{{prefix: ""}, {prefix: ""}, {prefix: "w00/"}, {prefix: "w01/"}}
}

// seen is the revision up to which it needs no history any more.
func (w *watcher) seen() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

func (w *watcher) follow(ctx context.Context, endpoint string) {
	connection := dial(endpoint)
	defer connection.Close()
	stream, err := pb.NewWatchClient(connection).Watch(ctx)
	if err != nil {
		return
	}
	key, end := []byte(w.prefix), []byte(w.prefix)
	if w.prefix == "" {
		key, end = []byte{0}, []byte{0}
	} else {
		end[len(end)-1]++
	}
	create := &pb.WatchCreateRequest{Key: key, RangeEnd: end, StartRevision: w.seen() + 1}
	if stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}) != nil {
		return
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return
		}
		w.mu.Lock()
		if response.Canceled {
			w.wrong = append(w.wrong, fmt.Sprintf("a watch of %q from %d was cancelled: %v", w.prefix, w.last+1, response))
		}
		for _, event := range response.Events {
			if event.Kv.ModRevision < w.last {
				w.wrong = append(w.wrong, fmt.Sprintf("a watch of %q went from %d to %d", w.prefix, w.last, event.Kv.ModRevision))
			}
			w.last = event.Kv.ModRevision
			w.shown = append(w.shown, shownEvent{event.Kv.ModRevision, nameOf(event)})
		}
		w.mu.Unlock()
	}
}

// checkWatchers compares what each watcher was shown with the history that was verified.
func (b *Ledger) checkWatchers() (complaints []string) {
	for _, w := range b.watchers {
		b.Watched += len(w.shown)
		complaints = append(complaints, w.wrong...)
		w.wrong = nil
		complaints = append(complaints, w.compare(b)...)
	}
	return complaints
}

func (w *watcher) compare(b *Ledger) (complaints []string) {
	for _, shown := range w.shown {
		for w.compared < len(b.history) && !strings.HasPrefix(string(b.history[w.compared].Kv.Key), w.prefix) {
			w.compared++
		}
		if w.compared == len(b.history) {
			return []string{fmt.Sprintf("a watch of %q was shown %q at %d, behind the end of the history", w.prefix, shown.name, shown.revision)}
		}
		event := b.history[w.compared]
		if event.Kv.ModRevision != shown.revision || nameOf(event) != shown.name {
			return []string{fmt.Sprintf("a watch of %q was shown %q at %d where the history has %q at %d", w.prefix, shown.name, shown.revision, nameOf(event), event.Kv.ModRevision)}
		}
		w.compared++
	}
	w.shown = nil
	return nil
}
