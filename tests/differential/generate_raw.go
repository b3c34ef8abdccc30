package main

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// rawCall is a request whose bytes no generated code would write. Most are legal protobuf all the same.
func (g *generator) rawCall() *call {
	key := g.someKey()
	get, _ := proto.Marshal(&pb.RangeRequest{Key: key})
	all, _ := proto.Marshal(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	put, _ := proto.Marshal(&pb.PutRequest{Key: key, Value: []byte("raw"), PrevKv: true})
	asRange := func(raw []byte) *call { return &call{method: pb.KV_Range_FullMethodName, raw: raw} }
	varint := func(b []byte, field protowire.Number, value uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), value)
	}
	const limit, order, countOnly = 3, 5, 9 // field numbers of RangeRequest
	switch g.Intn(16) {
	case 0: // the same message twice is one message, the last of each field counting
		second, _ := proto.Marshal(&pb.PutRequest{Value: []byte("second")})
		return &call{method: pb.KV_Put_FullMethodName, raw: append(put, second...)}
	case 1: // fields that nobody knows, of every wire type
		get = varint(get, 1000, 7)
		get = protowire.AppendFixed32(protowire.AppendTag(get, 1001, protowire.Fixed32Type), 7)
		get = protowire.AppendFixed64(protowire.AppendTag(get, 1002, protowire.Fixed64Type), 7)
		return asRange(protowire.AppendBytes(protowire.AppendTag(get, 1003, protowire.BytesType), []byte("x")))
	case 2: // a group that nobody knows
		get = protowire.AppendTag(get, 1004, protowire.StartGroupType)
		get = varint(get, 1, 1)
		return asRange(protowire.AppendTag(get, 1004, protowire.EndGroupType))
	case 3:
		return asRange(varint(all, countOnly, 2))
	case 4:
		return asRange(varint(all, countOnly, 1<<63))
	case 5: // an enum is its low 32 bits
		return asRange(varint(all, order, 1<<32|2))
	case 6:
		return asRange(varint(all, order, 1<<64-1))
	case 7: // not sign-extended
		return asRange(varint(all, limit, 0xffffffff))
	case 8: // a known field of the wrong wire type is an unknown field
		return asRange(protowire.AppendBytes(protowire.AppendTag(all, limit, protowire.BytesType), []byte("x")))
	case 9: // longer than it needs to be
		return asRange(append(protowire.AppendTag(all, limit, protowire.VarintType), 0x82, 0x80, 0x00))
	case 10: // more than 64 bits
		return asRange(append(protowire.AppendTag(all, limit, protowire.VarintType), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01))
	case 11: // cut short
		return asRange(get[:len(get)-1])
	case 12: // field number 0
		return asRange(append(get, 0x00, 0x01))
	case 13: // a group that never ends
		return asRange(protowire.AppendTag(get, 1004, protowire.StartGroupType))
	case 14: // the members of a oneof: the last one counts, the same one twice is merged
		return &call{method: pb.KV_Txn_FullMethodName, raw: twiceInOneof(key)}
	default: // key twice: the last counts
		return asRange(protowire.AppendBytes(protowire.AppendTag(get, 1, protowire.BytesType), g.someKey()))
	}
}

// twiceInOneof is a Txn with one operation: a Put given twice in the same oneof, key in the first, value in the second.
func twiceInOneof(key []byte) []byte {
	first, _ := proto.Marshal(&pb.PutRequest{Key: key})
	second, _ := proto.Marshal(&pb.PutRequest{Value: []byte("merged")})
	const requestPut, success = 2, 2
	var operation []byte
	for _, part := range [][]byte{first, second} {
		operation = protowire.AppendBytes(protowire.AppendTag(operation, requestPut, protowire.BytesType), part)
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, success, protowire.BytesType), operation)
}
