package clientv3

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What a kube-apiserver sends: a client per resource, one watch each, paged lists at a pinned revision, writes as
// transactions, progress requests while a consistent list waits, compaction behind it all.
const (
	connections = 145
	resources   = 59
	objects     = 40 // per resource
	pageSize    = 7
	writers     = 20
	writeTime   = 3 * time.Second
)

type resource struct {
	client *clientv3.Client
	prefix string
	// The revision up to which this resource's watch was shown all, by progress or by events.
	progress atomic.Int64
	mu       sync.Mutex
	state    map[string]int64 // key to mod revision, as the watch makes it
	events   int
}

func TestKubernetes(t *testing.T) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "hasleader", "true", "client-api-version", "3.7.0"), 2*time.Minute)
	defer cancel()
	clients := make([]*clientv3.Client, connections)
	for i := range clients {
		clients[i] = newClient(t)
		if _, err := clients[i].Get(ctx, "/registry/health"); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	status, err := clients[0].Status(ctx, *endpoint)
	if err != nil || status.DbSize <= 0 {
		t.Fatalf("%v %v", status, err)
	}
	all := make([]*resource, resources)
	for i := range all {
		all[i] = &resource{client: clients[i], prefix: fmt.Sprintf("/registry/kind%02d/", i), state: map[string]int64{}}
		all[i].fill(ctx, t)
		all[i].listAndWatch(ctx, t)
	}
	stopProgress := requestProgress(ctx, all)
	writeConcurrently(ctx, t, clients[resources:resources+writers], all)
	compactRevision := compactAsKubernetes(ctx, t, clients[connections-1])
	stopProgress()
	for _, r := range all {
		r.consistentList(ctx, t, compactRevision)
	}
}

func (r *resource) key(i int) string { return fmt.Sprintf("%sobject%04d", r.prefix, i) }

