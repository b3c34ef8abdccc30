package clientv3

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func newSession(t *testing.T, client *clientv3.Client) *concurrency.Session {
	t.Helper()
	session, err := concurrency.NewSession(client, concurrency.WithTTL(10))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	return session
}

// A counter in a plain variable's manner, read and written apart, is right only if the mutex excludes.
func TestMutexExcludes(t *testing.T) {
	const workers, turns = 5, 8
	ctx := bounded(t)
	var group sync.WaitGroup
	for range workers {
		client := newClient(t)
		session := newSession(t, client)
		group.Go(func() {
			mutex := concurrency.NewMutex(session, "mutex")
			for range turns {
				if err := mutex.Lock(ctx); err != nil {
					t.Error(err)
					return
				}
				if err := addOne(ctx, client, "mutex-counter"); err != nil {
					t.Error(err)
				}
				if err := mutex.Unlock(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	found, err := newClient(t).Get(ctx, "mutex-counter")
	if err != nil || len(found.Kvs) != 1 || string(found.Kvs[0].Value) != strconv.Itoa(workers*turns) {
		t.Fatalf("the counter is %v, %v", found, err)
	}
}

func addOne(ctx context.Context, client *clientv3.Client, key string) error {
	found, err := client.Get(ctx, key)
	if err != nil {
		return err
	}
	value := 0
	if len(found.Kvs) > 0 {
		value, _ = strconv.Atoi(string(found.Kvs[0].Value))
	}
	_, err = client.Put(ctx, key, strconv.Itoa(value+1))
	return err
}

func TestMutexTryLock(t *testing.T) {
	ctx := bounded(t)
	client := newClient(t)
	held := concurrency.NewMutex(newSession(t, client), "try")
	other := concurrency.NewMutex(newSession(t, client), "try")
	if err := held.Lock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := other.TryLock(ctx); !errors.Is(err, concurrency.ErrLocked) {
		t.Fatalf("TryLock of a held mutex: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if err := other.Lock(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Lock with a deadline: %v", err)
	}
	if err := held.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := other.TryLock(ctx); err != nil {
		t.Fatal(err)
	}
}

// A session that ends frees its locks: the lease is revoked, the waiter sees the delete.
func TestMutexOfDeadSession(t *testing.T) {
	ctx := bounded(t)
	client := newClient(t)
	dying := newSession(t, client)
	if err := concurrency.NewMutex(dying, "dead").Lock(ctx); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, func() { _ = dying.Close() })
	if err := concurrency.NewMutex(newSession(t, client), "dead").Lock(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestElection(t *testing.T) {
	ctx := bounded(t)
	client := newClient(t)
	first := concurrency.NewElection(newSession(t, client), "election")
	second := concurrency.NewElection(newSession(t, client), "election")
	if _, err := first.Leader(ctx); !errors.Is(err, concurrency.ErrElectionNoLeader) {
		t.Fatalf("leader of an empty election: %v", err)
	}
	observed := concurrency.NewElection(newSession(t, client), "election").Observe(ctx)
	if err := first.Campaign(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	expectObserved(t, observed, "one")
	if err := first.Proclaim(ctx, "one again"); err != nil {
		t.Fatal(err)
	}
	expectObserved(t, observed, "one again")
	won := make(chan error, 1)
	go func() { won <- second.Campaign(ctx, "two") }()
	select {
	case err := <-won:
		t.Fatalf("two leaders, %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := first.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-won; err != nil {
		t.Fatal(err)
	}
	expectObserved(t, observed, "two")
	if err := first.Proclaim(ctx, "stale"); !errors.Is(err, concurrency.ErrElectionNotLeader) {
		t.Fatalf("proclaim of a former leader: %v", err)
	}
}

func expectObserved(t *testing.T, observed <-chan *clientv3.GetResponse, value string) {
	t.Helper()
	select {
	case response := <-observed:
		if string(response.Kvs[0].Value) != value {
			t.Fatalf("observed %q, expected %q", response.Kvs[0].Value, value)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%q was not observed", value)
	}
}

// Transfers between accounts under every isolation level that forbids lost updates: the sum stays.
func TestSTMTransfers(t *testing.T) {
	ctx := bounded(t)
	client := newClient(t)
	for _, isolation := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads} {
		const accounts, workers, turns = 5, 4, 10
		account := func(i int) string { return fmt.Sprintf("stm/%d/%d", isolation, i) }
		for i := range accounts {
			if _, err := client.Put(ctx, account(i), "100"); err != nil {
				t.Fatal(err)
			}
		}
		var group sync.WaitGroup
		for worker := range workers {
			group.Go(func() {
				for turn := range turns {
					from, to := account((worker+turn)%accounts), account((worker*2+turn+1)%accounts)
					if from == to {
						continue
					}
					_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
						a, _ := strconv.Atoi(stm.Get(from))
						b, _ := strconv.Atoi(stm.Get(to))
						stm.Put(from, strconv.Itoa(a-1))
						stm.Put(to, strconv.Itoa(b+1))
						return nil
					}, concurrency.WithIsolation(isolation), concurrency.WithAbortContext(ctx))
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		found, err := client.Get(ctx, fmt.Sprintf("stm/%d/", isolation), clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, pair := range found.Kvs {
			value, _ := strconv.Atoi(string(pair.Value))
			sum += value
		}
		if sum != 100*accounts {
			t.Fatalf("isolation %d: the accounts hold %d", isolation, sum)
		}
	}
}

// The client maps errors by their exact text.
func TestErrorsAreEtcds(t *testing.T) {
	ctx := bounded(t)
	client := newClient(t)
	_, future := client.Get(ctx, "x", clientv3.WithRev(1<<40))
	_, empty := client.Get(ctx, "")
	_, lease := client.Put(ctx, "x", "y", clientv3.WithLease(404))
	_, unknown := client.Revoke(ctx, 404)
	_, missing := client.Put(ctx, "errors/none", "", clientv3.WithIgnoreValue())
	for _, c := range []struct{ got, want error }{
		{future, rpctypes.ErrFutureRev}, {empty, rpctypes.ErrEmptyKey}, {lease, rpctypes.ErrLeaseNotFound},
		{unknown, rpctypes.ErrLeaseNotFound}, {missing, rpctypes.ErrKeyNotFound},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}

// A watch of the client library that starts in a compacted past ends with the compact revision.
func TestWatchCompacted(t *testing.T) {
	ctx := bounded(t)
	client := newClient(t)
	var revision int64
	for range 3 {
		put, err := client.Put(ctx, "watch-compacted", "x")
		if err != nil {
			t.Fatal(err)
		}
		revision = put.Header.Revision
	}
	if _, err := client.Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	response, ok := <-client.Watch(ctx, "watch-compacted", clientv3.WithRev(revision-1))
	if !ok || response.CompactRevision != revision || !errors.Is(response.Err(), rpctypes.ErrCompacted) {
		t.Fatalf("%v %v %v", ok, response, response.Err())
	}
}
