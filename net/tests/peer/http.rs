//! The TCP side of the peer port.

use crate::common::*;
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use ringstone_net::HttpResponse;
use ringstone_net::peer::PeerHttp;
use std::net::SocketAddr;
use std::time::Duration;

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = glommio::net::TcpStream::connect(address).await.expect("a server");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    within(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("an answer").expect("an answer");
    String::from_utf8(answer).expect("text")
}

#[test]
fn version_and_members_over_tcp() {
    run(|| async {
        // The same port as on UDP, which a test beside this one may have on TCP.
        let (a, listener) = loop {
            let a = member(1).await;
            match glommio::net::TcpListener::bind(a.local_address()) {
                Ok(listener) => break (a, listener),
                Err(_) => a.shutdown().await,
            }
        };
        a.serve_http(listener, Duration::default, |page| match page {
            PeerHttp::Version => HttpResponse::text(200, "versions"),
            PeerHttp::Members => HttpResponse::text(200, "members"),
        });
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let address = a.local_address();
        for (path, status, body) in
            [("/version", 200, "versions"), ("/members", 200, "members"), ("/raft", 404, ""), ("/members/1", 404, "")]
        {
            let answer = ask(address, &get(path)).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(body), "{path}: {answer}");
        }
        let answer =
            ask(address, "POST /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.to_lowercase().contains("allow: get"), "{answer}");
        let answer = ask(address, "garbage\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        a.shutdown().await;
        until("the port is closed", || std::net::TcpStream::connect(address).err()).await;
    });
}
