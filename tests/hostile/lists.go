package main

import (
	"errors"
	"net"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var errNext = errors.New("the next connection")

// lists are about answers that grow with the store and that no request bounds; and about who comes and goes.
func lists() []attack {
	crowd := encoded(&pb.LeaseTimeToLiveRequest{ID: crowdedLease, Keys: true})
	return []attack{
		{
			name: "lease-lists", long: true, bound: "a list is charged while it is made, and yields", want: "RESOURCE_EXHAUSTED, GOAWAY ENHANCE_YOUR_CALM", store: leasesOf,
			run:   func(a *arena) { a.connections(a.scaled(50), a.asking(pathLeases, nil)) },
			check: answered("8"),
		},
		{
			name: "lease-lists-unread", long: true, bound: "a list is charged while it is made; answers on a connection and on the server are bounded", want: "closed within the budget", store: leasesOf,
			run:   func(a *arena) { a.silent(a.scaled(200), a.asking(pathLeases, nil)) },
			check: anyEnd,
		},
		{
			name: "lease-keys", long: true, bound: "a list is charged while it is made, and yields", want: "RESOURCE_EXHAUSTED, GOAWAY ENHANCE_YOUR_CALM", store: crowdOf,
			run:   func(a *arena) { a.connections(a.scaled(50), a.asking(pathLease, crowd)) },
			check: answered("8"),
		},
		{
			name: "lease-keys-unread", long: true, bound: "a list is charged while it is made; answers on a connection and on the server are bounded", want: "closed within the budget", store: crowdOf,
			run:   func(a *arena) { a.silent(a.scaled(200), a.asking(pathLease, crowd)) },
			check: anyEnd,
		},
		{
			name: "connection-storm", bound: "connections are charged while they are there", want: "answered, or cut off by its client",
			run: func(a *arena) {
				a.connections(a.scaled(1000), func(w *wire) error {
					_, err := w.call(pathRange, getMessage, true)
					if err == nil {
						err = w.flush()
					}
					a.pause(20 * time.Millisecond)
					// By a reset, so that no port of this machine stays taken.
					if tcp, is := w.conn.(*net.TCPConn); is {
						_ = tcp.SetLinger(0)
					}
					return errors.Join(err, errNext)
				})
			},
			check: answered("0"),
		},
	}
}

// asking sends the same call again and again.
func (a *arena) asking(path string, message []byte) func(*wire) error {
	return func(w *wire) error {
		for a.Err() == nil {
			if _, err := w.call(path, message, true); err != nil {
				return err
			}
			if err := w.flush(); err != nil {
				return err
			}
			a.pause(5 * time.Millisecond)
		}
		return nil
	}
}
