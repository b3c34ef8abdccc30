package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// What some attacks need in the store.
const (
	bigValues = 40
	bigBytes  = 1 << 20

	manyLeases    = 50_000
	manyKeys      = 100_000
	keysOfOneTxn  = 100
	concurrent    = 64
	crowdedLease  = 77_001
	longTTL       = 1_000_000
	storeFilledIn = 2 * time.Minute
)

func fill(endpoint string, with func(context.Context, *grpc.ClientConn) error) error {
	connection, err := grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), storeFilledIn)
	defer cancel()
	return with(ctx, connection)
}

// inParallel makes so many calls, some at a time.
func inParallel(count int, call func(n int) error) error {
	var wait sync.WaitGroup
	var lock sync.Mutex
	var failed error
	for worker := range concurrent {
		wait.Go(func() {
			for n := worker; n < count; n += concurrent {
				if err := call(n); err != nil {
					lock.Lock()
					failed = errors.Join(failed, err)
					lock.Unlock()
					return
				}
			}
		})
	}
	wait.Wait()
	return failed
}

// bigValuesOf puts 40 values of 1 MiB below "big/".
func bigValuesOf(endpoint string) error {
	return fill(endpoint, func(ctx context.Context, connection *grpc.ClientConn) error {
		client := pb.NewKVClient(connection)
		for i := range bigValues {
			if _, err := client.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "big/%03d", i), Value: make([]byte, bigBytes)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// leasesOf grants many leases.
func leasesOf(endpoint string) error {
	return fill(endpoint, func(ctx context.Context, connection *grpc.ClientConn) error {
		client := pb.NewLeaseClient(connection)
		return inParallel(manyLeases, func(int) error {
			_, err := client.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: longTTL})
			return err
		})
	})
}

// crowdOf puts many keys on one lease.
func crowdOf(endpoint string) error {
	return fill(endpoint, func(ctx context.Context, connection *grpc.ClientConn) error {
		if _, err := pb.NewLeaseClient(connection).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: crowdedLease, TTL: longTTL}); err != nil {
			return err
		}
		client := pb.NewKVClient(connection)
		return inParallel(manyKeys/keysOfOneTxn, func(n int) error {
			txn := &pb.TxnRequest{}
			for i := range keysOfOneTxn {
				put := &pb.PutRequest{Key: fmt.Appendf(nil, "crowd/%06d", n*keysOfOneTxn+i), Lease: crowdedLease}
				txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
			}
			_, err := client.Txn(ctx, txn)
			return err
		})
	})
}
