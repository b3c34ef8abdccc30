package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func splitBar(text string) []string { return strings.Split(text, "|") }

// requests are about what messages say.
func requests() []attack {
	return []attack{
		{
			name: "odd-protobuf", cases: true, bound: "100 levels; unknown fields are skipped, not kept", want: "INTERNAL or INVALID_ARGUMENT, or answered as protobuf has it",
			run:   oddProtobuf,
			check: func(a *arena) string { return a.ends.failures() },
		},
		{
			name: "nested-txns", long: true, bound: "100 levels of protobuf", want: "INTERNAL",
			run: func(a *arena) {
				message := nestedTxn(100_000, 1_500_000)
				a.connections(a.scaled(100), func(w *wire) error { return a.heavy(w, pathTxn, message) })
			},
			check: answered("13"),
		},
		{
			name: "unknown-fields", long: true, bound: "skipped as they are read", want: "answered",
			run: func(a *arena) {
				message := append(bytes.Repeat([]byte{0xf8, 0x7f, 1}, 480_000), getMessage...)
				a.connections(a.scaled(100), func(w *wire) error { return a.heavy(w, pathRange, message) })
			},
			check: answered("0"),
		},
		{
			name: "many-empty-operations", bound: "--max-txn-ops, after decoding at most --max-request-bytes", want: "INVALID_ARGUMENT",
			run: func(a *arena) {
				// Two bytes each on the wire, some hundred decoded.
				message := bytes.Repeat([]byte{0x12, 0}, 780_000)
				a.connections(a.scaled(50), func(w *wire) error { return a.heavy(w, pathTxn, message) })
			},
			check: answered("3"),
		},
		{
			name: "huge-ranges", bound: "an answer is at most half of the limit, all answers within the budget of the server", want: "RESOURCE_EXHAUSTED, GOAWAY ENHANCE_YOUR_CALM", store: bigValuesOf,
			run: func(a *arena) {
				a.silent(a.scaled(100), func(w *wire) error {
					for range 4 {
						if _, err := w.call(pathRange, bigsMessage, true); err != nil {
							return err
						}
					}
					return w.flush()
				})
			},
			check: anyEnd,
		},
		{
			name: "huge-sorted-ranges", bound: "as above", want: "RESOURCE_EXHAUSTED, GOAWAY ENHANCE_YOUR_CALM", store: bigValuesOf,
			run: func(a *arena) {
				sorted := encoded(&pb.RangeRequest{Key: []byte("big/"), RangeEnd: []byte("big0"), SortTarget: pb.RangeRequest_VALUE, SortOrder: pb.RangeRequest_DESCEND})
				a.silent(a.scaled(50), func(w *wire) error {
					for range 4 {
						if _, err := w.call(pathRange, sorted, true); err != nil {
							return err
						}
					}
					return w.flush()
				})
			},
			check: anyEnd,
		},
		{
			name: "huge-txn-answers", long: true, bound: "as above", want: "RESOURCE_EXHAUSTED, GOAWAY ENHANCE_YOUR_CALM", store: bigValuesOf,
			run: func(a *arena) {
				var ops []*pb.RequestOp
				for range 100 {
					ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("big/"), RangeEnd: []byte("big0")}}})
				}
				message := encoded(&pb.TxnRequest{Success: ops})
				a.connections(a.scaled(20), func(w *wire) error {
					if _, err := w.call(pathTxn, message, true); err != nil {
						return err
					}
					return w.flush()
				})
			},
			check: anyEnd,
		},
		{
			name: "hash-storm", long: true, bound: "reads yield; calls are charged", want: "answered", store: bigValuesOf,
			run: func(a *arena) {
				a.connections(a.scaled(50), func(w *wire) error {
					for a.Err() == nil {
						if _, err := w.call(pathHash, nil, true); err != nil {
							return err
						}
						if err := w.flush(); err != nil {
							return err
						}
						a.pause(10 * time.Millisecond)
					}
					return nil
				})
			},
			check: answered("0"),
		},
		{
			name: "lease-grant-storm", bound: "a lease costs its record; calls are charged", want: "answered",
			run: func(a *arena) {
				message := encoded(&pb.LeaseGrantRequest{TTL: 1})
				a.connections(a.scaled(50), func(w *wire) error {
					return a.forever(w, func() error {
						_, err := w.call(pathGrant, message, true)
						return err
					})
				})
			},
			check: answered("0"),
		},
		{
			name: "large-puts", long: true, bound: "requests on their way are charged", want: "answered, or RESOURCE_EXHAUSTED", flags: []string{"--quota-backend-bytes=2147483648"},
			run: func(a *arena) {
				message := encoded(&pb.PutRequest{Key: []byte("hostile"), Value: make([]byte, 1_500_000)})
				a.connections(a.scaled(100), func(w *wire) error { return a.heavy(w, pathPut, message) })
			},
			check: anyEnd,
		},
	}
}

