package main

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/net/http2"
)

// headers are attacks on what reads the heads of requests.
func headers() []attack {
	many := 50
	return []attack{
		{
			name: "continuation-flood", bound: "64 KiB of headers a request; 5 CONTINUATION frames", want: "GOAWAY PROTOCOL_ERROR or ENHANCE_YOUR_CALM",
			run: func(a *arena) {
				part := bytes.Repeat([]byte{0x82}, 1<<10)
				a.connections(many, func(w *wire) error {
					if err := w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: part}); err != nil {
						return err
					}
					return a.forever(w, func() error { return w.framer.WriteContinuation(1, false, part) })
				})
			},
			check: goesAway(http2.ErrCodeEnhanceYourCalm, http2.ErrCodeProtocol, http2.ErrCodeCompression),
		},
		{
			name: "continuation-empty-flood", long: true, bound: "5 CONTINUATION frames", want: "GOAWAY ENHANCE_YOUR_CALM",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					if err := w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1}); err != nil {
						return err
					}
					return a.forever(w, func() error { return w.framer.WriteContinuation(1, false, nil) })
				})
			},
			check: goesAway(http2.ErrCodeEnhanceYourCalm, http2.ErrCodeProtocol),
		},
		{
			name: "continuation-unending", bound: "an open head is charged to its connection; no answer comes: handshake timeout", want: "held, within the budget", long: true,
			run: func(a *arena) {
				part := literal("x", strings.Repeat("y", 12<<10))
				a.once(a.scaled(10_000), func(w *wire) error {
					if err := w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: part}); err != nil {
						return err
					}
					for range 3 {
						if err := w.framer.WriteContinuation(1, false, part); err != nil {
							return err
						}
					}
					return w.flush()
				})
			},
			check: anyEnd,
		},
		{
			name: "header-list-bomb", long: true, bound: "64 KiB of headers a request", want: "refused with 431",
			run: func(a *arena) {
				big := field{"x", strings.Repeat("z", 15<<10)}
				fields := grpcHead(pathPut, big, big, big, big, big)
				a.connections(many, func(w *wire) error {
					return a.forever(w, func() error {
						_, err := w.open(fields, true)
						return err
					})
				})
			},
			check: answered("http 431"),
		},
		{
			name: "hpack-bomb", bound: "64 KiB of headers a request, counted as they are unpacked", want: "GOAWAY ENHANCE_YOUR_CALM",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					// One entry of the whole table, then referred to 16 000 times a request.
					if _, err := w.open(grpcHead(pathPut, field{"x", strings.Repeat("z", 3500)}), true); err != nil {
						return err
					}
					block := append(w.encode(grpcHead(pathPut)), bytes.Repeat([]byte{0x80 | 62}, 16_000)...)
					return a.forever(w, func() error {
						id := w.next
						w.next += 2
						return w.headers(id, block, true)
					})
				})
			},
			check: goesAway(http2.ErrCodeEnhanceYourCalm),
		},
		{
			name: "hpack-table-flapping", long: true, bound: "4 KiB of table; each request's head is bounded", want: "stays",
			run: func(a *arena) {
				a.connections(many, func(w *wire) error {
					flap := bytes.Repeat(append(sizeUpdate(0), sizeUpdate(4096)...), 500)
					return a.forever(w, func() error {
						id := w.next
						w.next += 2
						return w.headers(id, append(append([]byte{}, flap...), plain(grpcHead(pathPut))...), true)
					})
				})
			},
			check: anyEnd,
		},
		{
			name: "hpack-pins-buffers", bound: "4 KiB of table, whatever its entries were cut from", want: "stays",
			run: func(a *arena) {
				ballast := make([]byte, 15<<10)
				a.once(a.scaled(400), func(w *wire) error {
					for n := range 130 {
						// A small entry that stays in the table, and much around it that shares its buffer.
						block := append(plain(grpcHead(pathPut)), indexedLiteral(fmt.Sprintf("k%03d", n), "v")...)
						if err := w.headers(w.next, block, true); err != nil {
							return err
						}
						w.next += 2
						if err := w.framer.WriteRawFrame(0xf7, 0, 0, ballast); err != nil {
							return err
						}
						if err := w.flush(); err != nil {
							return err
						}
					}
					return nil
				})
			},
			check: stays,
		},
		{
			name: "huge-metadata", bound: "heads of open calls are charged to their connection and to the server", want: "RESOURCE_EXHAUSTED, GOAWAY ENHANCE_YOUR_CALM",
			run: func(a *arena) {
				value := strings.Repeat("m", 15<<10)
				a.connections(a.scaled(200), func(w *wire) error {
					fields := grpcHead(pathPut, field{"a", value}, field{"b", value}, field{"c", value}, field{"d", value[:10<<10]})
					return a.forever(w, func() error {
						_, err := w.open(fields, false)
						return err
					})
				})
			},
			check: anyEnd,
		},
		{
			name: "odd-heads", cases: true, bound: "", want: "each refused by itself, as in RFC 9113 and grpc-go",
			run:   oddHeads,
			check: func(a *arena) string { return a.ends.failures() },
		},
	}
}

