//! CPU of one unary call with a handler that does nothing: a server thread and a client thread over TCP on this machine.
//!
//! `bare [calls in flight] [bytes of a response] [seconds] [connections]`

use bytes::Bytes;
use ringstone_net::client::{CallOptions, Client, ClientOptions};
use ringstone_net::*;
use ringstone_proto::etcdserverpb::{RangeRequest, RangeResponse};
use ringstone_proto::mvccpb::KeyValue;
use std::cell::Cell;
use std::future::pending;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

struct Bare {
    response: RangeResponse,
}

impl Handler for Bare {
    type Notes = ();

    fn admit(&self, _: Method, _: Entry, _: &CallContext) -> Result<(), Status> {
        Ok(())
    }

    async fn unary(&self, _: Method, _: &CallContext, message: Bytes, (): &()) -> Result<Framed, Status> {
        let _request: RangeRequest = decode_request(message)?;
        Ok(Framed::encode(&self.response))
    }

    async fn stream(&self, _: Method, _: &CallContext, _: RequestStream, _: ResponseSink) -> Result<(), Status> {
        Ok(())
    }

    async fn http(&self, _: HttpRequest) -> HttpResponse {
        HttpResponse::text(404, "404 page not found\n")
    }
}

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, work);
}

/// CPU seconds of this thread so far.
fn thread_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    stat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).expect("a number") / 1e9
}

fn serve(response_bytes: usize, address: mpsc::Sender<SocketAddr>, cpu: mpsc::Sender<f64>, stop: mpsc::Receiver<()>) {
    block_on(async {
        let kv = KeyValue { key: "key".into(), value: vec![b'v'; response_bytes].into(), ..Default::default() };
        let response = RangeResponse { kvs: vec![kv], count: 1, ..Default::default() };
        let server = Server::new(Rc::new(Bare { response }), TokioRuntime::default(), Limits::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        address.send(listener.local_addr().expect("bound")).expect("awaited");
        spawn_local(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                stream.set_nodelay(true).expect("alive");
                let server = server.clone();
                spawn_local(async move { serve_connection(stream, Peer::Address(peer), &server, pending()).await });
            }
        });
        while stop.try_recv().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            cpu.send(thread_cpu()).expect("awaited");
        }
    });
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>().expect("a number"));
    let in_flight = arguments.next().unwrap_or(64);
    let response_bytes = arguments.next().unwrap_or(64);
    let seconds = arguments.next().unwrap_or(3);
    let connections = arguments.next().unwrap_or(1);
    let (address, addresses) = mpsc::channel();
    let (cpu, server_cpu) = mpsc::channel();
    let (stop, stopped) = mpsc::channel();
    let server = std::thread::Builder::new().name("server".into());
    let server = server.spawn(move || serve(response_bytes, address, cpu, stopped)).expect("a thread");
    let address = addresses.recv().expect("the server starts");
    block_on(async {
        let runtime = TokioRuntime::default();
        let done = Rc::new(Cell::new(0u64));
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await.expect("a server");
            stream.set_nodelay(true).expect("alive");
            let client = Client::connect(stream, &ClientOptions::new("localhost"), &runtime).await.expect("handshake");
            for _ in 0..in_flight {
                let (client, done) = (client.clone(), done.clone());
                spawn_local(async move {
                    let request = RangeRequest { key: "key".into(), ..Default::default() };
                    let options = CallOptions::default();
                    loop {
                        let call = client.unary(Method::KvRange, &request, &options);
                        let _: RangeResponse = call.await.expect("an answer");
                        done.set(done.get() + 1);
                    }
                });
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = (done.get(), server_cpu.try_iter().last().expect("measured"), Instant::now(), thread_cpu());
        tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
        let after = (done.get(), server_cpu.try_iter().last().expect("measured"), Instant::now(), thread_cpu());
        let calls = (after.0 - before.0) as f64;
        println!(
            "{connections} x {in_flight} in flight, {response_bytes} bytes: {:.0} calls/s, server {:.2} CPU-us a call, client {:.2}",
            calls / (after.2 - before.2).as_secs_f64(),
            (after.1 - before.1) * 1e6 / calls,
            (after.3 - before.3) * 1e6 / calls
        );
    });
    stop.send(()).expect("the server runs");
    server.join().expect("no panic");
}
