package main

import (
	"google.golang.org/grpc/metadata"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// run spends the epoch's budget of calls.
func (r *runner) run() {
	r.prelude()
	restartAt := r.budget / 2
	settleEvery := 60
	sinceSettle := 0
	for r.budget > 0 && !r.stop {
		if r.budget < restartAt {
			restartAt = -1
			r.restart()
			continue
		}
		r.step()
		if sinceSettle++; sinceSettle >= settleEvery {
			sinceSettle = 0
			r.settle()
			r.died()
		}
	}
	if !r.stop {
		r.settle()
		r.checkEverything()
	}
	for _, p := range r.pairs {
		p.close()
	}
	if r.observer != nil {
		r.observer.cancel()
	}
}

// step does one random thing.
func (r *runner) step() {
	switch n := r.Intn(10_000); {
	case n < 7600:
		r.keyValueCall()
	case n < 8900:
		r.leaseCall()
	case n < 9500:
		r.watchAction()
	case n < 9600:
		r.compact(&pb.CompactionRequest{Revision: r.compactRevision(), Physical: r.chance(40)})
	case n < 9760:
		r.hash(r.hashRevision())
	case n < 9840:
		r.judge(r.rawCall())
	case n < 9920:
		r.maintenance()
	case n < 9940:
		r.alarmEpisode(pb.AlarmType(1 + r.Intn(2)))
	case n < 9944:
		r.expiry()
	case n < 9948:
		r.large()
	case n < 9956:
		r.longStream()
	default:
		r.shortLease()
	}
}

func (r *runner) keyValueCall() {
	c := &call{}
	switch n := r.Intn(100); {
	case n < 30:
		c.method, c.request = pb.KV_Put_FullMethodName, r.put()
	case n < 55:
		c.method, c.request = pb.KV_Range_FullMethodName, r.rangeRequest(false)
	case n < 63:
		c.method, c.request = pb.KV_RangeStream_FullMethodName, r.streamRequest()
	case n < 72:
		c.method, c.request = pb.KV_DeleteRange_FullMethodName, r.deleteRange()
	default:
		c.method, c.request = pb.KV_Txn_FullMethodName, r.txn()
	}
	if r.chance(5) {
		c.metadata = metadata.Pairs("hasleader", "true", "client-api-version", "3.7.3", "token", "of-nobody")
	}
	r.judge(c)
}

// streamRequest is mostly one that RangeStream takes.
func (r *runner) streamRequest() *pb.RangeRequest {
	read := r.rangeRequest(false)
	if r.chance(75) {
		read.SortOrder, read.SortTarget = 0, 0
		read.MinModRevision, read.MaxModRevision, read.MinCreateRevision, read.MaxCreateRevision = 0, 0, 0, 0
	}
	return read
}

func (r *runner) leaseCall() {
	switch n := r.Intn(100); {
	case n < 25:
		grant := &pb.LeaseGrantRequest{ID: int64(1 + r.Intn(12)), TTL: 1000 + r.Int63n(100_000)}
		if r.chance(20) {
			grant.ID = 0
		}
		if r.chance(5) {
			grant.ID = []int64{-3, 1<<63 - 1, -1 << 63}[r.Intn(3)]
		}
		if r.chance(5) {
			grant.TTL = []int64{9_000_000_000, 9_000_000_001, 1<<63 - 1}[r.Intn(3)]
		}
		r.ask(pb.Lease_LeaseGrant_FullMethodName, grant)
	case n < 45:
		r.ask(pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: r.lease()})
	case n < 65:
		r.ask(pb.Lease_LeaseKeepAlive_FullMethodName, &pb.LeaseKeepAliveRequest{ID: r.lease()})
	case n < 68:
		r.endKeepAlive()
	case n < 88:
		r.ask(pb.Lease_LeaseTimeToLive_FullMethodName, &pb.LeaseTimeToLiveRequest{ID: r.lease(), Keys: r.chance(60)})
	default:
		r.ask(pb.Lease_LeaseLeases_FullMethodName, &pb.LeaseLeasesRequest{})
	}
}

func (r *runner) endKeepAlive() {
	r.calls++
	r.budget--
	control, target := r.control.endKeepAlive(), r.target.endKeepAlive()
	if found := compareAnswers(control, target); len(found) > 0 {
		r.fail("half-close of a keep-alive stream", []string{found[0].String()}, show2(control), show2(target))
		return
	}
	r.passed++
}

// compact brings the watches and etcd's background work to rest first: what etcd answers for a hash, and which watch is
// overtaken, must not depend on a race inside it.
func (r *runner) compact(request *pb.CompactionRequest) {
	r.settle()
	r.barrier()
	r.awaitCompaction()
	if !r.stop {
		r.ask(pb.KV_Compact_FullMethodName, request)
	}
}

func (r *runner) hash(revision int64) {
	r.awaitCompaction()
	r.ask(pb.Maintenance_HashKV_FullMethodName, &pb.HashKVRequest{Revision: revision})
}

// awaitCompaction waits until earlier compactions are done in the background, on both sides: a physical one that is
// refused as already compacted is answered after them.
func (r *runner) awaitCompaction() {
	if r.model.compacted < 0 {
		return
	}
	wait := &call{method: pb.KV_Compact_FullMethodName, request: &pb.CompactionRequest{Revision: r.model.compacted, Physical: true}}
	r.control.do(wait)
	r.target.do(wait)
}

func (r *runner) maintenance() {
	switch r.Intn(4) {
	case 0:
		r.ask(pb.Cluster_MemberList_FullMethodName, &pb.MemberListRequest{Linearizable: r.chance(50)})
	case 1:
		r.ask(pb.Maintenance_Alarm_FullMethodName, &pb.AlarmRequest{Action: pb.AlarmRequest_GET, Alarm: pb.AlarmType(r.Intn(3))})
	case 2:
		r.ask(pb.Maintenance_Defragment_FullMethodName, &pb.DefragmentRequest{})
	default:
		r.ask(pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{})
	}
}