// scaled is a count for the long form, a tenth in the short one.
func (a *arena) scaled(count int) int {
	if a.short {
		return max(count/10, 1)
	}
	return count
}

func sizeUpdate(size uint64) []byte { return prefixed(0x20, 5, size) }

// prefixed is an integer of HPACK.
func prefixed(first byte, bits uint, n uint64) []byte {
	most := uint64(1)<<bits - 1
	if n < most {
		return []byte{first | byte(n)}
	}
	out := []byte{first | byte(most)}
	for n -= most; n >= 128; n >>= 7 {
		out = append(out, byte(n)|0x80)
	}
	return append(out, byte(n))
}

func text(value string) []byte { return append(prefixed(0, 7, uint64(len(value))), value...) }

// literal is a field that does not go into the table.
func literal(name, value string) []byte {
	return append(append([]byte{0}, text(name)...), text(value)...)
}

func indexedLiteral(name, value string) []byte {
	return append(append([]byte{0x40}, text(name)...), text(value)...)
}

// plain is a block without the table.
func plain(fields []field) []byte {
	var block []byte
	for _, f := range fields {
		block = append(block, literal(f.name, f.value)...)
	}
	return block
}

// failures are what cases of a table of them complained of.
func (e *endings) failures() string {
	e.Lock()
	defer e.Unlock()
	var all []string
	for what := range e.events {
		if rest, found := strings.CutPrefix(what, "wrong: "); found {
			all = append(all, rest)
		}
	}
	return strings.Join(all, "; ")
}

