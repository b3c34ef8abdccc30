package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	pathPut       = "/etcdserverpb.KV/Put"
	pathRange     = "/etcdserverpb.KV/Range"
	pathTxn       = "/etcdserverpb.KV/Txn"
	pathWatch     = "/etcdserverpb.Watch/Watch"
	pathSnapshot  = "/etcdserverpb.Maintenance/Snapshot"
	pathHash      = "/etcdserverpb.Maintenance/Hash"
	pathGrant     = "/etcdserverpb.Lease/LeaseGrant"
	pathKeepAlive = "/etcdserverpb.Lease/LeaseKeepAlive"
	pathLeases    = "/etcdserverpb.Lease/LeaseLeases"
	pathLease     = "/etcdserverpb.Lease/LeaseTimeToLive"
)

// wire is one HTTP/2 connection whose every frame is the attack's own. Writes go through a buffer: flush sends them.
type wire struct {
	conn   net.Conn
	out    *bufio.Writer
	framer *http2.Framer
	block  bytes.Buffer
	hpack  *hpack.Encoder
	next   uint32
}

// writeBound is how long a write may take before the server counts as one that reads no more.
const writeBound = 5 * time.Second

func dialRaw(endpoint string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	return dialer.Dial("tcp", endpoint)
}

func dial(endpoint string, settings ...http2.Setting) (*wire, error) {
	conn, err := dialRaw(endpoint)
	if err != nil {
		return nil, err
	}
	w := &wire{conn: conn, out: bufio.NewWriterSize(conn, 32<<10), next: 1}
	w.framer = http2.NewFramer(w.out, bufio.NewReaderSize(conn, 4<<10))
	w.framer.AllowIllegalWrites = true
	w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.hpack = hpack.NewEncoder(&w.block)
	if _, err := io.WriteString(w.out, http2.ClientPreface); err != nil {
		return nil, err
	}
	return w, w.framer.WriteSettings(settings...)
}

func (w *wire) close() { _ = w.conn.Close() }

func (w *wire) flush() error {
	_ = w.conn.SetWriteDeadline(time.Now().Add(writeBound))
	return w.out.Flush()
}

type field struct{ name, value string }

func grpcHead(path string, extra ...field) []field {
	return append([]field{
		{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "hostile"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	}, extra...)
}

func (w *wire) encode(fields []field) []byte {
	w.block.Reset()
	for _, f := range fields {
		_ = w.hpack.WriteField(hpack.HeaderField{Name: f.name, Value: f.value})
	}
	return w.block.Bytes()
}

// open sends HEADERS of a new stream, in as many frames as it takes.
func (w *wire) open(fields []field, endStream bool) (uint32, error) {
	id := w.next
	w.next += 2
	return id, w.headers(id, w.encode(fields), endStream)
}

func (w *wire) headers(id uint32, block []byte, endStream bool) error {
	const most = 16 << 10
	first := block[:min(most, len(block))]
	rest := block[len(first):]
	err := w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndStream: endStream, EndHeaders: len(rest) == 0})
	for err == nil && len(rest) > 0 {
		part := rest[:min(most, len(rest))]
		rest = rest[len(part):]
		err = w.framer.WriteContinuation(id, len(rest) == 0, part)
	}
	return err
}

func framed(message []byte) []byte {
	out := make([]byte, 5, 5+len(message))
	binary.BigEndian.PutUint32(out[1:], uint32(len(message)))
	return append(out, message...)
}

// call opens a stream with one whole message.
func (w *wire) call(path string, message []byte, endStream bool) (uint32, error) {
	id, err := w.open(grpcHead(path), false)
	if err == nil {
		err = w.framer.WriteData(id, endStream, framed(message))
	}
	return id, err
}

// endings is what became of an attack's connections and calls.
type endings struct {
	sync.Mutex
	goAway   map[http2.ErrCode]int
	debug    map[string]int
	resets   map[http2.ErrCode]int
	statuses map[string]int // grpc-status, or "http N" where there is none
	http1    map[string]int // first lines of answers
	closed   int            // connections that the server ended
	refused  int            // connections that it did not take, or that ended before their first frame
	events   map[string]int // whatever else an attack counts
	pings    int
}

func newEndings() *endings {
	return &endings{
		goAway: map[http2.ErrCode]int{}, debug: map[string]int{}, resets: map[http2.ErrCode]int{},
		statuses: map[string]int{}, http1: map[string]int{}, events: map[string]int{},
	}
}

func (e *endings) count(what string, by int) {
	e.Lock()
	e.events[what] += by
	e.Unlock()
}

// read takes in frames until the connection ends; each is also shown to seen.
func (w *wire) read(e *endings, seen func(http2.Frame)) error {
	for {
		frame, err := w.framer.ReadFrame()
		if err != nil {
			var stream http2.StreamError
			if errors.As(err, &stream) {
				continue
			}
			e.Lock()
			if !errors.Is(err, net.ErrClosed) {
				e.closed++
			}
			e.Unlock()
			return err
		}
		e.note(frame)
		if seen != nil {
			seen(frame)
		}
	}
}

func (e *endings) note(frame http2.Frame) {
	e.Lock()
	defer e.Unlock()
	switch frame := frame.(type) {
	case *http2.GoAwayFrame:
		e.goAway[frame.ErrCode]++
		if text := string(frame.DebugData()); text != "" {
			e.debug[text]++
		}
	case *http2.RSTStreamFrame:
		e.resets[frame.ErrCode]++
	case *http2.PingFrame:
		e.pings++
	case *http2.MetaHeadersFrame:
		grpc, status := "", ""
		for _, f := range frame.Fields {
			switch f.Name {
			case "grpc-status":
				grpc = f.Value
			case ":status":
				status = f.Value
			}
		}
		switch {
		case grpc != "":
			e.statuses[grpc]++
		case frame.StreamEnded():
			e.statuses["http "+status]++
		}
	}
}

func (e *endings) String() string {
	e.Lock()
	defer e.Unlock()
	text := ""
	add := func(format string, arguments ...any) {
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf(format, arguments...)
	}
	for code, n := range e.goAway {
		add("GOAWAY %v x%d", code, n)
	}
	for code, n := range e.resets {
		add("RST %v x%d", code, n)
	}
	for status, n := range e.statuses {
		add("status %s x%d", status, n)
	}
	for line, n := range e.http1 {
		add("%q x%d", line, n)
	}
	for what, n := range e.events {
		add("%s %d", what, n)
	}
	if e.closed > 0 {
		add("closed x%d", e.closed)
	}
	if e.refused > 0 {
		add("refused x%d", e.refused)
	}
	return text
}
