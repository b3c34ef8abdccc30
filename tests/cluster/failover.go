package main

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/server"
)

const (
	heartbeat       = 100 * time.Millisecond
	electionTimeout = time.Second
	// putBound is how long a client waits before it asks again: what went to a leader that has ended is not answered.
	putBound = 300 * time.Millisecond
)

// timingFlags are the defaults of both programs.
func timingFlags() []string {
	return []string{
		fmt.Sprintf("--heartbeat-interval=%d", heartbeat.Milliseconds()),
		fmt.Sprintf("--election-timeout=%d", electionTimeout.Milliseconds()),
	}
}

// failover kills the leader again and again, and takes the time until a put is acknowledged that was begun after its end. Puts go
// to each of the others, one after the other, again at once after an error.
func (t *test) failover(command string, members, runs int) {
	if !t.begin(command, members, timingFlags()) {
		return
	}
	defer t.cluster.kill()
	var took []time.Duration
	for run := range runs {
		leader, err := t.cluster.leader()
		if err != nil {
			t.verdict("a leader before a run", []string{err.Error()})
			return
		}
		// Anywhere between two heartbeats.
		time.Sleep(time.Duration(t.random.Int63n(int64(2 * heartbeat))))
		began := time.Now()
		t.cluster.members[leader].Kill()
		gone := time.Since(began)
		after, who := firstPut(t.others(leader), began, patience)
		if after == 0 {
			t.verdict(fmt.Sprint("run ", run), []string{"no put was acknowledged within " + patience.String()})
			return
		}
		fmt.Printf("run %d: leader %d killed and gone after %v, a put through member %d acknowledged after %v\n",
			run, leader, gone.Round(time.Millisecond), who, after.Round(time.Millisecond))
		took = append(took, after)
		t.passed++
		if err := t.cluster.members[leader].Launch(); err != nil {
			t.verdict("the start of a member", []string{err.Error()})
			return
		}
		if err := t.cluster.settle(); err != nil {
			t.verdict("the cluster behind a run", []string{err.Error()})
			return
		}
	}
	t.within("failover", took, 2*electionTimeout)
}

// within prints the percentiles and judges the 99th.
func (t *test) within(what string, took []time.Duration, bound time.Duration) {
	slices.Sort(took)
	at := func(percent int) time.Duration {
		return took[(len(took)*percent+99)/100-1].Round(time.Millisecond)
	}
	fmt.Printf("%s: p50 %v, p90 %v, p99 %v, max %v, of %d; p99 may be %v\n", what, at(50), at(90), at(99), at(100), len(took), bound)
	var complaints []string
	if at(99) > bound {
		complaints = append(complaints, fmt.Sprintf("p99 %v is above %v", at(99), bound))
	}
	t.verdict("the p99 of the "+what, complaints)
}

func (t *test) others(than int) map[int]*server.Server {
	others := map[int]*server.Server{}
	for i, member := range t.cluster.members {
		if i != than {
			others[i] = member
		}
	}
	return others
}

// firstPut is the time from `began` to the first put that any of the members acknowledges, 0 where none does; and which one.
func firstPut(members map[int]*server.Server, began time.Time, patience time.Duration) (time.Duration, int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var group sync.WaitGroup
	var first atomic.Int64
	who := -1
	for i, member := range members {
		group.Go(func() {
			connection, err := server.Dial(member.Endpoint)
			if err != nil {
				return
			}
			defer connection.Close()
			kv := pb.NewKVClient(connection)
			for ctx.Err() == nil {
				bounded, end := context.WithTimeout(ctx, putBound)
				_, err := kv.Put(bounded, &pb.PutRequest{Key: []byte("failover"), Value: fmt.Append(nil, rand.Int())})
				end()
				if err == nil {
					if first.CompareAndSwap(0, int64(time.Since(began))) {
						who = i
					}
					cancel()
					return
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	group.Wait()
	return time.Duration(first.Load()), who
}
