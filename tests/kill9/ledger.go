package main

import (
	"context"
	"fmt"
	"math/rand"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// ledger is what the server has said so far, over all of its lives.
type ledger struct {
	acknowledged []*attempt
	byRevision   map[int64]*attempt
	// Writes without an answer: by the value of their first put, or by key for a delete. They may turn up later, once.
	open    map[string]*attempt
	shown   map[int64][]string // events that a watcher saw, by revision
	leases  map[int64]bool
	history []*mvccpb.Event // verified, from revision 2 on
	// The highest revision that any answer carried: the store may never be below it.
	revision int64
	adopted  int // writes without an answer that the last check found in the history
}

func newLedger() *ledger {
	return &ledger{byRevision: map[int64]*attempt{}, open: map[string]*attempt{}, shown: map[int64][]string{}, leases: map[int64]bool{}, revision: 1}
}

func (c change) name() string {
	if c.delete {
		return "delete " + c.key
	}
	return "put " + c.key + " " + c.value
}

func nameOf(event *mvccpb.Event) string {
	return change{string(event.Kv.Key), string(event.Kv.Value), event.Type == mvccpb.DELETE}.name()
}

// enter takes a round's answers over.
func (b *ledger) enter(l *load) {
	for _, a := range l.attempts {
		if a.revision == 0 {
			b.open[a.changes[0].name()] = a
			continue
		}
		b.acknowledged = append(b.acknowledged, a)
		b.byRevision[a.revision] = a
	}
	for _, event := range l.watched {
		b.shown[event.Kv.ModRevision] = append(b.shown[event.Kv.ModRevision], nameOf(event))
	}
	for _, id := range l.leases {
		b.leases[id] = true
	}
	b.revision = max(b.revision, l.highest)
}

const readBound = 2 * time.Minute

// verify compares a restarted server with the ledger, and answers what is wrong.
func (b *ledger) verify(endpoint string, full bool, random *rand.Rand) (complaints []string) {
	connection := dial(endpoint)
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), readBound)
	defer cancel()
	complain := func(format string, arguments ...any) {
		complaints = append(complaints, fmt.Sprintf(format, arguments...))
	}

	all, err := pb.NewKVClient(connection).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		return []string{err.Error()}
	}
	now := all.Header.Revision
	if now < b.revision {
		complain("revision %d after %d had been answered", now, b.revision)
	}
	from := int64(2)
	if !full && len(b.history) > 0 {
		from = b.history[len(b.history)-1].Kv.ModRevision + 1
	}
	events, err := readHistory(ctx, pb.NewWatchClient(connection), from, now)
	if err != nil {
		return append(complaints, err.Error())
	}
	if full {
		complaints = append(complaints, sameHistory(b.history, events)...)
		events = events[min(len(b.history), len(events)):]
	}
	complaints = append(complaints, b.judge(events, now)...)
	b.history = append(b.history, events...)
	b.revision = max(b.revision, now)
	complaints = append(complaints, b.compareState(all.Kvs)...)
	complaints = append(complaints, b.checkLeases(ctx, pb.NewLeaseClient(connection))...)
	return append(complaints, b.readOld(ctx, pb.NewKVClient(connection), random)...)
}

// readHistory watches from a revision until the current one has come.
func readHistory(ctx context.Context, client pb.WatchClient, from, to int64) (events []*mvccpb.Event, err error) {
	if from > to {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Watch(ctx)
	if err != nil {
		return nil, err
	}
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return nil, err
	}
	for len(events) == 0 || events[len(events)-1].Kv.ModRevision < to {
		response, err := stream.Recv()
		if err != nil {
			return nil, fmt.Errorf("the watch from %d ended after %d events before revision %d came: %w", from, len(events), to, err)
		}
		if response.Canceled {
			return nil, fmt.Errorf("the watch from %d was cancelled: %v", from, response)
		}
		events = append(events, response.Events...)
	}
	return events, nil
}

func sameHistory(before, now []*mvccpb.Event) (complaints []string) {
	for i, event := range before {
		if i >= len(now) {
			return []string{fmt.Sprintf("the history lost its end: %d events of %d", len(now), len(before))}
		}
		if nameOf(event) != nameOf(now[i]) || event.Kv.ModRevision != now[i].Kv.ModRevision {
			return []string{fmt.Sprintf("the history changed at event %d: %v is now %v", i, event, now[i])}
		}
	}
	return nil
}

