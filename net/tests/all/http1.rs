//! HTTP/1.1: what is served, and what is refused because it can be read in two ways.

use crate::common::*;
use ringstone_net::{ConnectionEnd, Limits};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Reads one response; the body by its Content-Length.
async fn response(stream: &mut DuplexStream) -> (u16, String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a response"));
    }
    let head = String::from_utf8(head).expect("text");
    let status = head[9..12].parse().expect("a status");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    stream.read_exact(&mut body).await.expect("a body");
    (status, head, String::from_utf8(body).expect("text"))
}

/// Sends raw bytes on a new connection; the first response, and whether the connection is still open.
async fn send(bytes: &[u8]) -> (u16, String, bool) {
    let (harness, mut stream) = Harness::start(Limits::default());
    stream.write_all(bytes).await.expect("sent");
    let (status, _, body) = response(&mut stream).await;
    harness.settle().await;
    let mut rest = [0; 1];
    let open = tokio::time::timeout(Duration::from_millis(5), stream.read(&mut rest)).await.is_err();
    (status, body, open)
}

#[test]
fn requests_on_one_connection() {
    run(async {
        let (harness, mut stream) = Harness::start(Limits::default());
        stream.write_all(b"GET /health?serializable=true HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        let (status, head, body) = response(&mut stream).await;
        assert_eq!((status, &body[..]), (200, "GET /health Some(\"serializable=true\") body="));
        assert!(head.contains("content-type: text/plain; charset=utf-8\r\n"));
        // Two at once, one with a body, then one in pieces.
        let two =
            b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET http://x/b HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(two).await.expect("sent");
        assert_eq!(response(&mut stream).await.2, "POST /a None body=abc");
        assert_eq!(response(&mut stream).await.2, "GET /b None body=");
        for byte in
            b"\r\nPUT /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\n"
        {
            stream.write_u8(*byte).await.expect("sent");
            harness.settle().await;
        }
        assert_eq!(response(&mut stream).await.2, "PUT /c None body=def");
        stream.write_all(b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
        let (_, head, _) = response(&mut stream).await;
        assert!(head.contains("connection: close\r\n"));
        assert_eq!(stream.read(&mut [0; 1]).await.expect("closed"), 0);
        drop(stream);
        let end = harness.ended.await.expect("no panic");
        assert!(matches!(end, ConnectionEnd::Closed), "{end:?}");
    });
}

#[test]
fn head_has_no_body_and_1_0_closes() {
    run(async {
        let (_harness, mut stream) = Harness::start(Limits::default());
        stream.write_all(b"HEAD /h HTTP/1.1\r\nHost: x\r\n\r\nGET /i HTTP/1.0\r\n\r\n").await.expect("sent");
        let mut all = String::new();
        stream.read_to_string(&mut all).await.expect("closed after the second");
        let (first, second) = all.split_once("\r\n\r\n").expect("two responses");
        assert!(first.contains("content-length: 18"), "{first}");
        assert!(second.starts_with("HTTP/1.1 200 OK\r\n"), "{second}");
        assert!(second.ends_with("GET /i None body="), "{second}");
    });
}

#[test]
fn a_body_that_waits_for_permission() {
    run(async {
        let (_harness, mut stream) = Harness::start(Limits::default());
        let head = b"POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
        stream.write_all(head).await.expect("sent");
        let mut interim = [0; 25];
        stream.read_exact(&mut interim).await.expect("permission");
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"ok").await.expect("sent");
        assert_eq!(response(&mut stream).await.2, "POST /e None body=ok");
    });
}

#[test]
fn what_can_be_read_in_two_ways_is_refused_and_closed() {
    run(async {
        const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
        for (why, head, body) in [
            ("two lengths", "Content-Length: 3\r\nContent-Length: 30\r\n", "abc"),
            ("two equal lengths", "Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
            ("a list of lengths", "Content-Length: 3, 3\r\n", "abc"),
            ("length and coding", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            ("coding and length", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "0\r\n\r\n"),
            ("two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
            ("a signed length", "Content-Length: +3\r\n", "abc"),
            ("a space before the colon", "Content-Length : 3\r\n", "abc"),
            ("a folded line", "X: a\r\n Content-Length: 3\r\n", "abc"),
            ("a line feed alone", "X: a\nContent-Length: 3\r\n", "abc"),
            ("two hosts", "Host: y\r\n", ""),
            ("a chunk too long", "Transfer-Encoding: chunked\r\n", "1\r\nab\r\n0\r\n\r\n"),
            ("a chunk size that overflows", "Transfer-Encoding: chunked\r\n", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ] {
            let bytes = format!("POST /a HTTP/1.1\r\nHost: x\r\n{head}\r\n{body}{SMUGGLED}");
            let (status, body, open) = send(bytes.as_bytes()).await;
            assert_eq!((status, open), (400, false), "{why}: {body}");
        }
        let (status, _, open) = send(b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n").await;
        assert_eq!((status, open), (501, false));
        let (status, _, open) = send(b"GET /a HTTP/1.1\r\n\r\n").await;
        assert_eq!((status, open), (400, false));
        let (status, _, open) = send(b"GET /a HTTP/2.0\r\nHost: x\r\n\r\n").await;
        assert_eq!((status, open), (505, false));
        let (status, _, open) = send(b"GET /a HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n").await;
        assert_eq!((status, open), (417, false));
        let (status, _, open) = send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello over TLS\r\n\r\n").await;
        assert_eq!((status, open), (400, false));
    });
}

#[test]
fn sizes_are_bounded() {
    run(async {
        let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000));
        assert_eq!(send(long.as_bytes()).await.0, 431);
        let endless = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "a".repeat(70_000));
        assert_eq!(send(endless.as_bytes()).await.0, 431);
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: a\r\n".repeat(200));
        assert_eq!(send(many.as_bytes()).await.0, 431);
        let large = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n";
        assert_eq!(send(large).await.0, 413);
        let large = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n";
        assert_eq!(send(large).await.0, 413);
        assert_eq!(send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await.0, 505);
    });
}

#[test]
fn silence_ends_a_connection() {
    run(async {
        let short = Duration::from_millis(20);
        let limits = Limits { handshake_timeout: short, http1_timeout: short, ..Limits::default() };
        for start in [&b""[..], b"PRI * HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\nHo"] {
            let (harness, mut stream) = Harness::start(limits.clone());
            stream.write_all(start).await.expect("sent");
            let end = harness.ended.await.expect("no panic");
            assert!(matches!(end, ConnectionEnd::HandshakeTimeout), "{end:?} after {start:?}");
        }
        let (harness, mut stream) = Harness::start(limits);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        response(&mut stream).await;
        assert_eq!(stream.read(&mut [0; 1]).await.expect("closed"), 0);
        assert!(harness.ended.await.is_ok());
    });
}
