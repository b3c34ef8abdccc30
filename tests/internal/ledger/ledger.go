// Package ledger holds a server to its word over all of its lives: writers, watchers, leases, compactions and snapshots under
// which it is ended, and afterwards the check that every acknowledged write is there at its revision, that the history has
// no hole, that nothing is in it that nobody asked for, and that each watcher was shown exactly that history.
package ledger

import (
	"context"
	"fmt"
	"hash/crc64"
	"math/rand"
	"sort"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Ledger is what the server has said so far, over all of its lives.
type Ledger struct {
	acknowledged int
	readable     []*attempt // in the order of their revisions, those below the history's beginning left out
	byRevision   map[int64]*attempt
	// Writes without an answer: by the value of their first put, or by key for a delete. They may turn up later, once.
	open     map[string]*attempt
	shown    map[int64][]string // events that a watcher saw, by revision
	leases   map[int64]bool
	history  []*mvccpb.Event             // verified, from revision 2 on
	state    map[string]*mvccpb.KeyValue // what the first `replayed` events of it make
	replayed int
	// The highest revision that any answer carried: the store may never be below it.
	revision int64
	// Adopted counts the writes without an answer that the last check found in the history.
	Adopted int
	// compacted is the highest revision that an answer said was compacted to; asked the highest that was asked for. What is
	// asked for is always a revision that was verified before.
	compacted, asked int64
	watchers         []*watcher
	wrong            []string             // seen by the load itself
	expiries         map[string]time.Time // deletes by lease that may come, by name: not before this moment
	// Expired counts the keys that ended with their leases, Watched the events that watchers which resume were shown.
	Expired, Watched int
}

// Acknowledged is the number of writes that were answered.
func (b *Ledger) Acknowledged() int { return b.acknowledged }

// Revision is the highest that any answer carried.
func (b *Ledger) Revision() int64 { return b.revision }

// Compacted is the highest revision whose compaction was answered.
func (b *Ledger) Compacted() int64 { return b.compacted }

func New() *Ledger {
	return &Ledger{byRevision: map[int64]*attempt{}, open: map[string]*attempt{}, shown: map[int64][]string{}, leases: map[int64]bool{}, revision: 1, state: map[string]*mvccpb.KeyValue{}, expiries: map[string]time.Time{}, watchers: newWatchers()}
}

func (c change) name() string {
	if c.delete {
		return "delete " + c.key
	}
	return "put " + c.key + " " + c.value
}

func nameOf(event *mvccpb.Event) string {
	return change{key: string(event.Kv.Key), value: fingerprint(event.Kv.Value), delete: event.Type == mvccpb.DELETE}.name()
}

// fingerprint is a value that can be kept by the thousand: itself, or its beginning, length and sum.
func fingerprint(value []byte) string {
	if len(value) <= 512 {
		return string(value)
	}
	return fmt.Sprintf("%s #%d %x", value[:64], len(value), crc64.Checksum(value, crcTable))
}

var crcTable = crc64.MakeTable(crc64.ECMA)

// shorten drops large values once they are checked; their fingerprints stay.
func shorten(events []*mvccpb.Event) {
	for _, event := range events {
		event.Kv.Value = []byte(fingerprint(event.Kv.Value))
	}
}

// enter takes a round's answers over.
func (b *Ledger) enter(l *Load) {
	for _, a := range l.attempts {
		if a.revision == 0 {
			b.open[a.changes[0].name()] = a
			continue
		}
		b.acknowledged++
		b.readable = append(b.readable, a)
		b.byRevision[a.revision] = a
	}
	sort.Slice(b.readable, func(i, j int) bool { return b.readable[i].revision < b.readable[j].revision })
	for _, event := range l.watched {
		b.shown[event.Kv.ModRevision] = append(b.shown[event.Kv.ModRevision], nameOf(event))
	}
	for _, id := range l.leases {
		b.leases[id] = true
	}
	for name, moment := range l.expiries {
		b.expiries[name] = moment
	}
	b.wrong = append(b.wrong, l.wrong...)
	b.asked, b.compacted = max(b.asked, l.asked), max(b.compacted, l.compacted)
	b.revision = max(b.revision, l.highest)
}

const readBound = 2 * time.Minute

// Verify compares a restarted server with the ledger, and answers what is wrong.
func (b *Ledger) Verify(endpoint string, full bool, random *rand.Rand) (complaints []string) {
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
	floor, complaint := b.findFloor(ctx, pb.NewKVClient(connection))
	if complaint != "" {
		complain("%s", complaint)
	}
	known := len(b.history)
	from := int64(2)
	if known > 0 {
		from = b.history[known-1].Kv.ModRevision + 1
	}
	if full {
		known = sort.Search(known, func(i int) bool { return b.history[i].Kv.ModRevision > floor })
		from = max(2, floor+1)
	}
	events, err := readHistory(ctx, pb.NewWatchClient(connection), from, now)
	if err != nil {
		return append(complaints, err.Error())
	}
	// What came after the Range, such as the end of a lease, is left to the next check.
	events = events[:sort.Search(len(events), func(i int) bool { return events[i].Kv.ModRevision > now })]
	shorten(events)
	if full {
		before := b.history[known:]
		complaints = append(complaints, sameHistory(before, events)...)
		events = events[min(len(before), len(events)):]
	}
	complaints = append(complaints, b.judge(events, now)...)
	b.history = append(b.history, events...)
	b.revision = max(b.revision, now)
	complaints = append(complaints, b.compareState(all.Kvs)...)
	complaints = append(complaints, b.checkLeases(ctx, pb.NewLeaseClient(connection))...)
	complaints = append(complaints, b.checkWatchers()...)
	complaints, b.wrong = append(complaints, b.wrong...), nil
	return append(complaints, b.readOld(ctx, pb.NewKVClient(connection), random, floor)...)
}

// findFloor asks where the history begins: at a compaction that was answered, or at one that was only asked for.
func (b *Ledger) findFloor(ctx context.Context, client pb.KVClient) (floor int64, complaint string) {
	readable := func(revision int64) bool {
		_, err := client.Range(ctx, &pb.RangeRequest{Key: []byte("probe"), Revision: revision})
		return err == nil
	}
	if b.asked == 0 {
		return 0, ""
	}
	if b.compacted > 1 && readable(b.compacted-1) {
		return b.compacted, fmt.Sprintf("compacted to %d, and revision %d can be read again", b.compacted, b.compacted-1)
	}
	// The first readable revision; all that were asked for are verified and below the current one.
	low, high := max(b.compacted, 1), b.asked
	for low < high {
		middle := (low + high) / 2
		if readable(middle) {
			high = middle
		} else {
			low = middle + 1
		}
	}
	if !readable(low) {
		return low, fmt.Sprintf("revision %d can't be read; compactions to at most %d were asked for", low, b.asked)
	}
	return low, ""
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
func (b *Ledger) judge(events []*mvccpb.Event, now int64) (complaints []string) {
	complain := func(format string, arguments ...any) {
		complaints = append(complaints, fmt.Sprintf(format, arguments...))
	}
	b.Adopted = 0
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
			moment, mayExpire := b.expiries[found[0]]
			switch {
			case a != nil:
			case mayExpire && len(found) == 1:
				if time.Now().Before(moment) {
					complain("revision %d: %q by its lease, %v early", revision, found, time.Until(moment))
				}
				delete(b.expiries, found[0])
				b.Expired++
			default:
				complain("revision %d: %q was asked for by nobody, or came twice", revision, found)
			}
			if a != nil {
				delete(b.open, found[0])
				b.Adopted++
			}
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
func (b *Ledger) compareState(pairs []*mvccpb.KeyValue) (complaints []string) {
	for ; b.replayed < len(b.history); b.replayed++ {
		event := b.history[b.replayed]
		if event.Type == mvccpb.DELETE {
			delete(b.state, string(event.Kv.Key))
		} else {
			b.state[string(event.Kv.Key)] = event.Kv
		}
	}
	state := b.state
	if len(state) != len(pairs) {
		complaints = append(complaints, fmt.Sprintf("the store holds %d keys, its history makes %d", len(pairs), len(state)))
	}
	for _, pair := range pairs {
		expected := state[string(pair.Key)]
		if expected == nil || string(expected.Value) != fingerprint(pair.Value) || expected.ModRevision != pair.ModRevision || expected.Version != pair.Version || expected.CreateRevision != pair.CreateRevision {
			complaints = append(complaints, fmt.Sprintf("the store holds %v, its history makes %v", pair, expected))
		}
	}
	return complaints
}

func (b *Ledger) checkLeases(ctx context.Context, client pb.LeaseClient) (complaints []string) {
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
func (b *Ledger) readOld(ctx context.Context, client pb.KVClient, random *rand.Rand, floor int64) (complaints []string) {
	first := sort.Search(len(b.readable), func(i int) bool { return b.readable[i].revision >= floor })
	b.readable = b.readable[first:]
	for range min(50, len(b.readable)) {
		a := b.readable[random.Intn(len(b.readable))]
		c := a.changes[random.Intn(len(a.changes))]
		answer, err := client.Range(ctx, &pb.RangeRequest{Key: []byte(c.key), Revision: a.revision})
		switch {
		case err != nil:
			complaints = append(complaints, err.Error())
		case c.delete && len(answer.Kvs) != 0:
			complaints = append(complaints, fmt.Sprintf("%q at revision %d, where it was deleted: %v", c.key, a.revision, answer.Kvs))
		case !c.delete && (len(answer.Kvs) != 1 || fingerprint(answer.Kvs[0].Value) != c.value || answer.Kvs[0].ModRevision != a.revision):
			complaints = append(complaints, fmt.Sprintf("%q at revision %d: %v", c.key, a.revision, answer.Kvs))
		}
	}
	return complaints
}
