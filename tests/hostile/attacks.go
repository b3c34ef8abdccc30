package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func attacks() []attack {
	var all []attack
	for _, some := range [][]attack{frames(), headers(), slow(), grpcAttacks(), requests(), lists(), streams()} {
		all = append(all, some...)
	}
	return all
}

func encoded(message proto.Message) []byte {
	bytes, err := proto.Marshal(message)
	if err != nil {
		panic(err)
	}
	return bytes
}

var (
	putMessage   = encoded(&pb.PutRequest{Key: []byte("hostile"), Value: []byte("x")})
	getMessage   = encoded(&pb.RangeRequest{Key: []byte("hostile")})
	bigMessage   = encoded(&pb.RangeRequest{Key: []byte("big/000")})
	bigsMessage  = encoded(&pb.RangeRequest{Key: []byte("big/"), RangeEnd: []byte("big0")})
	allMessage   = encoded(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	watchMessage = encoded(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("hostile")}}})
)

// connections runs the attack from so many connections at once, each again when the server has ended it, until the time is
// over. The attack returns when its connection can't be used any more.
func (a *arena) connections(count int, attack func(*wire) error, settings ...http2.Setting) {
	a.from(count, true, func(w *wire) error {
		go func() { _ = w.read(a.ends, nil) }()
		return attack(w)
	}, settings...)
}

// silent is the same, and what the server sends is not read.
func (a *arena) silent(count int, attack func(*wire) error, settings ...http2.Setting) {
	a.from(count, true, attack, settings...)
}

// once is the same as connections, but no connection is made anew.
func (a *arena) once(count int, attack func(*wire) error, settings ...http2.Setting) {
	a.from(count, false, func(w *wire) error {
		go func() { _ = w.read(a.ends, nil) }()
		return attack(w)
	}, settings...)
}

func (a *arena) from(count int, again bool, attack func(*wire) error, settings ...http2.Setting) {
	var wait sync.WaitGroup
	// As many as a listener's queue takes are made at a time.
	making := make(chan struct{}, 64)
	for range count {
		wait.Go(func() {
			for a.Err() == nil {
				making <- struct{}{}
				w, err := dial(a.endpoint, settings...)
				<-making
				if err != nil {
					a.ends.count("connections not made", 1)
					time.Sleep(10 * time.Millisecond)
					continue
				}
				ended := make(chan struct{})
				stop := context.AfterFunc(a, func() {
					defer close(ended)
					w.close()
				})
				if attack(w) == nil {
					<-a.Done()
				}
				if stop() {
					// What the server still says is read before the connection goes.
					a.pause(20 * time.Millisecond)
					w.close()
				} else {
					<-ended
				}
				if !again {
					return
				}
			}
		})
	}
	wait.Wait()
}

// pause waits, but not beyond the attack's end.
func (a *arena) pause(length time.Duration) {
	select {
	case <-a.Done():
	case <-time.After(length):
	}
}

// forever repeats until the connection or the time ends.
func (a *arena) forever(w *wire, step func() error) error {
	for a.Err() == nil {
		for range 64 {
			if err := step(); err != nil {
				return err
			}
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
	return nil
}

// What attacks want to see.

func (e *endings) wantGoAway(codes ...http2.ErrCode) string {
	e.Lock()
	defer e.Unlock()
	for _, code := range codes {
		if e.goAway[code] > 0 {
			return ""
		}
	}
	return fmt.Sprintf("no GOAWAY with any of %v", codes)
}

func goesAway(codes ...http2.ErrCode) func(*arena) string {
	return func(a *arena) string { return a.ends.wantGoAway(codes...) }
}

// stays is for attacks that cost the server nothing: their connections live.
func stays(a *arena) string {
	a.ends.Lock()
	defer a.ends.Unlock()
	for code := range a.ends.goAway {
		return fmt.Sprintf("GOAWAY %v, and there was no reason for one", code)
	}
	return ""
}

// resets wants calls reset with one of these codes.
func resets(codes ...http2.ErrCode) func(*arena) string {
	return func(a *arena) string {
		a.ends.Lock()
		defer a.ends.Unlock()
		for _, code := range codes {
			if a.ends.resets[code] > 0 {
				return ""
			}
		}
		return fmt.Sprintf("no RST_STREAM with any of %v", codes)
	}
}

// answered wants calls answered with all of these.
func answered(statuses ...string) func(*arena) string {
	return func(a *arena) string {
		a.ends.Lock()
		defer a.ends.Unlock()
		for _, status := range statuses {
			if a.ends.statuses[status] == 0 {
				return "no call ended with status " + status
			}
		}
		return ""
	}
}

// any is for attacks whose whole point is what the server feels.
func anyEnd(*arena) string { return "" }
