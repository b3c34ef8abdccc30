package main

import (
	"math"
	"time"

	"golang.org/x/net/http2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// streams are about calls that go on: watches, keep-alives, snapshots.
func streams() []attack {
	create := func(key string) []byte {
		return encoded(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte(key)}}})
	}
	cancel := encoded(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: math.MaxInt64}}})
	progress := encoded(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	flood := func(path string, first []byte, messages ...[]byte) func(*arena, *wire) error {
		return func(a *arena, w *wire) error {
			id, err := w.call(path, first, false)
			if err != nil {
				return err
			}
			var body []byte
			for len(body) < 8<<10 {
				for _, message := range messages {
					body = append(body, framed(message)...)
				}
			}
			return a.metered(w, id, body)
		}
	}
	return []attack{
		{
			name: "watch-creates-unread", bound: "64 requests and 16 KiB of answers a stream; watches are charged", want: "stays, unread",
			run: func(a *arena) {
				step := flood(pathWatch, create("hostile"), create("hostile"))
				a.silentOnce(a.scaled(200), func(w *wire) error { return step(a, w) })
			},
			check: anyEnd,
		},
		{
			name: "watch-creates", bound: "2^20 watches on a shard, within the budget", want: "refused by a cancel, or ENHANCE_YOUR_CALM",
			run: func(a *arena) {
				long := make([]byte, 4<<10)
				step := flood(pathWatch, create("hostile"), create(string(long)))
				a.connections(a.scaled(100), func(w *wire) error { return step(a, w) })
			},
			check: anyEnd,
		},
		{
			name: "watch-cancels", long: true, bound: "a cancel of nothing is answered by nothing", want: "stays",
			run: func(a *arena) {
				step := flood(pathWatch, create("hostile"), cancel)
				a.connections(a.scaled(50), func(w *wire) error { return step(a, w) })
			},
			check: anyEnd,
		},
		{
			name: "watch-progress-flood", long: true, bound: "64 requests and 16 KiB of answers a stream", want: "stays",
			run: func(a *arena) {
				step := flood(pathWatch, create("hostile"), progress)
				a.silentOnce(a.scaled(200), func(w *wire) error { return step(a, w) })
			},
			check: anyEnd,
		},
		{
			name: "watch-streams-unread", bound: "16 KiB of answers a stream, within the budget", want: "held within the budget, else ENHANCE_YOUR_CALM",
			run: func(a *arena) {
				big := encoded(&pb.PutRequest{Key: []byte("hostile"), Value: make([]byte, 60<<10)})
				go func() {
					a.once(1, func(w *wire) error {
						for a.Err() == nil {
							if _, err := w.call(pathPut, big, true); err != nil {
								return err
							}
							if err := w.flush(); err != nil {
								return err
							}
							a.pause(20 * time.Millisecond)
						}
						return nil
					})
				}()
				a.silentOnce(a.scaled(200), func(w *wire) error {
					for range 200 {
						if _, err := w.call(pathWatch, create("hostile"), false); err != nil {
							return err
						}
					}
					return w.flush()
				}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			},
			check: anyEnd,
		},
		{
			name: "watch-fragments", long: true, bound: "events are shared by all streams", want: "held within the budget", store: bigValuesOf,
			run: func(a *arena) {
				message := encoded(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
					Key: []byte("big/"), RangeEnd: []byte("big0"), StartRevision: 2, Fragment: true, PrevKv: true,
				}}})
				a.silentOnce(a.scaled(200), func(w *wire) error {
					if err := w.framer.WriteWindowUpdate(0, 1<<30); err != nil {
						return err
					}
					for range 10 {
						if _, err := w.call(pathWatch, message, false); err != nil {
							return err
						}
					}
					return w.flush()
				}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
			},
			check: anyEnd,
		},
		{
			name: "keep-alive-flood", long: true, bound: "answers of a stream are bounded: requests are then not read", want: "stays, unread",
			run: func(a *arena) {
				message := encoded(&pb.LeaseKeepAliveRequest{ID: 77})
				step := flood(pathKeepAlive, message, message)
				a.silentOnce(a.scaled(200), func(w *wire) error { return step(a, w) })
			},
			check: anyEnd,
		},
		{
			name: "snapshots-aborted", long: true, bound: "a snapshot holds a window and one piece", want: "stays", store: bigValuesOf,
			run: func(a *arena) {
				a.connections(20, func(w *wire) error {
					for a.Err() == nil {
						id, err := w.call(pathSnapshot, nil, true)
						if err == nil {
							err = w.flush()
						}
						a.pause(5 * time.Millisecond)
						if err == nil {
							err = w.framer.WriteRSTStream(id, http2.ErrCodeCancel)
						}
						if err == nil {
							err = w.flush()
						}
						if err != nil {
							return err
						}
					}
					return nil
				})
			},
			check: anyEnd,
		},
		{
			name: "snapshots-unread", bound: "a snapshot holds a window and one piece", want: "held within the budget", store: bigValuesOf,
			run: func(a *arena) {
				a.silentOnce(a.scaled(100), func(w *wire) error {
					for range 20 {
						if _, err := w.call(pathSnapshot, nil, true); err != nil {
							return err
						}
					}
					return w.flush()
				})
			},
			check: anyEnd,
		},
	}
}

// silentOnce is [arena.silent] whose connections are not made anew.
func (a *arena) silentOnce(count int, attack func(*wire) error, settings ...http2.Setting) {
	a.from(count, false, attack, settings...)
}

// metered sends the body of a stream again and again as far as its windows go.
func (a *arena) metered(w *wire, id uint32, body []byte) error {
	// At its start a window has 64 KiB; behind that the server has to give more, and it is asked for by writing only as
	// much as it took: an attacker that reads would know, this one tries.
	if err := w.flush(); err != nil {
		return err
	}
	for a.Err() == nil {
		if err := w.framer.WriteData(id, false, body); err != nil {
			return err
		}
		if err := w.flush(); err != nil {
			return err
		}
		a.pause(time.Millisecond)
	}
	return nil
}
