package main

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	mostPairs    = 3
	mostWatchers = 10
	watchBound   = 15 * time.Second
)

// watchAction does one random thing with watches.
func (r *runner) watchAction() {
	r.calls++
	r.budget--
	if len(r.pairs) < mostPairs && (len(r.pairs) == 0 || r.chance(5)) {
		r.openPair()
		return
	}
	p := r.pairs[r.Intn(len(r.pairs))]
	switch n := r.Intn(100); {
	case n < 2:
		r.settle()
		r.closePair(p)
	case n < 4:
		p.halfClose()
	case p.halfClosed:
	case n < 60 && len(p.watchers) < mostWatchers:
		r.createWatch(p, r.watchRequest(p))
	case n < 85:
		r.cancelWatch(p)
	default:
		r.requestProgress(p)
	}
}

func (r *runner) openPair() *watchPair {
	var headers metadata.MD
	if r.chance(50) {
		headers = metadata.Pairs("hasleader", "true", "client-api-version", "3.7.3")
	}
	p, err := openWatchPair(r.control, r.target, headers)
	if err != nil {
		r.fail("open a watch stream", []string{err.Error()}, "", "")
		r.stop = true
		return nil
	}
	r.pairs = append(r.pairs, p)
	r.passed++
	return p
}

// halfClose ends our side of the stream: events must go on all the same.
func (p *watchPair) halfClose() {
	if !p.halfClosed && len(p.watchers) > 0 {
		p.halfClosed = true
		_ = p.control.stream.CloseSend()
		_ = p.target.stream.CloseSend()
	}
}

func (r *runner) closePair(p *watchPair) {
	p.close()
	for i := range r.pairs {
		if r.pairs[i] == p {
			r.pairs = append(r.pairs[:i:i], r.pairs[i+1:]...)
			return
		}
	}
}

func (r *runner) watchRequest(p *watchPair) *pb.WatchCreateRequest {
	w := &pb.WatchCreateRequest{}
	w.Key, w.RangeEnd = r.interval()
	if r.chance(30) {
		w.Key, w.RangeEnd = []byte{0}, []byte{0}
	}
	m := r.model
	switch n := r.Intn(100); {
	case n < 45:
	case n < 75 && m.revision > m.compacted:
		w.StartRevision = m.revision - r.Int63n(m.revision-max(m.compacted, 0)+1)
	case n < 83:
		w.StartRevision = m.compacted + int64(r.Intn(4)) - 2
	case n < 90:
		w.StartRevision = m.revision + int64(r.Intn(4))
	case n < 97:
		w.StartRevision = m.revision
	default:
		w.StartRevision = r.odd()
	}
	w.ProgressNotify = r.chance(30)
	w.PrevKv = r.chance(50)
	w.Fragment = r.chance(20)
	if r.chance(15) {
		w.Filters = append(w.Filters, pb.WatchCreateRequest_FilterType(r.Intn(2)))
	}
	if r.chance(3) {
		w.Filters = append(w.Filters, 0, 1)
	}
	if r.chance(2) {
		w.Filters = append(w.Filters, pb.WatchCreateRequest_FilterType(r.unknownEnum()))
	}
	switch n := r.Intn(100); {
	case n < 15:
		w.WatchId = int64(1 + r.Intn(6))
	case n < 20 && len(p.watchers) > 0: // one that is taken
		for id := range p.watchers {
			w.WatchId = max(w.WatchId, id)
		}
	case n < 22:
		w.WatchId = []int64{-7, 1 << 40, 1<<63 - 1}[r.Intn(3)]
	}
	return w
}

