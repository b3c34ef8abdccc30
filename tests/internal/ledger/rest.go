package ledger

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// What goes on beside the writers: each of these may be under way at the moment of the kill.

const (
	compactionPause = 60 * time.Millisecond
	expiryTTL       = 2 // seconds: the least that servers grant by default
)

// verified is the last revision of the history that was checked; nothing behind it is compacted.
func (b *Ledger) verified() int64 {
	if len(b.history) == 0 {
		return 0
	}
	return b.history[len(b.history)-1].Kv.ModRevision
}

func (l *Load) startRest(ctx context.Context, endpoint string, round int, options Options) {
	for _, w := range l.watchers {
		l.group.Go(func() { w.follow(ctx, endpoint) })
	}
	l.group.Go(func() { l.compact(ctx, endpoint) })
	l.group.Go(func() { l.snapshot(ctx, endpoint) })
	l.group.Go(func() { l.expire(ctx, endpoint, round) })
	l.group.Go(func() { l.revoke(ctx, endpoint, round) })
	l.group.Go(func() { l.large(ctx, endpoint, round, options.LargeBytes) })
	l.group.Go(func() { l.renew(ctx, endpoint) })
}

// compact goes up to what is verified and what every watcher has seen, in steps.
func (l *Load) compact(ctx context.Context, endpoint string) {
	connection := dial(endpoint)
	defer connection.Close()
	client := pb.NewKVClient(connection)
	for step := int64(1); ctx.Err() == nil; step++ {
		target := l.floor
		for _, w := range l.watchers {
			target = min(target, w.seen())
		}
		// Some of the history stays, so that there is something to read back.
		target -= 200 / step
		l.mu.Lock()
		again := target <= l.asked
		l.asked = max(l.asked, target)
		l.mu.Unlock()
		if target > 1 && !again {
			_, err := client.Compact(ctx, &pb.CompactionRequest{Revision: target, Physical: step%2 == 0})
			if err == nil {
				l.mu.Lock()
				l.compacted = max(l.compacted, target)
				l.mu.Unlock()
			}
		}
		pause(ctx, compactionPause)
	}
}

func pause(ctx context.Context, time_ time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(time_):
	}
}

// snapshot streams the store again and again.
func (l *Load) snapshot(ctx context.Context, endpoint string) {
	connection := dial(endpoint)
	defer connection.Close()
	for ctx.Err() == nil {
		stream, err := pb.NewMaintenanceClient(connection).Snapshot(ctx, &pb.SnapshotRequest{})
		for err == nil {
			_, err = stream.Recv()
		}
		if err == io.EOF {
			l.Snapshots.Add(1)
		}
		pause(ctx, compactionPause)
	}
}

// attempt enters a write before it is sent; answered its revision.
func (l *Load) attempt(changes ...change) *attempt {
	a := &attempt{changes: changes}
	l.mu.Lock()
	l.attempts = append(l.attempts, a)
	l.mu.Unlock()
	return a
}

func (l *Load) answered(a *attempt, header *pb.ResponseHeader) {
	l.mu.Lock()
	a.revision, l.highest = header.GetRevision(), max(l.highest, header.GetRevision())
	l.mu.Unlock()
}

// leased puts a key on a lease of its own.
func (l *Load) leased(ctx context.Context, kv pb.KVClient, leases pb.LeaseClient, key string, ttl int64) (id int64, err error) {
	granted, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: ttl})
	if err != nil {
		return 0, err
	}
	a := l.attempt(change{key: key, value: key})
	put, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(key), Lease: granted.ID})
	if err == nil {
		l.answered(a, put.Header)
	}
	return granted.ID, err
}

// expire leaves keys on leases that end by themselves: their deletes may come at any time from then on, and not before.
func (l *Load) expire(ctx context.Context, endpoint string, round int) {
	connection := dial(endpoint)
	defer connection.Close()
	kv, leases := pb.NewKVClient(connection), pb.NewLeaseClient(connection)
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("expiring/%d.%d", round, n)
		l.mu.Lock()
		l.expiries[change{key: key, delete: true}.name()] = time.Now().Add(expiryTTL * time.Second)
		l.mu.Unlock()
		if _, err := l.leased(ctx, kv, leases, key, expiryTTL); err != nil {
			return
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// revoke deletes keys by their leases.
func (l *Load) revoke(ctx context.Context, endpoint string, round int) {
	connection := dial(endpoint)
	defer connection.Close()
	kv, leases := pb.NewKVClient(connection), pb.NewLeaseClient(connection)
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("revoked/%d.%d", round, n)
		id, err := l.leased(ctx, kv, leases, key, 1_000_000)
		if err != nil {
			return
		}
		a := l.attempt(change{key: key, delete: true})
		revoked, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
		if err != nil {
			return
		}
		l.answered(a, revoked.Header)
		pause(ctx, 20*time.Millisecond)
	}
}

// large puts values that fill the log.
func (l *Load) large(ctx context.Context, endpoint string, round, size int) {
	connection := dial(endpoint)
	defer connection.Close()
	kv := pb.NewKVClient(connection)
	for n := 0; ctx.Err() == nil && size > 0; n++ {
		key := fmt.Sprintf("large/%d", n%8)
		value := append([]byte(fmt.Sprintf("%d.%d ", round, n)), bytes.Repeat([]byte{'a' + byte(n%26)}, size)...)
		a := l.attempt(change{key: key, value: fingerprint(value)})
		put, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: value})
		if err != nil {
			return
		}
		l.answered(a, put.Header)
	}
}

// renew keeps the leases of this round alive; a renewal is never refused for a lease that was granted.
func (l *Load) renew(ctx context.Context, endpoint string) {
	connection := dial(endpoint)
	defer connection.Close()
	stream, err := pb.NewLeaseClient(connection).LeaseKeepAlive(ctx)
	if err != nil {
		return
	}
	for ctx.Err() == nil {
		l.mu.Lock()
		leases := append([]int64{}, l.leases...)
		l.mu.Unlock()
		for _, id := range leases {
			if stream.Send(&pb.LeaseKeepAliveRequest{ID: id}) != nil {
				return
			}
			answer, err := stream.Recv()
			if err != nil {
				return
			}
			if answer.TTL <= 0 {
				l.mu.Lock()
				l.wrong = append(l.wrong, fmt.Sprintf("lease %x was granted, and is gone when it is renewed", id))
				l.mu.Unlock()
			}
		}
		pause(ctx, 50*time.Millisecond)
	}
}
