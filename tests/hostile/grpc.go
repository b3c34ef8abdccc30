package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"time"

	"golang.org/x/net/http2"
)

// grpcAttacks are about messages in DATA frames.
func grpcAttacks() []attack {
	return []attack{
		{
			name: "gzip-bomb", long: true, bound: "a message is unpacked to --max-request-bytes + 512 KiB", want: "RESOURCE_EXHAUSTED",
			run: func(a *arena) {
				bomb := gzipped(64 << 20)
				body := append([]byte{1}, framed(bomb)[1:]...)
				a.connections(a.scaled(100), func(w *wire) error {
					return a.forever(w, func() error {
						id, err := w.open(grpcHead(pathPut, field{"grpc-encoding", "gzip"}), false)
						for rest := body; err == nil && len(rest) > 0; {
							part := rest[:min(len(rest), 16<<10)]
							rest = rest[len(part):]
							err = w.framer.WriteData(id, len(rest) == 0, part)
						}
						if err == nil {
							err = w.flush()
						}
						a.pause(10 * time.Millisecond)
						return err
					})
				})
			},
			check: answered("8"),
		},
		{
			name: "odd-messages", cases: true, bound: "", want: "each refused by itself, as in grpc-go",
			run:   oddMessages,
			check: func(a *arena) string { return a.ends.failures() },
		},
		{
			name: "incomplete-messages", bound: "incomplete requests are charged to their connection and to the server", want: "RESOURCE_EXHAUSTED, GOAWAY ENHANCE_YOUR_CALM",
			run: func(a *arena) {
				payload := make([]byte, 16<<10)
				head := framed(make([]byte, 1_900_000))[:5]
				a.connections(a.scaled(500), func(w *wire) error {
					// As the windows of 64 KiB go, and with those that the server gives.
					return a.forever(w, func() error {
						id, err := w.open(grpcHead(pathPut), false)
						if err == nil {
							err = w.framer.WriteData(id, false, head)
						}
						for i := 0; err == nil && i < 3; i++ {
							err = w.framer.WriteData(id, false, payload)
						}
						if err == nil {
							err = w.flush()
						}
						a.pause(time.Millisecond)
						return err
					})
				})
			},
			check: anyEnd,
		},
		{
			name: "tiny-pieces", long: true, bound: "what is held of a message is copied out of its buffer; open calls are charged", want: "RESOURCE_EXHAUSTED, else ENHANCE_YOUR_CALM",
			run: func(a *arena) {
				ballast := make([]byte, 8<<10)
				a.once(a.scaled(500), func(w *wire) error {
					for range 100 {
						id, err := w.open(grpcHead(pathPut), false)
						if err == nil {
							err = w.framer.WriteData(id, false, []byte{0, 0})
						}
						if err == nil {
							err = w.framer.WriteRawFrame(0xf7, 0, 0, ballast)
						}
						if err != nil {
							return err
						}
					}
					return w.flush()
				})
			},
			check: anyEnd,
		},
		{
			name: "half-close-never", bound: "open calls are charged to their connection and to the server", want: "held within the budget",
			run: func(a *arena) {
				a.connections(a.scaled(500), func(w *wire) error {
					for range 2000 {
						if _, err := w.open(grpcHead(pathPut), false); err != nil {
							return err
						}
					}
					return w.flush()
				})
			},
			check: anyEnd,
		},
		{
			name: "answered-and-open", long: true, bound: "an answered call holds nothing of its client's", want: "stays",
			run: func(a *arena) {
				junk := make([]byte, 16<<10)
				a.connections(a.scaled(200), func(w *wire) error {
					return a.forever(w, func() error {
						id, err := w.call(pathRange, getMessage, false)
						for i := 0; err == nil && i < 3; i++ {
							err = w.framer.WriteData(id, false, junk)
						}
						if err == nil {
							err = w.flush()
						}
						a.pause(5 * time.Millisecond)
						return err
					})
				})
			},
			check: anyEnd,
		},
		{
			name: "unread-requests", bound: "requests that a stream has not taken are charged", want: "held within the budget, else ENHANCE_YOUR_CALM",
			run: func(a *arena) {
				progress := framed([]byte{0x1a, 0})
				many := bytes.Repeat(progress, (16<<10)/len(progress))
				a.silent(a.scaled(500), func(w *wire) error {
					return a.forever(w, func() error {
						id, err := w.call(pathWatch, watchMessage, false)
						for i := 0; err == nil && i < 3; i++ {
							err = w.framer.WriteData(id, false, many)
						}
						if err == nil {
							err = w.flush()
						}
						a.pause(time.Millisecond)
						return err
					})
				}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			},
			check: anyEnd,
		},
	}
}

func gzipped(size int) []byte {
	var out bytes.Buffer
	writer, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	zeros := make([]byte, 1<<20)
	for range size >> 20 {
		_, _ = writer.Write(zeros)
	}
	_ = writer.Close()
	return out.Bytes()
}

func oddMessages(a *arena) {
	head := plain(grpcHead(pathRange))
	gzipHead := plain(grpcHead(pathRange, field{"grpc-encoding", "gzip"}))
	flagged := func(flag byte, message []byte) []byte { return append([]byte{flag}, framed(message)[1:]...) }
	cases := []struct {
		name string
		head []byte
		body []byte
		want string
	}{
		{"good", head, framed(getMessage), "0"},
		{"no message", head, nil, "2|13"},
		{"half a prefix", head, []byte{0, 0}, "2|13"},
		{"length 0xFFFFFFFF", head, []byte{0, 0xff, 0xff, 0xff, 0xff}, "8"},
		{"length beyond the body", head, []byte{0, 0, 0, 0, 99, 1}, "2|13"},
		{"compressed without encoding", head, flagged(1, getMessage), "13"},
		{"flag of 7", head, flagged(7, getMessage), "13"},
		{"gzip that is none", gzipHead, flagged(1, []byte("garbage")), "13"},
		{"gzip cut short", gzipHead, flagged(1, gzipped(1 << 20)[:100]), "13"},
		{"gzip of nothing", gzipHead, flagged(1, nil), "13|0"},
		{"two messages on a unary call", head, append(framed(getMessage), framed(getMessage)...), "0|13|12"},
	}
	for _, c := range cases {
		if got := a.single(c.head, c.body); !slicesContain(splitBar(c.want), got) {
			a.ends.count(fmt.Sprintf("wrong: %s: %s, not %s", c.name, got, c.want), 1)
		}
	}
	whole := framed(getMessage)
	for at := 0; at <= len(whole); at++ {
		if got := a.pieces(head, whole[:at], whole[at:]); got != "0" {
			a.ends.count(fmt.Sprintf("wrong: split at %d: %s", at, got), 1)
		}
	}
	var single [][]byte
	for i := range whole {
		single = append(single, whole[i:i+1])
	}
	if got := a.pieces(head, single...); got != "0" {
		a.ends.count("wrong: byte by byte: "+got, 1)
	}
	a.ends.count("cases", len(cases)+len(whole)+2)
}

// pieces sends one request whose body comes in these DATA frames, each in a write of its own.
func (a *arena) pieces(block []byte, parts ...[]byte) string {
	w, err := dial(a.endpoint)
	if err != nil {
		return "not connected"
	}
	defer w.close()
	err = w.headers(1, block, false)
	for i := 0; err == nil && i < len(parts); i++ {
		if err = w.framer.WriteData(1, i == len(parts)-1, parts[i]); err == nil {
			err = w.flush()
		}
	}
	if err != nil {
		return err.Error()
	}
	_ = w.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	end := "closed"
	_ = w.read(newEndings(), func(frame http2.Frame) {
		if frame, is := frame.(*http2.MetaHeadersFrame); is && frame.StreamEnded() {
			end = statusOf(frame)
			w.close()
		}
	})
	return end
}