// judge holds the new events to what was acknowledged, shown, or at least asked for.
func (b *ledger) judge(events []*mvccpb.Event, now int64) (complaints []string) {
	complain := func(format string, arguments ...any) {
		complaints = append(complaints, fmt.Sprintf(format, arguments...))
	}
	b.adopted = 0
	last := int64(1)
	if len(b.history) > 0 {
		last = b.history[len(b.history)-1].Kv.ModRevision
	}
	for len(events) > 0 {
		revision := events[0].Kv.ModRevision
		if revision != last+1 {
			complain("the history goes from revision %d to %d", last, revision)
		}
		var found []string
		for len(events) > 0 && events[0].Kv.ModRevision == revision {
			found = append(found, nameOf(events[0]))
			events = events[1:]
		}
		a := b.byRevision[revision]
		if a == nil {
			a = b.open[found[0]]
			if a == nil {
				complain("revision %d: %q was asked for by nobody, or came twice", revision, found)
			}
			delete(b.open, found[0])
			b.adopted++
		}
		if a != nil {
			complaints = append(complaints, sameNames(fmt.Sprintf("revision %d", revision), namesOf(a), found)...)
		}
		if seen := b.shown[revision]; seen != nil {
			complaints = append(complaints, sameNames(fmt.Sprintf("revision %d, as a watcher saw it", revision), seen, found)...)
		}
		delete(b.byRevision, revision)
		delete(b.shown, revision)
		last = revision
	}
	if last < now && now > 1 {
		complain("the history ends at revision %d, the store is at %d", last, now)
	}
	for revision, a := range b.byRevision {
		complain("acknowledged at revision %d and lost: %q", revision, namesOf(a))
	}
	for revision, seen := range b.shown {
		complain("shown to a watcher at revision %d and lost: %q", revision, seen)
	}
	return complaints
}

func namesOf(a *attempt) (names []string) {
	for _, c := range a.changes {
		names = append(names, c.name())
	}
	return names
}

func sameNames(where string, expected, found []string) []string {
	if len(expected) == len(found) {
		same := true
		for i := range expected {
			same = same && expected[i] == found[i]
		}
		if same {
			return nil
		}
	}
	return []string{fmt.Sprintf("%s: expected %q, found %q", where, expected, found)}
}

// compareState replays the history and compares the outcome with what a Range says.
func (b *ledger) compareState(pairs []*mvccpb.KeyValue) (complaints []string) {
	state := map[string]*mvccpb.KeyValue{}
	for _, event := range b.history {
		if event.Type == mvccpb.DELETE {
			delete(state, string(event.Kv.Key))
		} else {
			state[string(event.Kv.Key)] = event.Kv
		}
	}
	if len(state) != len(pairs) {
		complaints = append(complaints, fmt.Sprintf("the store holds %d keys, its history makes %d", len(pairs), len(state)))
	}
	for _, pair := range pairs {
		expected := state[string(pair.Key)]
		if expected == nil || string(expected.Value) != string(pair.Value) || expected.ModRevision != pair.ModRevision || expected.Version != pair.Version || expected.CreateRevision != pair.CreateRevision {
			complaints = append(complaints, fmt.Sprintf("the store holds %v, its history makes %v", pair, expected))
		}
	}
	return complaints
}

func (b *ledger) checkLeases(ctx context.Context, client pb.LeaseClient) (complaints []string) {
	answer, err := client.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return []string{err.Error()}
	}
	present := map[int64]bool{}
	for _, lease := range answer.Leases {
		present[lease.ID] = true
	}
	for id := range b.leases {
		if !present[id] {
			complaints = append(complaints, fmt.Sprintf("lease %x was granted and is lost", id))
		}
	}
	return complaints
}

// readOld reads some acknowledged puts at their own revisions.
func (b *ledger) readOld(ctx context.Context, client pb.KVClient, random *rand.Rand) (complaints []string) {
	for range min(50, len(b.acknowledged)) {
		a := b.acknowledged[random.Intn(len(b.acknowledged))]
		c := a.changes[random.Intn(len(a.changes))]
		answer, err := client.Range(ctx, &pb.RangeRequest{Key: []byte(c.key), Revision: a.revision})
		switch {
		case err != nil:
			complaints = append(complaints, err.Error())
		case c.delete && len(answer.Kvs) != 0:
			complaints = append(complaints, fmt.Sprintf("%q at revision %d, where it was deleted: %v", c.key, a.revision, answer.Kvs))
		case !c.delete && (len(answer.Kvs) != 1 || string(answer.Kvs[0].Value) != c.value || answer.Kvs[0].ModRevision != a.revision):
			complaints = append(complaints, fmt.Sprintf("%q at revision %d: %v", c.key, a.revision, answer.Kvs))
		}
	}
	return complaints
}
