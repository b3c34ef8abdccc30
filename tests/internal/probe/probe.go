// Package probe measures what other requests feel while something large goes on.
package probe

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Probe is one client that puts and one that gets, each a call after the other.
type Probe struct {
	cancel     context.CancelFunc
	done       sync.WaitGroup
	puts, gets Latencies
}

// Latencies of calls, ascending.
type Latencies []time.Duration

// At is the latency that so many percent of the calls had at most.
func (l Latencies) At(percent int) time.Duration {
	if len(l) == 0 {
		return 0
	}
	return l[(len(l)-1)*percent/100].Round(10 * time.Microsecond)
}

func (l Latencies) String() string {
	return fmt.Sprintf("p50 %v p99 %v max %v", l.At(50), l.At(99), l.At(100))
}

// Start opens a connection for each and begins.
func Start(endpoint string) *Probe {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Probe{cancel: cancel}
	p.run(ctx, endpoint, &p.puts, func(client pb.KVClient) error {
		_, err := client.Put(ctx, &pb.PutRequest{Key: []byte("other"), Value: []byte("x")})
		return err
	})
	p.run(ctx, endpoint, &p.gets, func(client pb.KVClient) error {
		_, err := client.Range(ctx, &pb.RangeRequest{Key: []byte("other")})
		return err
	})
	return p
}

func (p *Probe) run(ctx context.Context, endpoint string, took *Latencies, call func(pb.KVClient) error) {
	p.done.Go(func() {
		connection, err := grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return
		}
		defer connection.Close()
		client := pb.NewKVClient(connection)
		for ctx.Err() == nil {
			began := time.Now()
			// One that fails has waited too: what stands in its way is as long.
			_ = call(client)
			if ctx.Err() == nil {
				*took = append(*took, time.Since(began))
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}

// Finish ends both.
func (p *Probe) Finish() (puts, gets Latencies) {
	p.cancel()
	p.done.Wait()
	slices.Sort(p.puts)
	slices.Sort(p.gets)
	return p.puts, p.gets
}
