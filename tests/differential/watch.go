package main

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watchStream is one Watch call on one side. Everything received is kept, in order.
type watchStream struct {
	side   *side
	stream pb.Watch_WatchClient
	cancel context.CancelFunc

	mu        sync.Mutex
	responses []*pb.WatchResponse
	ended     string // how the stream ended, when it did
}

func openWatch(s *side, headers metadata.MD) (*watchStream, error) {
	ctx, cancel := context.WithCancel(context.Background())
	if headers != nil {
		ctx = metadata.NewOutgoingContext(ctx, headers)
	}
	stream, err := pb.NewWatchClient(s.connection).Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	w := &watchStream{side: s, stream: stream, cancel: cancel}
	go w.receive()
	return w, nil
}

func (w *watchStream) receive() {
	for {
		response, err := w.stream.Recv()
		w.mu.Lock()
		if err != nil {
			w.ended = fmt.Sprintf("%v %q", status.Code(err), status.Convert(err).Message())
			if status.Code(err) == codes.Canceled {
				w.ended = ""
			}
			w.mu.Unlock()
			return
		}
		w.responses = append(w.responses, response)
		w.mu.Unlock()
	}
}

// received is a stable view of what came so far.
func (w *watchStream) received() []*pb.WatchResponse {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.responses[:len(w.responses):len(w.responses)]
}

func (w *watchStream) count(matches func(*pb.WatchResponse) bool) (n int) {
	for _, r := range w.received() {
		if matches(r) {
			n++
		}
	}
	return n
}

func isCreated(r *pb.WatchResponse) bool { return r.Created }

func isProgress(r *pb.WatchResponse) bool {
	return r.WatchId == -1 && !r.Created && !r.Canceled && len(r.Events) == 0
}

func isCanceled(id int64) func(*pb.WatchResponse) bool {
	return func(r *pb.WatchResponse) bool { return r.WatchId == id && r.Canceled && !r.Created }
}

func eventsOf(responses []*pb.WatchResponse, id int64) (n int) {
	for _, r := range responses {
		if r.WatchId == id {
			n += len(r.Events)
		}
	}
	return n
}

// eventually polls until the condition holds or the bound has passed.
func eventually(bound time.Duration, condition func() bool) bool {
	deadline := time.Now().Add(bound)
	pause := 50 * time.Microsecond
	for !condition() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pause)
		pause = min(2*pause, 5*time.Millisecond)
	}
	return true
}

// watcher is one watch id of a pair of streams: what was asked for, so that we know how many events must come.
type watcher struct {
	id      int64
	request *pb.WatchCreateRequest
	from    int64 // first revision that it is to see
	// It starts below the compact revision: the server cancels it, and the id blocks progress until the client does too.
	compacted bool
	future    bool
	expected  int // events due so far, counted over every life of the id
	position  int // how far in the history they are counted
	// Cancellations of this id that have been answered, counted over every life of it.
	cancellations int
}

func (w *watcher) takes(event *mvccpb.Event) bool {
	for _, filter := range w.request.Filters {
		if filter == pb.WatchCreateRequest_NOPUT && event.Type == mvccpb.PUT || filter == pb.WatchCreateRequest_NODELETE && event.Type == mvccpb.DELETE {
			return false
		}
	}
	key := w.request.Key
	if len(key) == 0 {
		key = []byte{0}
	}
	return event.Kv.ModRevision >= w.from && covers(key, w.request.RangeEnd, event.Kv.Key)
}

// watchPair is the same stream on both sides.
type watchPair struct {
	control, target *watchStream
	watchers        map[int64]*watcher // alive, by id
	retired         map[int64]*watcher // ended ids, whose late messages still count
	// Ids that ever asked for prev_kv, and for progress notifications.
	prevKV, notify map[int64]bool
	compared       map[int64]int // entries of each id that were found equal
	created        int
	halfClosed     bool
}

func openWatchPair(control, target *side, headers metadata.MD) (*watchPair, error) {
	c, err := openWatch(control, headers)
	if err != nil {
		return nil, err
	}
	t, err := openWatch(target, headers)
	if err != nil {
		return nil, err
	}
	return &watchPair{control: c, target: t, watchers: map[int64]*watcher{}, retired: map[int64]*watcher{}, prevKV: map[int64]bool{}, notify: map[int64]bool{}, compared: map[int64]int{}}, nil
}

func (p *watchPair) send(request *pb.WatchRequest) error {
	if err := p.control.stream.Send(request); err != nil {
		return err
	}
	return p.target.stream.Send(request)
}

func (p *watchPair) both(bound time.Duration, condition func(*watchStream) bool) bool {
	return eventually(bound, func() bool { return condition(p.control) && condition(p.target) })
}

