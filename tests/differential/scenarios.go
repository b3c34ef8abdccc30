package main

import (
	"bytes"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// prelude sends, on a fresh store, one of each call that the random stream might miss.
func (r *runner) prelude() {
	all := func(read *pb.RangeRequest) *pb.RangeRequest {
		read.Key, read.RangeEnd = []byte{0}, []byte{0}
		return read
	}
	key := []byte("prelude")
	r.ask(pb.Cluster_MemberList_FullMethodName, &pb.MemberListRequest{Linearizable: true})
	r.ask(pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{})
	r.ask(pb.Maintenance_HashKV_FullMethodName, &pb.HashKVRequest{})
	r.ask(pb.KV_Range_FullMethodName, all(&pb.RangeRequest{}))
	r.ask(pb.KV_RangeStream_FullMethodName, all(&pb.RangeRequest{}))
	r.ask(pb.Lease_LeaseLeases_FullMethodName, &pb.LeaseLeasesRequest{})
	if r.chance(50) { // legal once, on a store that was never compacted
		r.compact(&pb.CompactionRequest{Revision: 0, Physical: r.chance(50)})
		r.compact(&pb.CompactionRequest{Revision: 0})
		r.hash(0)
	}
	r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{})
	r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: key, IgnoreValue: true})
	r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: key, IgnoreLease: true})
	r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: key, Value: key, IgnoreValue: true})
	r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: key, Lease: 5, IgnoreLease: true})
	r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: key, Lease: 404})
	r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: key, Value: []byte("1"), PrevKv: true})
	r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: key, Value: []byte("2"), PrevKv: true})
	r.ask(pb.KV_Range_FullMethodName, all(&pb.RangeRequest{SortOrder: 9}))
	r.ask(pb.KV_Range_FullMethodName, all(&pb.RangeRequest{SortTarget: -1}))
	r.ask(pb.KV_Range_FullMethodName, all(&pb.RangeRequest{Revision: 1 << 40}))
	r.ask(pb.KV_RangeStream_FullMethodName, all(&pb.RangeRequest{SortOrder: pb.RangeRequest_DESCEND}))
	r.ask(pb.KV_RangeStream_FullMethodName, all(&pb.RangeRequest{MinModRevision: 1}))
	r.ask(pb.KV_Txn_FullMethodName, &pb.TxnRequest{})
	r.ask(pb.KV_Txn_FullMethodName, &pb.TxnRequest{Success: []*pb.RequestOp{{}}})
	r.ask(pb.KV_Txn_FullMethodName, &pb.TxnRequest{Compare: []*pb.Compare{{}}})
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key}}}
	r.ask(pb.KV_Txn_FullMethodName, &pb.TxnRequest{Success: []*pb.RequestOp{put, put}})
	r.nested()
	many := &pb.TxnRequest{}
	for range 129 {
		many.Failure = append(many.Failure, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}})
	}
	r.ask(pb.KV_Txn_FullMethodName, many)
	for _, depth := range []int{49, 50, 51, 126, 127, 128} {
		r.ask(pb.KV_Txn_FullMethodName, r.deepTxn(depth))
	}
	r.ask(pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{ID: 1, TTL: 5000})
	r.ask(pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{ID: 1, TTL: 5000})
	r.ask(pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{ID: 2, TTL: 9_000_000_001})
	r.ask(pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: 404})
	r.ask(pb.Lease_LeaseTimeToLive_FullMethodName, &pb.LeaseTimeToLiveRequest{ID: 0, Keys: true})
	r.ask(pb.Lease_LeaseKeepAlive_FullMethodName, &pb.LeaseKeepAliveRequest{ID: 404})
	r.ask(pb.KV_Compact_FullMethodName, &pb.CompactionRequest{Revision: 1 << 40})
	r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: key, Value: make([]byte, 1_600_000)})
	r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: key, Value: make([]byte, 2_200_000)})
	r.alarmEpisode(pb.AlarmType_NOSPACE)
	r.alarmEpisode(pb.AlarmType_CORRUPT)
	r.watchPrelude()
	r.coverage.scenarios["prelude"]++
}

// nested sends transactions whose parts meet across levels.
func (r *runner) nested() {
	key := []byte("nested")
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte("x")}}}
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}
	remove := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key, PrevKv: true}}}
	in := func(success, failure []*pb.RequestOp) *pb.RequestOp {
		exists := &pb.Compare{Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, Key: key, TargetUnion: &pb.Compare_Version{}}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Compare: []*pb.Compare{exists}, Success: success, Failure: failure}}}
	}
	ops := func(list ...*pb.RequestOp) []*pb.RequestOp { return list }
	for _, list := range [][]*pb.RequestOp{
		ops(get, put, get, in(ops(get), ops(get))),
		ops(in(ops(put), ops(put))), // branches of one transaction may coincide
		ops(in(ops(put), nil), in(ops(put), nil)),
		ops(in(ops(put), nil), in(ops(remove), nil)),
		ops(in(ops(remove), nil), in(ops(put), nil)),
		ops(put, in(ops(put), nil)),
		ops(put, in(ops(remove), nil)),
		ops(remove, in(nil, ops(put))),
		ops(remove, remove, get),
		ops(in(ops(in(ops(put, get), ops(get)), get), ops(in(ops(remove), ops(put)), get))),
	} {
		r.ask(pb.KV_Txn_FullMethodName, &pb.TxnRequest{Success: list})
	}
}

