package main

import (
	"context"
	"sort"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// load is a client that puts and gets, one call after the other.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	took   latencies
}

// latencies of pairs of calls.
type latencies []time.Duration

func (l latencies) at(percent int) time.Duration {
	if len(l) == 0 {
		return 0
	}
	return l[(len(l)-1)*percent/100].Round(10 * time.Microsecond)
}

func startLoad(endpoint string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	l.done.Go(func() {
		connection, err := dial(endpoint)
		if err != nil {
			return
		}
		defer connection.Close()
		client := pb.NewKVClient(connection)
		for {
			began := time.Now()
			_, err := client.Put(ctx, &pb.PutRequest{Key: []byte("other"), Value: []byte("x")})
			if err == nil {
				_, err = client.Range(ctx, &pb.RangeRequest{Key: []byte("other")})
			}
			if err != nil {
				return
			}
			l.took = append(l.took, time.Since(began))
			time.Sleep(2 * time.Millisecond)
		}
	})
	return l
}

func (l *load) finish() latencies {
	l.cancel()
	l.done.Wait()
	sort.Slice(l.took, func(i, j int) bool { return l.took[i] < l.took[j] })
	return l.took
}