// oddHeads sends single requests with something wrong in their heads, each on a connection of its own, and wants the
// answer that the rules prescribe.
func oddHeads(a *arena) {
	without := func(name string, extra ...field) []field {
		var kept []field
		for _, f := range grpcHead(pathRange) {
			if f.name != name {
				kept = append(kept, f)
			}
		}
		return append(kept, extra...)
	}
	with := func(name, value string) []field {
		fields := grpcHead(pathRange)
		for i := range fields {
			if fields[i].name == name {
				fields[i].value = value
			}
		}
		return fields
	}
	front := func(f field) []field { return append([]field{f}, grpcHead(pathRange)...) }
	cases := []struct {
		name   string
		fields []field
		want   string
	}{
		{"good", grpcHead(pathRange), "0"},
		{"path without slash", with(":path", "etcdserverpb.KV/Range"), "12|reset"},
		{"path with dot segments", with(":path", "/etcdserverpb.KV/../etcdserverpb.KV/Range"), "12"},
		{"path percent-encoded", with(":path", "/etcdserverpb.KV/%52ange"), "12"},
		{"path with two slashes", with(":path", "//etcdserverpb.KV/Range"), "12"},
		{"path in upper case", with(":path", "/ETCDSERVERPB.KV/RANGE"), "12"},
		{"path with a query", with(":path", pathRange+"?a=b"), "12"},
		{"path empty", with(":path", ""), "reset|12"},
		{"path of 60 KiB", with(":path", "/"+strings.Repeat("p", 60<<10)), "12|reset"},
		{"path absolute", with(":path", "http://other/etcdserverpb.KV/Range"), "12|reset|0"},
		{"no :method", without(":method"), "reset"},
		{"no :path", without(":path"), "reset"},
		{"no :scheme", without(":scheme"), "reset"},
		{"no :authority", without(":authority"), "0|reset"},
		{":authority and another host", append(grpcHead(pathRange), field{"host", "other"}), "0|reset|http 400"},
		{":authority odd", with(":authority", "a b@c:99999999"), "0|reset|http 400"},
		{":method twice", front(field{":method", "GET"}), "reset"},
		{":path twice", front(field{":path", pathPut}), "reset"},
		{":status in a request", front(field{":status", "200"}), "reset"},
		{"unknown pseudo-header", front(field{":other", "x"}), "reset|goaway"},
		{"pseudo-header behind others", append(without(":path"), field{":path", pathRange}), "reset"},
		{"GET", with(":method", "GET"), "http 405|13"},
		{"CONNECT", with(":method", "CONNECT"), "reset|http 405|13"},
		{"content-type of something else", with("content-type", "application/json"), "http 415|3"},
		{"no content-type", without("content-type"), "http 415|3"},
		{"content-type with a subtype", with("content-type", "application/grpc+proto"), "0"},
		{"te of something else", with("te", "gzip"), "reset|0"},
		{"connection: close", append(grpcHead(pathRange), field{"connection", "close"}), "reset"},
		{"transfer-encoding", append(grpcHead(pathRange), field{"transfer-encoding", "chunked"}), "reset"},
		{"name in upper case", append(grpcHead(pathRange), field{"X-Upper", "x"}), "reset|goaway"},
		{"value with a line end", append(grpcHead(pathRange), field{"x", "a\r\nb"}), "reset|goaway"},
		{"content-length too small", append(grpcHead(pathRange), field{"content-length", "1"}), "reset"},
		{"content-length too large", append(grpcHead(pathRange), field{"content-length", "99999"}), "reset"},
		{"timeout of 8 digits", append(grpcHead(pathRange), field{"grpc-timeout", "99999999H"}), "0"},
		{"timeout of 9 digits", append(grpcHead(pathRange), field{"grpc-timeout", "999999999S"}), "http 400|13"},
		{"timeout negative", append(grpcHead(pathRange), field{"grpc-timeout", "-1S"}), "http 400|13"},
		{"timeout without unit", append(grpcHead(pathRange), field{"grpc-timeout", "1"}), "http 400|13"},
		{"timeout of nothing", append(grpcHead(pathRange), field{"grpc-timeout", "0n"}), "0|4"},
		{"unknown encoding", append(grpcHead(pathRange), field{"grpc-encoding", "zstd"}), "12"},
		{"binary metadata that is none", append(grpcHead(pathRange), field{"x-bin", "!!!"}), "http 400|13"},
	}
	for _, c := range cases {
		got := a.single(plain(c.fields), framed(getMessage))
		if !slicesContain(strings.Split(c.want, "|"), got) {
			a.ends.count(fmt.Sprintf("wrong: %s: %s, not %s", c.name, got, c.want), 1)
		}
	}
	a.ends.count("cases", len(cases))
	// What HPACK does not allow ends the connection: its state is lost.
	for name, block := range map[string][]byte{
		"index 0":              {0x80},
		"index beyond table":   {0xff, 0xff, 0x7f},
		"integer of 10 bytes":  {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"string beyond block":  {0x00, 0x7f, 0xff, 0x01, 'a'},
		"bad Huffman":          {0x00, 0x84, 0xff, 0xff, 0xff, 0xff},
		"table too large":      sizeUpdate(1 << 20),
		"size update too late": append(plain(grpcHead(pathRange)), sizeUpdate(0)...),
	} {
		if got := a.single(block, framed(getMessage)); got != "goaway" && got != "reset" {
			a.ends.count(fmt.Sprintf("wrong: HPACK %s: %s", name, got), 1)
		}
	}
}

func slicesContain(all []string, one string) bool {
	for _, candidate := range all {
		if candidate == one {
			return true
		}
	}
	return false
}

// single sends one request and tells how it ended: its grpc-status, "http N" where it has none, "reset", "goaway", "closed".
func (a *arena) single(block, body []byte) string {
	ends := newEndings()
	w, err := dial(a.endpoint)
	if err != nil {
		return "not connected"
	}
	defer w.close()
	if err := w.headers(1, block, false); err != nil {
		return err.Error()
	}
	// In one write with the head: a head that is refused may take the connection with it.
	_ = w.framer.WriteData(1, true, body)
	_ = w.flush()
	end := ""
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.read(ends, func(frame http2.Frame) {
			switch frame := frame.(type) {
			case *http2.GoAwayFrame:
				end = "goaway"
			case *http2.RSTStreamFrame:
				if end == "" {
					end = "reset"
				}
			case *http2.MetaHeadersFrame:
				if frame.StreamEnded() && end == "" {
					end = statusOf(frame)
				}
			}
			if end != "" {
				w.close()
			}
		})
	}()
	select {
	case <-done:
	case <-a.Done():
		w.close()
		<-done
		if end == "" {
			return "nothing in time"
		}
	}
	if end == "" {
		return "closed"
	}
	return end
}

func statusOf(frame *http2.MetaHeadersFrame) string {
	find := func(name string) string {
		for _, f := range frame.Fields {
			if f.Name == name {
				return f.Value
			}
		}
		return ""
	}
	if status := find(":status"); status != "" && status != "200" {
		return "http " + status
	}
	if grpc := find("grpc-status"); grpc != "" {
		return grpc
	}
	return "http " + find(":status")
}
