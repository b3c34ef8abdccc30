package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// wireCase is a gRPC request as no gRPC library would send it. A header set to "-" is left out.
type wireCase struct {
	name    string
	headers [][2]string // replace or extend the usual ones
	body    []byte      // nil: one message, a Range of the key "wire"
}

// frame is a gRPC message with its prefix.
func frame(flag byte, message []byte) []byte {
	prefix := make([]byte, 5, 5+len(message))
	prefix[0] = flag
	binary.BigEndian.PutUint32(prefix[1:], uint32(len(message)))
	return append(prefix, message...)
}

func wireCases() []wireCase {
	get, _ := proto.Marshal(&pb.RangeRequest{Key: []byte("wire")})
	var zipped bytes.Buffer
	writer := gzip.NewWriter(&zipped)
	_, _ = writer.Write(get)
	_ = writer.Close()
	with := func(name, header, value string) wireCase {
		return wireCase{name: name, headers: [][2]string{{header, value}}}
	}
	return []wireCase{
		{name: "as usual"},
		{name: "gzip", headers: [][2]string{{"grpc-encoding", "gzip"}}, body: frame(1, zipped.Bytes())},
		{name: "gzip announced, not used", headers: [][2]string{{"grpc-encoding", "gzip"}}},
		{name: "snappy", headers: [][2]string{{"grpc-encoding", "snappy"}}, body: frame(1, get)},
		{name: "compressed without an encoding", body: frame(1, get)},
		{name: "payload flag 2", body: frame(2, get)},
		with("content-type with a codec", "content-type", "application/grpc+json"),
		with("content-type with a parameter", "content-type", "application/grpc;charset=utf-8"),
		with("content-type of grpc-web", "content-type", "application/grpc-web"),
		with("content-type of text", "content-type", "text/plain"),
		with("no content-type", "content-type", "-"),
		with("GET", ":method", "GET"),
		with("PUT", ":method", "PUT"),
		with("no te", "te", "-"),
		with("a timeout", "grpc-timeout", "5S"),
		with("a timeout of letters", "grpc-timeout", "abc"),
		with("a timeout without unit", "grpc-timeout", "10"),
		with("a timeout of nine digits", "grpc-timeout", "123456789S"),
		with("an expired timeout", "grpc-timeout", "0S"),
		with("a broken -bin header", "x-broken-bin", "!!!"),
		with("client-api-version", "client-api-version", "3.7.3"),
		with("client-api-version of no UTF-8", "client-api-version", "3.\xff\xfe"),
		with("a token of nobody", "token", "nobody.1"),
		with("an authorization of nobody", "authorization", "Bearer nobody"),
		with("path with a query", ":path", pb.KV_Range_FullMethodName+"?x=1"),
		with("unknown method", ":path", "/etcdserverpb.KV/Rearrange"),
		with("unknown service", ":path", "/etcdserverpb.Kv/Range"),
		with("path of one part", ":path", "/Range"),
		with("reflection", ":path", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
		{name: "longer than the limit", body: frame(0, make([]byte, 2_097_153))},
		{name: "cut short", body: frame(0, get)[:5+len(get)-2]},
		{name: "prefix cut short", body: frame(0, get)[:3]},
		{name: "two messages", body: append(frame(0, get), frame(0, get)...)},
		{name: "no message", body: []byte{}},
		// Not here: headers that end the stream. etcd never answers a call without any body.
	}
}

// exchange sends one case over a connection of its own and answers all that a client could see of the answer.
func (w wireCase) exchange(endpoint string) (string, error) {
	connection, err := net.DialTimeout("tcp", endpoint, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(connection, http2.ClientPreface); err != nil {
		return "", err
	}
	framer := http2.NewFramer(connection, connection)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		return "", err
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.headerBlock(), EndHeaders: true}); err != nil {
		return "", err
	}
	go w.sendBody(framer)
	return readAnswer(framer)
}

