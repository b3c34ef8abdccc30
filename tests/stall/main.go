// Command stall makes very large requests, one after the other, and measures what others wait for meanwhile. The longest
// get beside each of them is how long it kept its executor; a put also waits for the writes before it in the log.
package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/probe"
	"ringstone.test/internal/server"
)

var (
	all    = []byte("stall/")
	allEnd = []byte("stall0")
)

func main() {
	command := flag.String("server", "", "command of the server, as in \"ringstone serve --shards=1\"")
	keys := flag.Int("keys", 1_000_000, "keys in the store")
	leased := flag.Int("leased", 100_000, "keys of one lease")
	bound := flag.Duration("bound", 0, "longest that others may wait; 0: only measured")
	flag.Parse()
	if *command == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	passed, failed, err := run(*command, *keys, *leased, *bound)
	if err != nil {
		fmt.Println("FAILED ", err)
		failed++
	}
	fmt.Printf("stall: %d passed, %d failed, 0 skipped\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func run(command string, keys, leased int, bound time.Duration) (passed, failed int, err error) {
	folder, err := server.TemporaryFolder("stall-")
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	child, err := server.New(command, folder, "--quota-backend-bytes=8589934592")
	if err == nil {
		err = child.Start(30 * time.Second)
	}
	if err != nil {
		return 0, 0, err
	}
	defer child.Kill()
	connection, err := server.Dial(child.Endpoint)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := fill(connection, keys, leased); err != nil {
		return 0, 0, err
	}
	fmt.Printf("%d keys in %v\n", keys, time.Since(began).Round(time.Millisecond))
	deletes, err := watchDeletes(connection)
	if err != nil {
		return 0, 0, err
	}
	for _, large := range requests(connection) {
		time.Sleep(time.Second)
		beside := probe.Start(child.Endpoint)
		time.Sleep(200 * time.Millisecond)
		began := time.Now()
		err := large.call()
		took := time.Since(began)
		time.Sleep(50 * time.Millisecond)
		puts, gets := beside.Finish()
		verdict := "ok     "
		if err != nil || bound > 0 && gets.At(100) > bound {
			verdict = "FAILED "
			failed++
		} else {
			passed++
		}
		fmt.Printf("%s%-36s took %-9v others' gets %v, puts %v", verdict, large.name, took.Round(time.Millisecond), gets, puts)
		if err != nil {
			fmt.Print("  ", err)
		}
		fmt.Println()
	}
	if seen := deletes(keys); seen == keys {
		passed++
		fmt.Printf("ok     a watch has seen each of %d deletes once\n", seen)
	} else {
		failed++
		fmt.Printf("FAILED a watch has seen %d deletes of %d keys\n", seen, keys)
	}
	return passed, failed, nil
}

// watchDeletes opens a watch of all keys; what it returns waits until so many deletes were seen, each of another key, or
// none has come for a while.
func watchDeletes(connection *grpc.ClientConn) (await func(count int) int, err error) {
	stream, err := pb.NewWatchClient(connection).Watch(context.Background())
	if err != nil {
		return nil, err
	}
	create := &pb.WatchCreateRequest{Key: all, RangeEnd: allEnd, Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return nil, err
	}
	if _, err := stream.Recv(); err != nil {
		return nil, err
	}
	received := make(chan int, 1<<20)
	go func() {
		defer close(received)
		seen := map[string]bool{}
		for {
			response, err := stream.Recv()
			if err != nil {
				return
			}
			for _, event := range response.Events {
				if seen[string(event.Kv.Key)] {
					fmt.Printf("a second delete of %q\n", event.Kv.Key)
					return
				}
				seen[string(event.Kv.Key)] = true
			}
			received <- len(response.Events)
		}
	}()
	return func(count int) int {
		total := 0
		for total < count {
			select {
			case more, open := <-received:
				total += more
				if !open {
					return total
				}
			case <-time.After(10 * time.Second):
				return total
			}
		}
		return total
	}, nil
}

// fill puts the keys, the first ones with a lease.
func fill(connection *grpc.ClientConn, keys, leased int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if _, err := pb.NewLeaseClient(connection).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 10_000}); err != nil {
		return err
	}
	const workers, batch = 32, 100
	var group sync.WaitGroup
	failures := make(chan error, workers)
	for worker := range workers {
		group.Go(func() {
			for from := worker * batch; from < keys; from += workers * batch {
				txn := &pb.TxnRequest{}
				for number := from; number < min(from+batch, keys); number++ {
					put := &pb.PutRequest{Key: binary.BigEndian.AppendUint32(all[:len(all):len(all)], uint32(number)), Value: make([]byte, 100)}
					if number < leased {
						put.Lease = 7
					}
					binary.BigEndian.PutUint32(put.Value, uint32(number)*2654435761)
					txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
				}
				if _, err := pb.NewKVClient(connection).Txn(ctx, txn); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}

type request struct {
	name string
	call func() error
}

// requests are what is large, in an order in which each finds what it needs.
func requests(connection *grpc.ClientConn) []request {
	ctx := context.Background()
	kv, maintenance := pb.NewKVClient(connection), pb.NewMaintenanceClient(connection)
	whole := &pb.RangeRequest{Key: all, RangeEnd: allEnd}
	sorted := &pb.RangeRequest{Key: all, RangeEnd: allEnd, SortTarget: pb.RangeRequest_VALUE, SortOrder: pb.RangeRequest_ASCEND}
	holds := &pb.Compare{Key: all, RangeEnd: allEnd, Target: pb.Compare_CREATE, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_CreateRevision{}}
	read := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: all}}}
	write := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("written")}}}
	txn := func(op *pb.RequestOp) func() error {
		return func() error {
			_, err := kv.Txn(ctx, &pb.TxnRequest{Compare: []*pb.Compare{holds}, Success: []*pb.RequestOp{op}})
			return err
		}
	}
	return []request{
		{"range of all", func() error { _, err := kv.Range(ctx, whole); return err }},
		{"range of all, sorted by value", func() error { _, err := kv.Range(ctx, sorted); return err }},
		{"range of all, the last 10 by value", func() error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: all, RangeEnd: allEnd, SortTarget: pb.RangeRequest_VALUE, SortOrder: pb.RangeRequest_DESCEND, Limit: 10})
			return err
		}},
		{"read-only txn that compares all", txn(read)},
		{"writing txn that compares all", txn(write)},
		{"compaction of all, HashKV behind it", func() error {
			answer, err := kv.Range(ctx, &pb.RangeRequest{Key: all})
			if err == nil {
				_, err = kv.Compact(ctx, &pb.CompactionRequest{Revision: answer.Header.Revision})
			}
			for range 5 {
				if err == nil {
					_, err = maintenance.HashKV(ctx, &pb.HashKVRequest{})
				}
			}
			return err
		}},
		{"end of a lease with many keys", func() error {
			_, err := pb.NewLeaseClient(connection).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 7})
			return err
		}},
		{"delete of all", func() error {
			_, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: all, RangeEnd: allEnd})
			return err
		}},
	}
}
