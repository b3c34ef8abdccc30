//! The same server on glommio, over TCP and a local socket.

use crate::common::TestHandler;
use glommio::net::{TcpListener, TcpStream, UnixStream};
use glommio::{LocalExecutorBuilder, Placement};
use ringstone_net::client::{CallOptions, Client, ClientOptions};
use ringstone_net::glommio_io::{GlommioRuntime, GlommioStream};
use ringstone_net::*;
use ringstone_proto::etcdserverpb::{RangeRequest, RangeResponse};
use std::future::{Future, pending};
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
    let builder = LocalExecutorBuilder::new(Placement::Unbound);
    builder.spawn(test).expect("an executor").join().expect("no panic");
}

fn clock() -> Duration {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    EPOCH.elapsed()
}

async fn ask(client: &Client) {
    for bytes in [0, 10, 1000, 20_000, 1_500_000] {
        let request = RangeRequest { key: "big".into(), limit: bytes, ..Default::default() };
        let response: RangeResponse =
            client.unary(Method::KvRange, &request, &CallOptions::default()).await.expect("an answer");
        assert_eq!((response.count, response.kvs[0].value.len()), (bytes, bytes as usize));
    }
    let options = CallOptions { timeout: Some(Duration::from_millis(50)), ..Default::default() };
    let request = RangeRequest { key: "wait".into(), ..Default::default() };
    let result = client.unary::<_, RangeResponse>(Method::KvRange, &request, &options).await;
    assert_eq!(result, Err(Status::DEADLINE_EXCEEDED));
}

#[test]
fn calls_over_tcp() {
    run(|| async {
        let runtime = GlommioRuntime::new(clock);
        let server = Server::new(Rc::<TestHandler>::default(), runtime, Limits::default());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let served = glommio::spawn_local(async move {
            let (stream, peer) = GlommioStream::tcp(listener.accept().await.expect("a client"), None).expect("alive");
            serve_connection(stream, peer, &server, pending()).await
        });
        let (stream, _) =
            GlommioStream::tcp(TcpStream::connect(address).await.expect("a server"), None).expect("alive");
        let client = Client::connect(stream, &ClientOptions::new("localhost"), &runtime).await.expect("handshake");
        ask(&client).await;
        drop(client);
        let end = served.await;
        assert!(matches!(end, ConnectionEnd::Closed), "{end:?}");
    });
}

#[test]
fn calls_over_a_local_socket() {
    run(|| async {
        let runtime = GlommioRuntime::new(clock);
        let server = Server::new(Rc::<TestHandler>::default(), runtime, Limits::default());
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let served = glommio::spawn_local(async move {
            let (stream, peer) = GlommioStream::unix(theirs);
            serve_connection(stream, peer, &server, pending()).await
        });
        let stream = GlommioStream::unix(ours).0;
        let client = Client::connect(stream, &ClientOptions::new("localhost"), &runtime).await.expect("handshake");
        ask(&client).await;
        drop(client);
        let end = served.await;
        assert!(matches!(end, ConnectionEnd::Closed), "{end:?}");
    });
}