// createWatch creates one watch on both sides and waits for both to confirm it, so that the revision in the
// confirmation is the same.
func (r *runner) createWatch(p *watchPair, request *pb.WatchCreateRequest) *watcher {
	if err := p.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}}); err != nil {
		r.failPair(p, "create a watch: "+err.Error())
		return nil
	}
	p.created++
	if !p.both(watchBound, func(w *watchStream) bool { return w.count(isCreated) >= p.created }) {
		r.failPair(p, fmt.Sprintf("no confirmation of %v: control has %d of %d, target %d", request, p.control.count(isCreated), p.created, p.target.count(isCreated)))
		return nil
	}
	confirmation := nthCreated(p.control, p.created)
	other := nthCreated(p.target, p.created)
	if confirmation.WatchId != other.WatchId || confirmation.Canceled != other.Canceled || confirmation.CancelReason != other.CancelReason {
		r.failPair(p, fmt.Sprintf("create %v: control %v, target %v", request, confirmation, other))
		return nil
	}
	r.passed++
	r.coverage.watches++
	if confirmation.Canceled {
		r.coverage.reasons[confirmation.CancelReason]++
		return nil
	}
	w := &watcher{id: confirmation.WatchId, request: request, from: request.StartRevision}
	if old := p.retired[w.id]; old != nil {
		w.expected, w.cancellations = old.expected, old.cancellations
	}
	m := r.model
	switch {
	case request.StartRevision == 0:
		w.from = m.revision + 1
	case request.StartRevision < m.compacted:
		w.compacted = true
	case request.StartRevision > m.revision:
		w.future = true
	}
	if request.StartRevision != 0 && !w.future {
		r.unsynced = true
	}
	p.prevKV[w.id] = p.prevKV[w.id] || request.PrevKv
	p.notify[w.id] = p.notify[w.id] || request.ProgressNotify
	p.watchers[w.id] = w
	if w.compacted {
		r.coverage.reasons["compact_revision without reason"]++
		// The cancellation must be there before the compaction revision changes.
		w.cancellations++
		p.both(watchBound, func(s *watchStream) bool { return s.count(isCanceled(w.id)) >= w.cancellations })
	}
	return w
}

func nthCreated(w *watchStream, n int) *pb.WatchResponse {
	for _, response := range w.received() {
		if response.Created {
			if n--; n == 0 {
				return response
			}
		}
	}
	return nil
}

func (r *runner) cancelWatch(p *watchPair) {
	id := int64(r.Intn(12))
	if len(p.watchers) > 0 && r.chance(85) {
		ids := r.sortedIds(p)
		id = ids[r.Intn(len(ids))]
	}
	w := p.watchers[id]
	if w != nil {
		r.settle() // what is due must come before the cancellation on both sides
		if r.stop || !slices.Contains(r.pairs, p) {
			return
		}
	}
	if err := p.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}); err != nil {
		r.failPair(p, "cancel a watch: "+err.Error())
		return
	}
	if w == nil {
		r.passed++ // silence, which the next comparison checks
		return
	}
	w.cancellations++
	if !p.both(watchBound, func(s *watchStream) bool { return s.count(isCanceled(id)) >= w.cancellations }) {
		r.failPair(p, fmt.Sprintf("watch %d: no answer to its cancellation", id))
		return
	}
	r.coverage.reasons["cancelled by the client"]++
	r.passed++
	delete(p.watchers, id)
	p.retired[id] = w
}

func (r *runner) sortedIds(p *watchPair) (ids []int64) {
	for id := range p.watchers {
		ids = append(ids, id)
	}
	for i := range ids {
		for j := i + 1; j < len(ids); j++ {
			if ids[j] < ids[i] {
				ids[i], ids[j] = ids[j], ids[i]
			}
		}
	}
	return ids
}

// requestProgress asks where the stream is. With a watch that is not in step (in the future, or cancelled by a
// compaction and not yet by us) there is no answer; otherwise both answer, at once or when asked again.
func (r *runner) requestProgress(p *watchPair) {
	r.settle()
	r.barrier()
	if r.stop || !slices.Contains(r.pairs, p) {
		return
	}
	request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	blocked := len(p.watchers) == 0
	for _, w := range p.watchers {
		blocked = blocked || w.compacted || w.from > r.model.revision+1 || w.future && w.from > r.model.revision
	}
	if blocked {
		if err := p.send(request); err != nil {
			r.failPair(p, "request progress: "+err.Error())
			return
		}
		r.passed++
		return
	}
	before := [2]int{p.control.count(isProgress), p.target.count(isProgress)}
	for attempt := 0; attempt < 10; attempt++ {
		if err := p.send(request); err != nil {
			r.failPair(p, "request progress: "+err.Error())
			return
		}
		if eventually(500*time.Millisecond, func() bool {
			return p.control.count(isProgress) > before[0] && p.target.count(isProgress) > before[1]
		}) {
			r.passed++
			r.coverage.scenarios["progress answered"]++
			return
		}
	}
	r.failPair(p, fmt.Sprintf("no answer to progress requests: control %v, target %v", p.control.count(isProgress) > before[0], p.target.count(isProgress) > before[1]))
}

// failPair reports a difference between two streams and gives them up.
func (r *runner) failPair(p *watchPair, complaints ...string) {
	r.fail("watch streams", complaints, "", "")
	r.closePair(p)
	r.died()
}