// heavy sends large requests one after the other as far as the windows go; what the server gives back is not waited for,
// but a pause leaves it time.
func (a *arena) heavy(w *wire, path string, message []byte) error {
	// The server's windows are larger than one message by then.
	body := framed(message)
	for a.Err() == nil {
		id, err := w.open(grpcHead(path), false)
		for rest := body; err == nil && len(rest) > 0; {
			part := rest[:min(len(rest), 16<<10)]
			rest = rest[len(part):]
			err = w.framer.WriteData(id, len(rest) == 0, part)
			// 64 KiB are a stream's window at its start.
			if sent := len(body) - len(rest); err == nil && sent%(48<<10) == 0 {
				if err = w.flush(); err == nil {
					a.pause(2 * time.Millisecond)
				}
			}
		}
		if err == nil {
			err = w.flush()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// nestedTxn is as many transactions in each other as levels say, or as many bytes take.
func nestedTxn(levels, bytesMax int) []byte {
	// From the inside out, written from the end: prefixes in front of what there is.
	out := make([]byte, bytesMax)
	at := len(out)
	prefix := func(field protowire.Number, length int) {
		head := protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.BytesType), uint64(length))
		at -= len(head)
		copy(out[at:], head)
	}
	for range levels {
		if at < 32 {
			break
		}
		prefix(4, len(out)-at) // RequestOp.request_txn
		prefix(2, len(out)-at) // TxnRequest.success
	}
	return out[at:]
}

func oddProtobuf(a *arena) {
	varint := func(bytes_ ...byte) []byte { return bytes_ }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	key := []byte{0x0a, 1, 'k'}
	length := func(n uint64) []byte { return binary.AppendUvarint([]byte{0x0a}, n) }
	cases := []struct {
		name, path string
		message    []byte
		want       string
	}{
		{"txn 1000 deep", pathTxn, nestedTxn(1000, 1_500_000), "13"},
		{"txn 100 000 deep", pathTxn, nestedTxn(100_000, 1_500_000), "13"},
		{"txn 10 deep", pathTxn, nestedTxn(10, 1_500_000), "0"},
		{"group", pathRange, join(varint(0x0b), key, varint(0x0c)), "3|0"},
		{"unknown group", pathRange, join([]byte{0xa3, 0x06}, []byte{0xa4, 0x06}, key), "0|13"},
		{"group without end", pathRange, []byte{0xa3, 0x06}, "13"},
		{"end of a group without start", pathRange, []byte{0xa4, 0x06}, "13"},
		{"groups 10 000 deep", pathRange, bytes.Repeat([]byte{0xa3, 0x06}, 10_000), "13"},
		{"length beyond the end", pathRange, []byte{0x0a, 5, 'k'}, "13"},
		{"length of 2^63", pathRange, length(1 << 63), "13"},
		{"length of 2^64-1", pathRange, length(1<<64 - 1), "13"},
		{"length of 2^31", pathRange, length(1 << 31), "13"},
		{"varint of 11 bytes", pathRange, join(key, []byte{0x18}, bytes.Repeat([]byte{0xff}, 10), []byte{1}), "13"},
		{"varint cut", pathRange, join(key, []byte{0x18, 0xff}), "13"},
		{"field 0", pathRange, []byte{0x02, 0}, "13"},
		{"wire type 7", pathRange, []byte{0x0f}, "13"},
		{"wrong wire type", pathRange, []byte{0x08, 1}, "3"},
		{"key twice: the last counts", pathRange, join(key, key), "0"},
		{"oneof twice: the last counts", pathTxn, join([]byte{0x12, 7}, []byte{0x0a, 3}, key, []byte{0x12, 0}), "0|3"},
		{"enum out of range", pathRange, join(key, []byte{0x28, 99}), "3|0"},
		{"limit of -1", pathRange, join(key, []byte{0x18}, bytes.Repeat([]byte{0xff}, 9), []byte{1}), "0"},
		{"revision in the future", pathRange, join(key, []byte{0x20}, binary.AppendUvarint(nil, 1<<62)), "11"},
		{"empty key", pathRange, nil, "3"},
		{"a million unknown fields", pathRange, join(bytes.Repeat([]byte{0xf8, 0x7f, 1}, 480_000), key), "0"},
		{"text that is not UTF-8", "/etcdserverpb.Auth/Authenticate", []byte{0x0a, 1, 0xff}, "13|12|3|9"},
	}
	for _, c := range cases {
		got := a.whole(c.path, c.message)
		if !slicesContain(splitBar(c.want), got) {
			a.ends.count(fmt.Sprintf("wrong: %s: %s, not %s", c.name, got, c.want), 1)
		}
	}
	a.ends.count("cases", len(cases))
}

// whole sends one request of any size by a client that keeps to the windows, and tells its status.
func (a *arena) whole(path string, message []byte) string {
	client, err := newHonest(a.endpoint)
	if err != nil {
		return "not connected"
	}
	defer client.close()
	return client.raw(path, message)
}