// watchPrelude meets every reason for which a watch can be refused or ended.
func (r *runner) watchPrelude() {
	p := r.openPair()
	if p == nil {
		return
	}
	everything := func(w *pb.WatchCreateRequest) *pb.WatchCreateRequest {
		w.Key, w.RangeEnd = []byte{0}, []byte{0}
		return w
	}
	r.createWatch(p, everything(&pb.WatchCreateRequest{WatchId: 3, StartRevision: 1, PrevKv: true}))
	r.createWatch(p, everything(&pb.WatchCreateRequest{WatchId: 3}))
	r.createWatch(p, &pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")})
	r.createWatch(p, everything(&pb.WatchCreateRequest{StartRevision: -1}))
	r.createWatch(p, everything(&pb.WatchCreateRequest{Fragment: true, ProgressNotify: true}))
	for range 3 {
		r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("watched"), Value: r.value()})
	}
	r.requestProgress(p)
	r.compact(&pb.CompactionRequest{Revision: r.model.revision - 1, Physical: true})
	r.createWatch(p, everything(&pb.WatchCreateRequest{StartRevision: r.model.revision - 2}))
	r.createWatch(p, everything(&pb.WatchCreateRequest{StartRevision: r.model.revision - 1, PrevKv: true}))
	r.requestProgress(p) // no answer: one was cancelled by the compaction
	r.settle()
}

// alarmEpisode raises an alarm, sends some calls against it, and takes it back.
func (r *runner) alarmEpisode(kind pb.AlarmType) {
	member := ownMember
	if r.chance(30) {
		member = 12345
	}
	set := func(action pb.AlarmRequest_AlarmAction, kind pb.AlarmType) {
		r.ask(pb.Maintenance_Alarm_FullMethodName, &pb.AlarmRequest{Action: action, MemberID: member, Alarm: kind})
	}
	set(pb.AlarmRequest_ACTIVATE, kind)
	if r.chance(30) {
		set(pb.AlarmRequest_ACTIVATE, kind)
	}
	set(pb.AlarmRequest_GET, pb.AlarmType_NONE)
	r.ask(pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{})
	r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("alarmed"), Value: []byte("x")})
	r.ask(pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{ID: 77, TTL: 4000})
	for range r.Intn(12) {
		r.keyValueCall()
	}
	set(pb.AlarmRequest_GET, pb.AlarmType(r.Intn(3)))
	set(pb.AlarmRequest_DEACTIVATE, kind)
	if r.chance(20) {
		set(pb.AlarmRequest_DEACTIVATE, kind)
		set(pb.AlarmRequest_ACTIVATE, pb.AlarmType_NONE)
	}
	r.ask(pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{})
	r.coverage.scenarios["alarm "+kind.String()]++
}

// shortLease is granted with a time to live that would run out within the run, so it is revoked at once.
func (r *runner) shortLease() {
	id := int64(900 + r.Intn(3))
	ttl := []int64{-1, 0, 1, 2, 3, 60}[r.Intn(6)]
	if !r.ask(pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{ID: id, TTL: ttl}).ok() {
		return
	}
	r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: r.someKey(), Value: r.value(), Lease: id})
	r.ask(pb.Lease_LeaseTimeToLive_FullMethodName, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	r.ask(pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: id})
}

// expiry lets a lease run out on both sides while nothing else happens: its keys go in one revision, and not early.
func (r *runner) expiry() {
	const id, ttl = 950, 2
	r.settle()
	granted := time.Now()
	if !r.ask(pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{ID: id, TTL: ttl}).ok() {
		return
	}
	for range 1 + r.Intn(3) {
		r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: r.someKey(), Value: r.value(), Lease: id})
	}
	revision := r.model.revision
	gone := func(s *side) bool {
		a := s.do(&call{method: pb.Lease_LeaseTimeToLive_FullMethodName, request: &pb.LeaseTimeToLiveRequest{ID: id}})
		return a.ok() && a.messages[0].(*pb.LeaseTimeToLiveResponse).TTL == -1
	}
	var took [2]time.Duration
	done := eventually(20*time.Second, func() bool {
		for i, s := range []*side{r.control, r.target} {
			if took[i] == 0 && gone(s) {
				took[i] = time.Since(granted)
			}
		}
		return took[0] > 0 && took[1] > 0
	})
	for i, s := range []*side{r.control, r.target} {
		if !done && took[i] == 0 {
			r.fail("lease expiry", []string{s.name + ": a lease of 2 s is alive after 20 s"}, "", "")
		}
		if took[i] > 0 && took[i] < ttl*time.Second {
			r.fail("lease expiry", []string{fmt.Sprintf("%s: a lease of 2 s was gone after %v", s.name, took[i])}, "", "")
		}
	}
	r.model.leases = remove(r.model.leases, id)
	read := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	r.ask(pb.KV_Range_FullMethodName, read)
	if r.model.revision != revision+1 {
		r.fail("lease expiry", []string{fmt.Sprintf("revision %d became %d", revision, r.model.revision)}, "", "")
	}
	r.settle()
	r.coverage.scenarios["lease expiry"]++
}

