package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// slow are attacks by those who do little, and by those who don't read; and those of HTTP/1.1.
func slow() []attack {
	return []attack{
		{
			name: "idle-sockets", bound: "20 s for a preface", want: "closed after 20 s", long: true, lasts: 26 * time.Second,
			run: func(a *arena) {
				a.sockets(10_000, func(net.Conn) error { return nil })
			},
			check: func(a *arena) string { return a.ends.atLeast("closed by the server", 9_900) },
		},
		{
			name: "idle-connections", bound: "connections are charged to the server; there are some 25 of them a MiB of --memory-limit / 3", want: "those beyond are closed at once",
			lasts: 8 * time.Second,
			run: func(a *arena) {
				a.once(a.scaled(10_000), func(w *wire) error {
					if _, err := w.call(pathRange, getMessage, true); err != nil {
						return err
					}
					return w.flush()
				})
			},
			check: func(a *arena) string { return a.ends.answers("0", min(a.scaled(10_000)*99/100, 1_000)) },
		},
		{
			name: "slow-heads", bound: "20 s for the first head", want: "closed after 20 s", long: true, lasts: 26 * time.Second,
			run: func(a *arena) {
				a.sockets(5_000, func(conn net.Conn) error {
					return a.drip(conn, "GET /health HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("y", 200))
				})
			},
			check: func(a *arena) string { return a.ends.atLeast("closed by the server", 4_900) },
		},
		{
			name: "slow-prefaces", bound: "20 s for a preface", want: "closed after 20 s", long: true, lasts: 26 * time.Second,
			run: func(a *arena) {
				a.sockets(5_000, func(conn net.Conn) error { return a.drip(conn, http2.ClientPreface[:20]) })
			},
			check: func(a *arena) string { return a.ends.atLeast("closed by the server", 4_900) },
		},
		{
			name: "slow-bodies", bound: "incomplete requests are charged; HTTP/1.1: 5 min between pieces", want: "held within the budget, else ENHANCE_YOUR_CALM", long: true,
			run: func(a *arena) {
				a.sockets(2_000, func(conn net.Conn) error {
					head := "POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n"
					if _, err := io.WriteString(conn, head); err != nil {
						return err
					}
					_, err := conn.Write(make([]byte, 1_900_000))
					return err
				})
			},
			check: anyEnd,
		},
		{
			name: "slow-read-zero-window", bound: "64 KiB and one answer a call; answers on a connection and on the server are bounded", want: "RESOURCE_EXHAUSTED, GOAWAY ENHANCE_YOUR_CALM", store: bigValuesOf,
			run: func(a *arena) {
				a.connections(a.scaled(200), func(w *wire) error {
					return a.forever(w, func() error {
						_, err := w.call(pathRange, bigMessage, true)
						return err
					})
				}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			},
			check: anyEnd,
		},
		{
			name: "slow-read-one-byte", bound: "as above", want: "RESOURCE_EXHAUSTED, GOAWAY ENHANCE_YOUR_CALM", store: bigValuesOf,
			run: func(a *arena) {
				a.connections(a.scaled(100), func(w *wire) error {
					for range 64 {
						if _, err := w.call(pathRange, bigMessage, true); err != nil {
							return err
						}
					}
					return a.forever(w, func() error {
						for id := uint32(1); id < w.next; id += 2 {
							if err := w.framer.WriteWindowUpdate(id, 1); err != nil {
								return err
							}
						}
						return w.flush()
					})
				}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
			},
			check: anyEnd,
		},
		{
			name: "unread-answers", bound: "nothing is read from who doesn't read", want: "closed within the budget", store: bigValuesOf,
			run: func(a *arena) {
				a.silent(a.scaled(200), func(w *wire) error {
					if err := w.framer.WriteWindowUpdate(0, 1<<30); err != nil {
						return err
					}
					return a.forever(w, func() error {
						_, err := w.call(pathRange, bigMessage, true)
						return err
					})
				}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
			},
			check: anyEnd,
		},
		{
			name: "unread-refusals", long: true, bound: "nothing is read from who doesn't read", want: "stays, unread",
			run: func(a *arena) {
				a.silent(a.scaled(1000), func(w *wire) error {
					return a.forever(w, func() error {
						_, err := w.open(grpcHead("/none/none"), true)
						return err
					})
				})
			},
			check: anyEnd,
		},
		{
			name: "unread-small-answers", bound: "nothing is read from who doesn't read", want: "stays, unread",
			run: func(a *arena) {
				a.silent(a.scaled(1000), func(w *wire) error {
					return a.forever(w, func() error {
						_, err := w.call(pathRange, getMessage, true)
						return err
					})
				})
			},
			check: anyEnd,
		},
		{
			name: "no-preface", cases: true, bound: "", want: "400, or closed",
			run: func(a *arena) {
				a.http1(map[string]string{
					"garbage":               "\x00\x01\x02\x03\x04garbage\r\n\r\n",
					"TLS hello":             "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
					"half a preface":        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
					"HTTP/0.9":              "GET /\r\n",
					"HTTP/3.0":              "GET / HTTP/3.0\r\n\r\n",
					"frame without preface": "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
				}, "400", "505", "closed")
			},
			check: func(a *arena) string { return a.ends.failures() },
		},
		{
			name: "http1-smuggling", cases: true, bound: "one reading of where a request ends", want: "400 and closed",
			run: func(a *arena) {
				post := "POST /health HTTP/1.1\r\nHost: a\r\n"
				hidden := "GET /version HTTP/1.1\r\nHost: a\r\n\r\n"
				a.http1(map[string]string{
					"two lengths":             post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde" + hidden,
					"two equal lengths":       post + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde" + hidden,
					"lengths in a list":       post + "Content-Length: 5, 5\r\n\r\nabcde" + hidden,
					"length with a sign":      post + "Content-Length: +5\r\n\r\nabcde" + hidden,
					"length in hex":           post + "Content-Length: 0x5\r\n\r\nabcde" + hidden,
					"TE and CL":               post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + hidden,
					"CL and TE":               post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
					"chunk size overflow":     post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\na\r\n0\r\n\r\n" + hidden,
					"chunk size with a sign":  post + "Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n" + hidden,
					"chunk size with a space": post + "Transfer-Encoding: chunked\r\n\r\n 1\r\na\r\n0\r\n\r\n" + hidden,
					"chunk too long":          post + "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n" + hidden,
					"chunk line ends in LF":   post + "Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n" + hidden,
					"TE twice":                post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
					"TE with a tab":           post + "Transfer-Encoding:\tchunked, identity\r\n\r\n0\r\n\r\n" + hidden,
					"TE in HTTP/1.0":          "POST /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
					"space before colon":      post + "Content-Length : 5\r\n\r\nabcde" + hidden,
					"folded field":            post + "X: a\r\n b\r\nContent-Length: 5\r\n\r\nabcde" + hidden,
					"LF alone":                "GET /health HTTP/1.1\nHost: a\n\n",
					"two hosts":               "GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
					"no host":                 "GET /health HTTP/1.1\r\n\r\n",
					"NUL in a field":          "GET /health HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
				}, "400", "501")
			},
			check: func(a *arena) string { return a.ends.failures() },
		},
		{
			name: "http1-bombs", cases: true, bound: "64 KiB and 100 fields of head, 2 MiB of body", want: "431 or 413 and closed",
			run: func(a *arena) {
				post := "POST /health HTTP/1.1\r\nHost: a\r\n"
				a.http1(map[string]string{
					"field of 1 MiB":     "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", 1<<20),
					"target of 1 MiB":    "GET /" + strings.Repeat("y", 1<<20),
					"10 000 fields":      "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 10_000),
					"length of 1 EiB":    post + "Content-Length: 1152921504606846976\r\n\r\n",
					"chunk of 1 EiB":     post + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n",
					"endless chunks":     post + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("10000\r\n"+strings.Repeat("z", 1<<16)+"\r\n", 64),
					"endless extensions": post + "Transfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("e", 1<<20),
					"endless trailers":   post + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("T: u\r\n", 100_000),
				}, "431", "413", "400", "closed")
			},
			check: func(a *arena) string { return a.ends.failures() },
		},
		{
			name: "http1-unread-pipeline", long: true, bound: "one request at a time", want: "stays, unread",
			run: func(a *arena) {
				a.sockets(a.scaled(500), func(conn net.Conn) error {
					request := strings.Repeat("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 100)
					for a.Err() == nil {
						_ = conn.SetWriteDeadline(time.Now().Add(writeBound))
						if _, err := io.WriteString(conn, request); err != nil {
							return err
						}
					}
					return nil
				})
			},
			check: anyEnd,
		},
	}
}

// sockets runs an attack below HTTP/2 from so many sockets, and counts those that the server closes.
func (a *arena) sockets(count int, attack func(net.Conn) error) {
	var wait sync.WaitGroup
	making := make(chan struct{}, 64)
	for range count {
		wait.Go(func() {
			making <- struct{}{}
			conn, err := dialRaw(a.endpoint)
			<-making
			if err != nil {
				a.ends.count("connections not made", 1)
				return
			}
			defer conn.Close()
			_ = attack(conn)
			if deadline, ok := a.Deadline(); ok {
				_ = conn.SetReadDeadline(deadline)
			}
			if a.Err() != nil {
				return
			}
			if _, err := conn.Read(make([]byte, 1)); err != nil && !isTimeout(err) {
				a.ends.count("closed by the server", 1)
			}
		})
	}
	wait.Wait()
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

// drip sends one byte a second.
func (a *arena) drip(conn net.Conn, text string) error {
	for i := range len(text) {
		if _, err := io.WriteString(conn, text[i:i+1]); err != nil {
			return nil
		}
		a.pause(time.Second)
		if a.Err() != nil {
			return nil
		}
	}
	return nil
}

// http1 sends each text on a connection of its own. The first answer must be one of those wanted, and the only one.
func (a *arena) http1(cases map[string]string, want ...string) {
	for name, request := range cases {
		got := a.exchange(request)
		if !slicesContain(want, got) {
			a.ends.count(fmt.Sprintf("wrong: %s: %s", name, got), 1)
		}
	}
	a.ends.count("cases", len(cases))
}

func (a *arena) exchange(request string) string {
	conn, err := dialRaw(a.endpoint)
	if err != nil {
		return "not connected"
	}
	defer conn.Close()
	go func() { _, _ = io.WriteString(conn, request) }()
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	all, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil && isTimeout(err) {
		return "left open"
	}
	answers := strings.Count(string(all), "HTTP/1.1 ")
	switch {
	case answers == 0:
		return "closed"
	case answers > 1:
		return fmt.Sprintf("%d answers", answers)
	}
	return string(all[9:12])
}

func (e *endings) atLeast(what string, count int) string {
	e.Lock()
	defer e.Unlock()
	if e.events[what] < count {
		return fmt.Sprintf("%s: %d, at least %d are wanted", what, e.events[what], count)
	}
	return ""
}

func (e *endings) answers(status string, count int) string {
	e.Lock()
	defer e.Unlock()
	if e.statuses[status] < count {
		return fmt.Sprintf("status %s: %d, at least %d are wanted", status, e.statuses[status], count)
	}
	return ""
}
