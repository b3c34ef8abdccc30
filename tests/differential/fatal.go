package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// runFatal sends to the target alone what ends etcd 3.7.3, and holds it to three things: an answer to each call, a
// store that still says what its answers said, and a process that survives it and a restart.
func runFatal(target string) (passed, failed int) {
	t, err := openSide("target", target)
	if err != nil {
		fmt.Printf("FAILED: %v\n", err)
		return 0, 1
	}
	defer t.close()
	check := func(name string, err error) {
		if err == nil && t.server != nil && !t.server.Alive() {
			err = fmt.Errorf("the process ended\n%s", t.server.LogTail())
		}
		if err != nil {
			failed++
			fmt.Printf("FAILED %s: %v\n", name, err)
			return
		}
		passed++
	}
	check("rewritten within one revision, then compacted", rewrittenThenCompacted(t))
	check("from-key delete and ignore_value, flat", ignoreAfterDelete(t, false, false))
	check("from-key delete and ignore_lease, flat", ignoreAfterDelete(t, false, true))
	check("from-key delete and ignore_value, nested", ignoreAfterDelete(t, true, false))
	check("from-key delete and ignore_lease, nested", ignoreAfterDelete(t, true, true))
	check("alarm with an unknown action", unknownAlarmAction(t))
	if t.server != nil {
		err := t.restart(true)
		check("restart on the same data", err)
		if err == nil {
			check("reads after the restart", readsBack(t, []byte("after"), []byte("restart")))
		}
	}
	return passed, failed
}

func bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 10*time.Second)
}

func kv(connection *grpc.ClientConn) pb.KVClient { return pb.NewKVClient(connection) }

// readsBack puts a pair and reads it.
func readsBack(t *side, key, value []byte) error {
	ctx, cancel := bounded()
	defer cancel()
	if _, err := kv(t.connection).Put(ctx, &pb.PutRequest{Key: key, Value: value}); err != nil {
		return err
	}
	return holds(t, key, value, 0)
}

func holds(t *side, key, value []byte, revision int64) error {
	ctx, cancel := bounded()
	defer cancel()
	found, err := kv(t.connection).Range(ctx, &pb.RangeRequest{Key: key, Revision: revision})
	if err != nil {
		return err
	}
	if len(found.Kvs) != 1 || !bytes.Equal(found.Kvs[0].Value, value) {
		return fmt.Errorf("%q at revision %d is %v, not %q", key, revision, found.Kvs, value)
	}
	return nil
}

func rewrittenThenCompacted(t *side) error {
	key := []byte("phoenix")
	if err := readsBack(t, key, []byte("old")); err != nil {
		return err
	}
	ctx, cancel := bounded()
	defer cancel()
	done, err := kv(t.connection).Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte("new")}}},
	}})
	if err != nil {
		return holds(t, key, []byte("old"), 0) // an error is an answer too, if nothing happened
	}
	if err := holds(t, key, []byte("new"), 0); err != nil {
		return err
	}
	if _, err := kv(t.connection).Compact(ctx, &pb.CompactionRequest{Revision: done.Header.Revision, Physical: true}); err != nil {
		return err
	}
	if err := holds(t, key, []byte("new"), done.Header.Revision); err != nil {
		return err
	}
	return holds(t, key, []byte("new"), 0)
}

func ignoreAfterDelete(t *side, nested, lease bool) error {
	key := []byte("ignored")
	if err := readsBack(t, key, []byte("kept")); err != nil {
		return err
	}
	ctx, cancel := bounded()
	defer cancel()
	put := &pb.PutRequest{Key: key, IgnoreValue: !lease, IgnoreLease: lease}
	if lease {
		put.Value = []byte("kept")
	}
	ops := []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte{0}}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: put}},
	}
	if nested {
		ops[1] = &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{ops[1]}}}}
	}
	_, err := kv(t.connection).Txn(ctx, &pb.TxnRequest{Success: ops})
	if err != nil {
		return holds(t, key, []byte("kept"), 0)
	}
	found, err := kv(t.connection).Range(ctx, &pb.RangeRequest{Key: key})
	if err != nil || len(found.Kvs) != 1 {
		return fmt.Errorf("accepted, but the key reads as %v, %v", found, err)
	}
	return nil
}

func unknownAlarmAction(t *side) error {
	ctx, cancel := bounded()
	defer cancel()
	// Whatever it answers, it answers.
	_, err := pb.NewMaintenanceClient(t.connection).Alarm(ctx, &pb.AlarmRequest{Action: 7, Alarm: pb.AlarmType_NOSPACE})
	if ctx.Err() != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	return readsBack(t, []byte("after"), []byte("the alarm"))
}
