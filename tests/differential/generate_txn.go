package main

import (
	"bytes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{
		Result: pb.Compare_CompareResult(g.Intn(4)),
		Target: pb.Compare_CompareTarget(g.Intn(5)),
		Key:    g.key(),
	}
	if g.chance(20) {
		c.Key, c.RangeEnd = g.interval()
	}
	if g.chance(2) {
		c.Result = pb.Compare_CompareResult(g.unknownEnum())
	}
	if g.chance(2) {
		c.Target = pb.Compare_CompareTarget(g.unknownEnum())
	}
	union := c.Target
	if g.chance(4) {
		union = pb.Compare_CompareTarget(g.Intn(6)) // another one than the target says, or none
	}
	revision := g.filterRevision()
	if g.chance(40) {
		revision = 0
	}
	switch union {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: int64(g.Intn(4))}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: revision}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: revision}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		lease := g.lease()
		if c.Result == pb.Compare_LESS || c.Result == pb.Compare_GREATER {
			// Ids that the servers chose have no order that both share.
			lease = int64(g.Intn(14) - 1)
		}
		c.TargetUnion = &pb.Compare_Lease{Lease: lease}
	}
	return c
}

func (g *generator) operation(depth int) *pb.RequestOp {
	switch n := g.Intn(100); {
	case n < 35:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.put()}}
	case n < 60:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeRequest(true)}}
	case n < 80:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.deleteRange()}}
	case n < 98 && depth < 4:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txnAt(depth + 1)}}
	case n < 99:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeRequest(true)}}
	default:
		return &pb.RequestOp{}
	}
}

func (g *generator) operations(depth int) (ops []*pb.RequestOp) {
	most := 5
	if depth > 0 {
		most = 3
	}
	for range g.Intn(most) {
		ops = append(ops, g.operation(depth))
	}
	return ops
}

func (g *generator) txnAt(depth int) *pb.TxnRequest {
	t := &pb.TxnRequest{}
	for range []int{0, 0, 0, 1, 1, 1, 1, 2, 3}[g.Intn(9)] {
		t.Compare = append(t.Compare, g.compare())
	}
	t.Success, t.Failure = g.operations(depth), g.operations(depth)
	return t
}

// txn is a random transaction of any kind, but none of those that end etcd 3.7.3 (see endsEtcd).
func (g *generator) txn() *pb.TxnRequest {
	for {
		var t *pb.TxnRequest
		switch n := g.Intn(100); {
		case n < 2:
			t = g.wideTxn()
		case n < 4:
			t = g.deepTxn([]int{49, 50, 51, 126, 127, 128}[g.Intn(6)])
		case n < 10:
			t = g.readOnlyTxn()
		case n < 25:
			t = g.optimisticTxn()
		default:
			t = g.txnAt(0)
		}
		if !endsEtcd(t) {
			return t
		}
	}
}

// wideTxn stands at the limit of 128 operations.
func (g *generator) wideTxn() *pb.TxnRequest {
	count := []int{127, 128, 129}[g.Intn(3)]
	t := &pb.TxnRequest{}
	for i := range count {
		switch {
		case g.chance(50):
			key := append([]byte("w"), byte(i))
			t.Success = append(t.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key}}})
		default:
			t.Success = append(t.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: g.someKey()}}})
		}
	}
	return t
}

// deepTxn nests one transaction in the other, with something to do at the bottom.
func (g *generator) deepTxn(depth int) *pb.TxnRequest {
	t := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("deep"), Value: g.value()}}}}}
	if g.chance(30) {
		t.Success = []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("deep")}}}}
	}
	for range depth {
		t = &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}}}
	}
	return t
}

func (g *generator) readOnlyTxn() *pb.TxnRequest {
	t := &pb.TxnRequest{}
	if g.chance(70) {
		t.Compare = append(t.Compare, g.compare())
	}
	for range g.Intn(4) {
		r := g.rangeRequest(true)
		t.Success = append(t.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}})
		t.Failure = append(t.Failure, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeRequest(true)}})
	}
	return t
}

// optimisticTxn is what Kubernetes sends: if the key is as I saw it, write it, else tell me how it is.
func (g *generator) optimisticTxn() *pb.TxnRequest {
	key := g.someKey()
	revision := int64(0)
	if g.chance(60) {
		revision = g.Int63n(g.model.revision + 1)
	}
	write := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: g.value()}}}
	if g.chance(25) {
		write = &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key, PrevKv: true}}}
	}
	return &pb.TxnRequest{
		Compare: []*pb.Compare{{Target: pb.Compare_MOD, Key: key, TargetUnion: &pb.Compare_ModRevision{ModRevision: revision}}},
		Success: []*pb.RequestOp{write},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
	}
}

// endsEtcd answers whether a transaction could make etcd delete a key and write it again in one revision, after which
// a compaction at that revision ends etcd when the key is read. etcd's own check refuses these but for deletes whose
// range end does not follow the key (a lone \0 among them), so with such a one in it nothing may overlap.
func endsEtcd(t *pb.TxnRequest) bool {
	var deletes []*pb.DeleteRangeRequest
	var puts [][]byte
	collectWrites(t, &deletes, &puts)
	inverted := false
	for _, d := range deletes {
		inverted = inverted || len(d.RangeEnd) != 0 && bytes.Compare(d.RangeEnd, d.Key) <= 0
	}
	if !inverted {
		return false
	}
	for _, d := range deletes {
		for _, key := range puts {
			if covers(d.Key, d.RangeEnd, key) {
				return true
			}
		}
	}
	return false
}

func collectWrites(t *pb.TxnRequest, deletes *[]*pb.DeleteRangeRequest, puts *[][]byte) {
	for _, list := range [][]*pb.RequestOp{t.Success, t.Failure} {
		for _, op := range list {
			switch r := op.Request.(type) {
			case *pb.RequestOp_RequestPut:
				*puts = append(*puts, r.RequestPut.Key)
			case *pb.RequestOp_RequestDeleteRange:
				*deletes = append(*deletes, r.RequestDeleteRange)
			case *pb.RequestOp_RequestTxn:
				collectWrites(r.RequestTxn, deletes, puts)
			}
		}
	}
}

// covers answers whether the range [key, end) as etcd reads it holds the probe.
func covers(key, end, probe []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(key, probe)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(probe, key) >= 0
	default:
		return bytes.Compare(probe, key) >= 0 && bytes.Compare(probe, end) < 0
	}
}