func (p *watchPair) close() {
	p.control.cancel()
	p.target.cancel()
}

// entry is one message to one watch id in a form that can be compared.
type entry struct {
	text  string
	event *mvccpb.Event // nil for anything but an event
}

// entries is what one watch id got, in order. Batches are taken apart, and what depends on their borders (the revision
// in their headers) is checked by `rules` instead.
func (p *watchPair) entries(stream *watchStream, id int64) (list []entry) {
	for _, r := range stream.received() {
		if r.WatchId != id {
			continue
		}
		header := fmt.Sprintf("header.revision %d, ids and term set %v", r.Header.GetRevision(), r.Header.GetClusterId() != 0 && r.Header.GetMemberId() != 0 && r.Header.GetRaftTerm() != 0)
		switch {
		case r.Created || r.Canceled:
			list = append(list, entry{text: fmt.Sprintf("created %v canceled %v compact_revision %d reason %q %s", r.Created, r.Canceled, r.CompactRevision, r.CancelReason, header)})
		case isProgress(r):
			text := "progress " + header
			if len(list) == 0 || list[len(list)-1].text != text { // asked for again while the first answer was on its way
				list = append(list, entry{text: text})
			}
		case len(r.Events) == 0 && !p.notify[id]:
			list = append(list, entry{text: "empty response " + header})
		}
		for _, event := range r.Events {
			event = stream.side.renamed(event)
			list = append(list, entry{fmt.Sprintf("%v %s prev_kv %s", event.Type, showPair(event.Kv), showPair(event.PrevKv)), event})
		}
	}
	return list
}

// renamed is the event in the control's lease ids.
func (s *side) renamed(event *mvccpb.Event) *mvccpb.Event {
	if s.leaseBack[event.GetKv().GetLease()] == 0 && s.leaseBack[event.GetPrevKv().GetLease()] == 0 {
		return event
	}
	event = proto.Clone(event).(*mvccpb.Event)
	_ = s.incoming(event)
	return event
}

func showPair(pair *mvccpb.KeyValue) string {
	if pair == nil {
		return "none"
	}
	return fmt.Sprintf("{%s create %d mod %d version %d lease %d value %s}", quote(pair.Key), pair.CreateRevision, pair.ModRevision, pair.Version, pair.Lease, quote(pair.Value))
}

// rules checks one side's stream against what holds whatever the batches are.
func (p *watchPair) rules(stream *watchStream) (broken []string) {
	last := map[int64]int64{}     // revision of the last event, by id
	fragment := map[int64]bool{}  // the next response of this id may go on with the same revision
	promised := map[int64]int64{} // every event up to here was announced as sent, by the ids that are alive
	complain := func(r *pb.WatchResponse, text string) {
		broken = append(broken, fmt.Sprintf("%s: watch %d: %s", stream.side.name, r.WatchId, text))
	}
	for _, r := range stream.received() {
		id := r.WatchId
		if r.Header.GetClusterId() != stream.side.clusterID || r.Header.GetMemberId() != stream.side.memberID {
			complain(r, fmt.Sprintf("ids in header %v", r.Header))
		}
		if r.Created {
			delete(last, id)
			delete(fragment, id)
			promised[id] = 0
			continue
		}
		if isProgress(r) {
			for alive := range promised {
				promised[alive] = max(promised[alive], r.Header.GetRevision())
			}
			continue
		}
		if len(r.Events) == 0 {
			if r.Canceled {
				delete(promised, id)
			} else {
				promised[id] = max(promised[id], r.Header.GetRevision())
			}
			continue
		}
		first := r.Events[0].Kv.ModRevision
		if first == last[id] && !fragment[id] {
			complain(r, fmt.Sprintf("revision %d is split over responses", first))
		}
		before := last[id]
		for _, event := range r.Events {
			if event.Kv.ModRevision < before {
				complain(r, fmt.Sprintf("revision %d after %d", event.Kv.ModRevision, before))
			}
			before = event.Kv.ModRevision
			if event.PrevKv != nil && !bytes.Equal(event.PrevKv.Key, event.Kv.Key) {
				complain(r, fmt.Sprintf("prev_kv of another key: %v", event))
			}
		}
		if !fragment[id] && first <= promised[id] {
			complain(r, fmt.Sprintf("event of revision %d after the promise that all up to %d was sent", first, promised[id]))
		}
		last[id], fragment[id] = before, r.Fragment
		if r.Header.GetRevision() < before && !r.Fragment {
			complain(r, fmt.Sprintf("header.revision %d below the event's %d", r.Header.GetRevision(), before))
		}
	}
	return broken
}
