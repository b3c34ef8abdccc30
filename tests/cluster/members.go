package main

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"ringstone.test/internal/history"
	"ringstone.test/internal/server"
)

// patience is how long a cluster with a majority may take to serve again.
const patience = 20 * time.Second

// cluster is the members as processes.
type cluster struct {
	members []*server.Server
	// disks of the members, where they have their own.
	disks []*disk
}

func (c *cluster) start() error {
	for _, member := range c.members {
		if err := member.Launch(); err != nil {
			return err
		}
	}
	return c.settle()
}

func (c *cluster) kill() {
	for _, member := range c.members {
		member.Kill()
	}
}

// settle waits until every member answers a linearizable read.
func (c *cluster) settle() error {
	deadline := time.Now().Add(patience)
	for i, member := range c.members {
		for {
			if !member.Alive() {
				return fmt.Errorf("member %d has ended by itself\n%s", i, member.LogTail())
			}
			err := server.Probe(member.Endpoint, time.Second)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("member %d does not answer within %v: %w\n%s", i, patience, err, member.LogTail())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

// leader is the index of the member that leads, as the others say.
func (c *cluster) leader() (int, error) {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		leads, ids := map[uint64]int{}, map[uint64]int{}
		for i, member := range c.members {
			status, err := c.status(member)
			if err != nil {
				continue
			}
			ids[status.Header.MemberId] = i
			leads[status.Leader]++
		}
		for id, votes := range leads {
			if i, known := ids[id]; known && 2*votes > len(c.members) {
				return i, nil
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return 0, errors.New("no majority of the members agrees on a leader")
}

func (c *cluster) status(member *server.Server) (*pb.StatusResponse, error) {
	connection, err := server.Dial(member.Endpoint)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	return pb.NewMaintenanceClient(connection).Status(ctx, &pb.StatusRequest{})
}

// revision is that of the store now.
func (c *cluster) revision() (int64, error) {
	connection, err := server.Dial(c.members[0].Endpoint)
	if err != nil {
		return 0, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	now, err := pb.NewKVClient(connection).Range(ctx, &pb.RangeRequest{Key: []byte{0}, CountOnly: true})
	return now.GetHeader().GetRevision(), err
}

// events is a member's own history, by a watch from where it begins to the present revision.
func (c *cluster) events(i int) (events []history.Event, err error) {
	connection, err := server.Dial(c.members[i].Endpoint)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	now, err := pb.NewKVClient(connection).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
	if err != nil {
		return nil, err
	}
	stream, err := pb.NewWatchClient(connection).Watch(ctx)
	if err != nil {
		return nil, err
	}
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 1}
	last := int64(1)
	for begun := false; last < now.Header.Revision; {
		if !begun {
			if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
				return nil, err
			}
			begun = true
		}
		response, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if response.CompactRevision >= create.StartRevision {
			last, create.StartRevision, begun = response.CompactRevision, response.CompactRevision+1, false
			continue
		}
		if response.Canceled {
			return nil, errors.New("the watch was cancelled: " + response.CancelReason)
		}
		for _, event := range response.Events {
			last = event.Kv.ModRevision
			events = append(events, eventOf(event))
		}
	}
	return events, nil
}

// eventOf is an event with a value that can be kept by the thousand: a large one has become its beginning and its sum.
func eventOf(event *mvccpb.Event) history.Event {
	own := history.Event{Revision: event.Kv.ModRevision, Key: string(event.Kv.Key)}
	if event.Type == mvccpb.PUT {
		own.Value = brief(string(event.Kv.Value))
	}
	return own
}

func brief(value string) string {
	if len(value) <= 1<<10 {
		return value
	}
	return fmt.Sprintf("%s #%d %x", value[:32], len(value), crc32.ChecksumIEEE([]byte(value)))
}

// hashes compares the members' states at one revision.
func (c *cluster) hashes() (complaints []string) {
	var revision int64
	hashes := map[uint32][]int{}
	for i, member := range c.members {
		connection, err := server.Dial(member.Endpoint)
		if err != nil {
			return []string{err.Error()}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if revision == 0 {
			now, err := pb.NewKVClient(connection).Range(ctx, &pb.RangeRequest{Key: []byte{0}})
			if err == nil {
				revision = now.Header.Revision
			}
		}
		answer, err := pb.NewMaintenanceClient(connection).HashKV(ctx, &pb.HashKVRequest{Revision: revision})
		cancel()
		_ = connection.Close()
		if err != nil {
			return append(complaints, fmt.Sprintf("member %d: %v", i, err))
		}
		hashes[answer.Hash] = append(hashes[answer.Hash], i)
	}
	if len(hashes) > 1 {
		complaints = append(complaints, fmt.Sprintf("at revision %d the members have different hashes: %v", revision, hashes))
	}
	return complaints
}