func (r *resource) fill(ctx context.Context, t *testing.T) {
	for i := range objects {
		if err := create(ctx, r.client, r.key(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// create is a put if the key has no revision; its header's revision is the object's.
func create(ctx context.Context, client *clientv3.Client, key string) error {
	done, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, "created")).Commit()
	if err != nil {
		return err
	}
	if !done.Succeeded {
		return fmt.Errorf("%s exists", key)
	}
	return nil
}

// list reads all pages at the first page's revision, as a reflector does, and checks `count` and `more` on the way.
func (r *resource) list(ctx context.Context, t *testing.T, revision int64) (map[string]int64, int64) {
	t.Helper()
	found := map[string]int64{}
	key, end := r.prefix, clientv3.GetPrefixRangeEnd(r.prefix)
	for {
		page, err := r.client.Get(ctx, key, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		if err != nil {
			t.Fatal(err)
		}
		if revision == 0 {
			revision = page.Header.Revision
		}
		for _, pair := range page.Kvs {
			if pair.ModRevision > revision {
				t.Fatalf("%s has revision %d in a list at %d", pair.Key, pair.ModRevision, revision)
			}
			found[string(pair.Key)] = pair.ModRevision
		}
		if page.More != (page.Count > int64(len(page.Kvs))) {
			t.Fatalf("more %v, count %d, pairs %d", page.More, page.Count, len(page.Kvs))
		}
		if !page.More {
			return found, revision
		}
		key = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

func (r *resource) listAndWatch(ctx context.Context, t *testing.T) {
	state, revision := r.list(ctx, t, 0)
	if len(state) != objects {
		t.Fatalf("%s lists %d objects", r.prefix, len(state))
	}
	r.state = state
	r.progress.Store(revision)
	stream := r.client.Watch(ctx, r.prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1), clientv3.WithPrevKV(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	if first := <-stream; !first.Created {
		t.Fatalf("%s: the first answer is %v", r.prefix, first)
	}
	go func() {
		for response := range stream {
			if err := response.Err(); err != nil {
				if ctx.Err() == nil {
					t.Errorf("%s: %v", r.prefix, err)
				}
				return
			}
			r.apply(t, response)
		}
	}()
}

func (r *resource) apply(t *testing.T, response clientv3.WatchResponse) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, event := range response.Events {
		key := string(event.Kv.Key)
		before := r.state[key]
		if event.Kv.ModRevision <= r.progress.Load() {
			t.Errorf("%s: event of %d after the promise of %d", r.prefix, event.Kv.ModRevision, r.progress.Load())
		}
		if !event.IsCreate() && (event.PrevKv == nil || event.PrevKv.ModRevision != before) {
			t.Errorf("%s: prev_kv is %v, its revision was %d", key, event.PrevKv, before)
		}
		if event.Type == clientv3.EventTypeDelete {
			delete(r.state, key)
		} else {
			r.state[key] = event.Kv.ModRevision
		}
		r.events++
	}
	if response.IsProgressNotify() {
		r.progress.Store(max(r.progress.Load(), response.Header.Revision))
	}
}

// requestProgress asks on every stream every 100 ms, as the watch cache does while a consistent list waits.
func requestProgress(ctx context.Context, all []*resource) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	for _, r := range all {
		group.Go(func() {
			for ctx.Err() == nil {
				_ = r.client.RequestProgress(ctx)
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
	return func() {
		cancel()
		group.Wait()
	}
}

// writeConcurrently updates, deletes and creates by optimistic transactions, some with a lease.
func writeConcurrently(ctx context.Context, t *testing.T, clients []*clientv3.Client, all []*resource) {
	deadline := time.Now().Add(writeTime)
	var group sync.WaitGroup
	var written, conflicts atomic.Int64
	for writer, client := range clients {
		group.Go(func() {
			lease, err := client.Grant(ctx, 3600)
			if err != nil {
				t.Error(err)
				return
			}
			for n := 0; time.Now().Before(deadline); n++ {
				key := all[(writer/2*7+n*13)%len(all)].key((writer/2 + n*5) % objects)
				ok, err := update(ctx, client, key, n, lease.ID)
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					written.Add(1)
				} else {
					conflicts.Add(1)
				}
			}
		})
	}
	group.Wait()
	t.Logf("%d writes, %d conflicts", written.Load(), conflicts.Load())
	if written.Load() < 100 {
		t.Errorf("only %d writes in %v", written.Load(), writeTime)
	}
}

func update(ctx context.Context, client *clientv3.Client, key string, n int, lease clientv3.LeaseID) (bool, error) {
	found, err := client.Get(ctx, key)
	if err != nil {
		return false, err
	}
	revision := int64(0)
	if len(found.Kvs) > 0 {
		revision = found.Kvs[0].ModRevision
	}
	write := clientv3.OpPut(key, string(bytes.Repeat([]byte{byte('a' + n%26)}, 500)))
	switch {
	case revision != 0 && n%5 == 0:
		write = clientv3.OpDelete(key)
	case n%3 == 0:
		write = clientv3.OpPut(key, "leased", clientv3.WithLease(lease))
	}
	done, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).Then(write).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return false, err
	}
	if done.Succeeded && done.Header.Revision <= revision {
		return false, fmt.Errorf("%s: written at revision %d over %d", key, done.Header.Revision, revision)
	}
	if !done.Succeeded {
		if pairs := (*pb.RangeResponse)(done.Responses[0].GetResponseRange()).Kvs; len(pairs) > 0 && pairs[0].ModRevision <= revision {
			return false, fmt.Errorf("%s: refused at %d, but the key is at %d", key, revision, pairs[0].ModRevision)
		}
	}
	return done.Succeeded, nil
}

// compactAsKubernetes takes the turn by a version compare on its key and compacts at the revision of before.
func compactAsKubernetes(ctx context.Context, t *testing.T, client *clientv3.Client) int64 {
	const key = "compact_rev_key"
	found, err := client.Get(ctx, "/registry/health")
	if err != nil {
		t.Fatal(err)
	}
	revision := found.Header.Revision
	done, err := client.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), "=", 0)).Then(clientv3.OpPut(key, fmt.Sprint(revision))).Else(clientv3.OpGet(key)).Commit()
	if err != nil || !done.Succeeded {
		t.Fatalf("%v %v", done, err)
	}
	if _, err := client.Compact(ctx, revision); err != nil {
		t.Fatal(err)
	}
	return revision
}

// consistentList waits, by progress, until the watch has shown all up to the current revision, and compares what it
// made of it with a list from the store.
func (r *resource) consistentList(ctx context.Context, t *testing.T, compacted int64) {
	state, revision := r.list(ctx, t, 0)
	deadline := time.Now().Add(10 * time.Second)
	for r.progress.Load() < revision {
		if time.Now().After(deadline) {
			t.Fatalf("%s: no progress to %d within 10 s, it is at %d", r.prefix, revision, r.progress.Load())
		}
		if err := r.client.RequestProgress(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(state) != len(r.state) {
		t.Errorf("%s: the list has %d objects, the watch made %d", r.prefix, len(state), len(r.state))
	}
	for key, at := range state {
		if r.state[key] != at {
			t.Errorf("%s is at %d, by the watch at %d", key, at, r.state[key])
		}
	}
	if r.events == 0 {
		t.Errorf("%s: no event was seen", r.prefix)
	}
	if at, _ := r.list(ctx, t, compacted); len(at) == 0 {
		t.Errorf("%s: nothing at the compact revision %d, which is readable", r.prefix, compacted)
	}
}
