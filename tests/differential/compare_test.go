package main

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// twenty pairs, of which the first ten have version 1 and the others version 2.
func twenty() *pb.RangeResponse {
	all := &pb.RangeResponse{}
	for i := range 20 {
		all.Kvs = append(all.Kvs, &mvccpb.KeyValue{Key: []byte(fmt.Sprintf("k%02d", i)), Version: int64(1 + i/10), Lease: 7, Value: []byte("v")})
	}
	return all
}

func choose(all *pb.RangeResponse, indexes ...int) *pb.RangeResponse {
	some := &pb.RangeResponse{}
	for _, i := range indexes {
		some.Kvs = append(some.Kvs, proto.Clone(all.Kvs[i]).(*mvccpb.KeyValue))
	}
	return some
}

func TestTiesMayBeInAnyOrderAndNothingElse(t *testing.T) {
	descending := &pb.RangeRequest{SortTarget: pb.RangeRequest_VERSION, SortOrder: pb.RangeRequest_DESCEND, Limit: 3}
	all := twenty()
	foreign := choose(all, 10, 11, 12)
	foreign.Kvs[1].Value = []byte("changed")
	for _, c := range []struct {
		name   string
		target *pb.RangeResponse
		right  bool
	}{
		{"in key order", choose(all, 10, 11, 12), true},
		{"others of the same version", choose(all, 19, 13, 11), true},
		{"one too few", choose(all, 10, 11), false},
		{"one of another version", choose(all, 10, 11, 5), false},
		{"the same twice", choose(all, 10, 10, 11), false},
		{"a pair that is not in the store", foreign, false},
	} {
		if tiesExplain(descending, all, c.target) != c.right {
			t.Errorf("%s: expected %v", c.name, c.right)
		}
	}
}

// Without an order only the first limit+1 keys take part.
func TestTiesWithoutAnOrder(t *testing.T) {
	request := &pb.RangeRequest{SortTarget: pb.RangeRequest_VERSION, Limit: 12}
	all := twenty()
	if !tiesExplain(request, all, choose(all, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 10, 11)) {
		t.Error("the ten of version 1, then two of version 2")
	}
	if tiesExplain(request, all, choose(all, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12)) {
		t.Error("a pair of version 1 is missing")
	}
}

func TestTiesWithKeysOnly(t *testing.T) {
	request := &pb.RangeRequest{SortTarget: pb.RangeRequest_VERSION, SortOrder: pb.RangeRequest_DESCEND, Limit: 1, KeysOnly: true}
	all := twenty()
	target := choose(all, 15)
	if tiesExplain(request, all, target) {
		t.Error("a value in an answer of keys only")
	}
	target.Kvs[0].Value, target.Kvs[0].Lease = nil, 0
	if !tiesExplain(request, all, target) {
		t.Error("a right answer of keys only")
	}
}

func TestSmallSortsAreStable(t *testing.T) {
	all := choose(twenty(), 0, 1, 2)
	request := &pb.RangeRequest{SortTarget: pb.RangeRequest_VERSION, SortOrder: pb.RangeRequest_ASCEND}
	if tiesExplain(request, all, choose(all, 2, 1, 0)) {
		t.Error("etcd sorts so few stably, so the order must be the same")
	}
}

func TestWhatEndsEtcdIsNotSent(t *testing.T) {
	put := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
	}
	remove := func(key, end string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
	}
	nested := func(ops ...*pb.RequestOp) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Failure: ops}}}
	}
	for _, c := range []struct {
		ops  []*pb.RequestOp
		ends bool
	}{
		{[]*pb.RequestOp{remove("\x00", "\x00"), put("k")}, true},
		{[]*pb.RequestOp{remove("a", "\x00"), nested(put("k"))}, true},
		{[]*pb.RequestOp{remove("x", "\x00"), put("k")}, false},
		{[]*pb.RequestOp{remove("a", "z"), put("k")}, false}, // etcd refuses this one itself
		{[]*pb.RequestOp{remove("z", "y"), remove("k", ""), put("k")}, true},
		{[]*pb.RequestOp{remove("\x00", "\x00")}, false},
	} {
		if endsEtcd(&pb.TxnRequest{Success: c.ops}) != c.ends {
			t.Errorf("%v: expected %v", c.ops, c.ends)
		}
	}
}

func TestDifferencesNameTheField(t *testing.T) {
	control := &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: 5}, Responses: []*pb.ResponseOp{{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{Header: &pb.ResponseHeader{Revision: 5}}}}}}
	target := proto.Clone(control).(*pb.TxnResponse)
	if found := differences("", control.ProtoReflect(), target.ProtoReflect()); len(found) != 0 {
		t.Errorf("equal messages differ in %v", found)
	}
	target.Responses[0].GetResponsePut().Header = nil
	found := differences("", control.ProtoReflect(), target.ProtoReflect())
	if len(found) != 1 || found[0].path != ".responses[0].response_put.header" {
		t.Errorf("found %v", found)
	}
}