func remove(list []int64, item int64) (rest []int64) {
	for _, other := range list {
		if other != item {
			rest = append(rest, other)
		}
	}
	return rest
}

// large writes more than fits one watch response with `fragment`, and reads it back in chunks.
func (r *runner) large() {
	for i := range 5 {
		value := bytes.Repeat([]byte{byte('0' + i)}, 600_000+r.Intn(200_000))
		r.ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte(fmt.Sprintf("large%d", i)), Value: value})
	}
	first := r.model.revision - 4
	if p := r.openPair(); p != nil {
		r.createWatch(p, &pb.WatchCreateRequest{Key: []byte("large"), RangeEnd: []byte("largf"), StartRevision: first, Fragment: true})
		r.createWatch(p, &pb.WatchCreateRequest{Key: []byte("large"), RangeEnd: []byte("largf"), StartRevision: first})
		r.settle()
		if !r.stop {
			r.closePair(p)
		}
	}
	for _, limit := range []int64{0, 3} {
		read := &pb.RangeRequest{Key: []byte("large"), RangeEnd: []byte("largf"), Limit: limit}
		r.ask(pb.KV_RangeStream_FullMethodName, read)
		r.ask(pb.KV_Range_FullMethodName, proto.Clone(read))
	}
	r.ask(pb.KV_DeleteRange_FullMethodName, &pb.DeleteRangeRequest{Key: []byte("large"), RangeEnd: []byte("largf"), PrevKv: true})
	r.coverage.scenarios["large values"]++
}

// longStream reads more keys than one chunk holds, at old revisions too.
func (r *runner) longStream() {
	for batch := range 3 {
		t := &pb.TxnRequest{}
		for i := range 100 {
			put := &pb.PutRequest{Key: []byte(fmt.Sprintf("long%d%03d", batch, i)), Value: r.bytes(10)}
			t.Success = append(t.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		r.ask(pb.KV_Txn_FullMethodName, t)
	}
	for range 8 {
		read := &pb.RangeRequest{Key: []byte("long"), RangeEnd: []byte("lonh"), Limit: int64(r.Intn(400)), KeysOnly: r.chance(30), CountOnly: r.chance(20)}
		read.Revision = r.readRevision()
		r.ask(pb.KV_RangeStream_FullMethodName, read)
		r.ask(pb.KV_Range_FullMethodName, proto.Clone(read))
	}
	r.ask(pb.KV_DeleteRange_FullMethodName, &pb.DeleteRangeRequest{Key: []byte("long"), RangeEnd: []byte("lonh")})
	r.coverage.scenarios["long streams"]++
}

// restart ends both servers, one way or the other, and goes on with what is on their disks.
func (r *runner) restart() {
	if r.control.server == nil || r.target.server == nil {
		return
	}
	r.settle()
	for _, p := range append([]*watchPair(nil), r.pairs...) {
		r.closePair(p)
	}
	if r.observer != nil {
		r.observer.cancel()
		r.observer = nil
	}
	kill := r.chance(50)
	for _, s := range []*side{r.control, r.target} {
		if err := s.restart(kill); err != nil {
			r.fail("restart of the "+s.name, []string{err.Error()}, "", "")
			r.stop = true
			return
		}
	}
	for _, revision := range r.model.compactions {
		r.model.forgotten[revision] = true
	}
	r.model.compactions = nil
	r.checkEverything()
	r.coverage.scenarios[map[bool]string{true: "restart after SIGKILL", false: "restart after SIGTERM"}[kill]]++
}

// checkEverything reads the whole store at several revisions, and the whole history.
func (r *runner) checkEverything() {
	if r.stop {
		return
	}
	r.ask(pb.Lease_LeaseLeases_FullMethodName, &pb.LeaseLeasesRequest{})
	for _, id := range r.model.leases {
		r.ask(pb.Lease_LeaseTimeToLive_FullMethodName, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	}
	oldest := max(r.model.compacted, 1)
	for i := range int64(6) {
		revision := oldest + (r.model.revision-oldest)*i/5
		r.ask(pb.KV_Range_FullMethodName, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision})
	}
	if p := r.openPair(); p != nil {
		r.createWatch(p, &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: oldest, PrevKv: true})
		r.settle()
		if !r.stop {
			r.closePair(p)
		}
	}
}