func (w wireCase) headerBlock() []byte {
	headers := [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", pb.KV_Range_FullMethodName}, {":authority", "test"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	}
	for _, change := range w.headers {
		found := false
		for i := range headers {
			if headers[i][0] == change[0] {
				headers[i][1], found = change[1], true
			}
		}
		if !found {
			headers = append(headers, change)
		}
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, header := range headers {
		if header[1] != "-" {
			_ = encoder.WriteField(hpack.HeaderField{Name: header[0], Value: header[1]})
		}
	}
	return block.Bytes()
}

// sendBody writes within the initial window only: what is refused is refused by its prefix.
func (w wireCase) sendBody(framer *http2.Framer) {
	body := w.body
	if body == nil {
		get, _ := proto.Marshal(&pb.RangeRequest{Key: []byte("wire")})
		body = frame(0, get)
	}
	const window, piece = 65_535, 16_384
	fits := len(body) <= window
	body = body[:min(len(body), window)]
	for len(body) > piece {
		if framer.WriteData(1, false, body[:piece]) != nil {
			return
		}
		body = body[piece:]
	}
	_ = framer.WriteData(1, fits, body)
}

func readAnswer(framer *http2.Framer) (string, error) {
	var seen []string
	body := "no body" // its length depends on the server's ids
	for {
		next, err := framer.ReadFrame()
		if err != nil {
			return strings.Join(seen, "; "), err
		}
		switch f := next.(type) {
		case *http2.MetaHeadersFrame:
			seen = append(seen, showHeaders(f))
			if f.StreamEnded() {
				return strings.Join(seen, "; ") + "; " + body, nil
			}
		case *http2.DataFrame:
			if len(f.Data()) > 0 {
				body = "a body"
			}
			if f.StreamEnded() {
				return strings.Join(seen, "; ") + "; " + body, nil
			}
		case *http2.RSTStreamFrame:
			return fmt.Sprintf("%s; reset %v", strings.Join(seen, "; "), f.ErrCode), nil
		case *http2.GoAwayFrame:
			return fmt.Sprintf("%s; connection ended %v", strings.Join(seen, "; "), f.ErrCode), nil
		}
	}
}

// showHeaders keeps the headers that gRPC gives a meaning.
func showHeaders(f *http2.MetaHeadersFrame) string {
	var kept []string
	for _, name := range []string{":status", "content-type", "grpc-status", "grpc-message", "grpc-encoding"} {
		for _, field := range f.Fields {
			if field.Name == name {
				kept = append(kept, name+"="+field.Value)
			}
		}
	}
	return strings.Join(kept, " ")
}

// httpPaths are asked for over HTTP/1.1 on the client port.
var httpRequests = [][2]string{
	{"GET", "/health"}, {"GET", "/health?serializable=true"}, {"POST", "/health"}, {"GET", "/livez"}, {"GET", "/livez?verbose"},
	{"GET", "/readyz"}, {"GET", "/readyz?verbose"}, {"GET", "/version"}, {"POST", "/version"}, {"GET", "/nothing"}, {"GET", "/"},
}

func askHTTP(endpoint, method, path string) (string, error) {
	request, err := http.NewRequest(method, "http://"+endpoint+path, nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	lines := strings.Split(string(body), "\n") // etcd lists its checks in any order
	slices.Sort(lines)
	return fmt.Sprintf("%d %s %q", answer.StatusCode, answer.Header.Get("Content-Type"), lines), err
}

// wire compares what both servers make of requests that only a raw socket can send.
func (r *runner) wire() {
	for _, w := range wireCases() {
		r.compareText("wire: "+w.name, func(s *side) (string, error) { return w.exchange(s.endpoint) })
	}
	for _, ask := range httpRequests {
		r.compareText("http: "+ask[0]+" "+ask[1], func(s *side) (string, error) { return askHTTP(s.endpoint, ask[0], ask[1]) })
	}
	r.coverage.scenarios["wire"]++
}

func (r *runner) compareText(name string, ask func(*side) (string, error)) {
	if r.stop {
		return
	}
	r.calls++
	r.budget--
	control, controlErr := ask(r.control)
	target, targetErr := ask(r.target)
	if strings.Contains(control, "invalid client api version") {
		r.coverage.texts["InvalidArgument: etcdserver: invalid client api version"]++
	}
	if controlErr != nil {
		control += " (no answer)"
	}
	if targetErr != nil {
		target += " (no answer)"
	}
	if control != target {
		r.fail(name, nil, control, target)
		return
	}
	r.passed++
}