// observe brings the history up to the current revision.
func (r *runner) observe() {
	if r.observer == nil {
		observer, err := openWatch(r.control, nil)
		if err == nil {
			start := int64(1)
			if len(r.history) > 0 {
				start = r.history[len(r.history)-1].Kv.ModRevision + 1
			}
			err = observer.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: start}}})
		}
		if err != nil {
			r.fail("open the observer", []string{err.Error()}, "", "")
			r.stop = true
			return
		}
		r.observer, r.seen = observer, 0
	}
	complete := eventually(watchBound, func() bool {
		responses := r.observer.received()
		for _, response := range responses[r.seen:] {
			r.history = append(r.history, response.Events...)
		}
		r.seen = len(responses)
		return r.model.revision <= 1 || len(r.history) > 0 && r.history[len(r.history)-1].Kv.ModRevision >= r.model.revision
	})
	if !complete {
		r.fail(fmt.Sprintf("the control's own history ends before revision %d", r.model.revision), nil, "", "")
		r.stop = true
	}
}

// settle waits until every watch got what is due to it on both sides, and compares the streams.
func (r *runner) settle() {
	if r.stop {
		return
	}
	r.observe()
	for _, p := range append([]*watchPair(nil), r.pairs...) {
		for _, w := range p.watchers {
			for ; !w.compacted && w.position < len(r.history); w.position++ {
				if w.takes(r.history[w.position]) {
					w.expected++
				}
			}
		}
		p.both(watchBound, func(s *watchStream) bool {
			responses := s.received()
			for id, w := range p.watchers {
				if eventsOf(responses, id) < w.expected {
					return false
				}
			}
			return true
		})
		r.comparePair(p)
	}
}

func (r *runner) comparePair(p *watchPair) {
	var complaints []string
	ids := map[int64]bool{-1: true}
	for _, s := range []*watchStream{p.control, p.target} {
		complaints = append(complaints, p.rules(s)...)
		for _, response := range s.received() {
			ids[response.WatchId] = true
		}
		s.mu.Lock()
		if s.ended != "" {
			complaints = append(complaints, s.side.name+": the stream ended: "+s.ended)
		}
		s.mu.Unlock()
	}
	for id := range ids {
		complaints = append(complaints, r.compareEntries(p, id)...)
	}
	if len(complaints) > 0 {
		r.failPair(p, complaints...)
	}
}

func (r *runner) compareEntries(p *watchPair, id int64) []string {
	control, target := p.entries(p.control, id), p.entries(p.target, id)
	asked := "(none alive)"
	if w := p.watchers[id]; w != nil {
		asked = w.request.String()
	}
	for i := p.compared[id]; i < max(len(control), len(target)); i++ {
		var left, right entry
		if i < len(control) {
			left = control[i]
		}
		if i < len(target) {
			right = target[i]
		}
		if left.text != right.text && !r.explainPrevious(p, id, left, right) {
			return []string{
				fmt.Sprintf("watch %d, message %d of %d (control) and %d (target), created by %s", id, i, len(control), len(target), asked),
				"control: " + left.text, "target:  " + right.text,
			}
		}
	}
	r.coverage.events += len(control) - p.compared[id]
	p.compared[id] = len(control)
	return nil
}

// explainPrevious knows the one way in which etcd's prev_kv is not to be copied (see knownDifferences).
func (r *runner) explainPrevious(p *watchPair, id int64, control, target entry) bool {
	if control.event == nil || target.event == nil || control.event.Type != target.event.Type || !proto.Equal(control.event.Kv, target.event.Kv) {
		return false
	}
	if p.prevKV[id] && control.event.PrevKv == nil && control.event.Kv.ModRevision <= r.model.compacted {
		r.coverage.known[knownPrevCompacted]++
		return true
	}
	return false
}

// barrier waits until the watches that replay the past have been taken up by both servers: a later one, whose event
// has come, is proof. Without it a compaction could overtake them on one side and not on the other.
func (r *runner) barrier() {
	if !r.unsynced || r.model.revision < 2 || r.stop {
		return
	}
	r.unsynced = false
	p, err := openWatchPair(r.control, r.target, nil)
	if err != nil {
		r.fail("open a watch stream", []string{err.Error()}, "", "")
		r.stop = true
		return
	}
	defer p.close()
	request := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: r.model.revision}
	if err := p.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}}); err != nil {
		r.fail("barrier", []string{err.Error()}, "", "")
		return
	}
	if !p.both(watchBound, func(s *watchStream) bool { return eventsOf(s.received(), 0) > 0 }) {
		r.fail("a watch from the current revision got no event", []string{fmt.Sprintf("control %d, target %d", len(p.control.received()), len(p.target.received()))}, "", "")
	}
}
