//! One connection of the shipping server over a pipe in memory, with a clock that runs ahead while nothing else does.

use std::cell::RefCell;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ringstone_net::{
    CallContext, Code, Entry, Framed, Handler, HttpRequest, HttpResponse, Limits, LocalBoxFuture, Memory, Method, Peer,
    RequestStream, ResponseSink, Runtime, Server, ShardMemory, Status, decode_request, serve_connection,
};
use ringstone_proto::etcdserverpb::{RangeRequest, RangeResponse, WatchRequest, WatchResponse};
use ringstone_proto::mvccpb::KeyValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::LocalSet;

#[derive(Clone)]
struct Paused(tokio::time::Instant);

impl Runtime for Paused {
    fn spawn(&self, future: LocalBoxFuture<'static, ()>) {
        tokio::task::spawn_local(future);
    }

    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Answers that follow from the request alone; and what HTTP/1.1 requests it was given.
#[derive(Default)]
struct Answers {
    requests: RefCell<Vec<String>>,
}

impl Handler for Answers {
    type Notes = ();

    fn admit(&self, _: Method, _: Entry, call: &CallContext) -> Result<(), Status> {
        match call.metadata_text("token") {
            Some("bad") => Err(Status::new(Code::Unauthenticated, "etcdserver: invalid auth token")),
            _ => Ok(()),
        }
    }

    async fn unary(&self, _: Method, _: &CallContext, message: Bytes, (): &()) -> Result<Framed, Status> {
        let request: RangeRequest = decode_request(message)?;
        match request.limit {
            1 => pending().await,
            2 => {
                tokio::task::yield_now().await;
                Err(Status::new(Code::OutOfRange, "refused\n100%"))
            }
            limit => {
                let value = vec![b'v'; usize::try_from(limit).unwrap_or(0).min(200_000)].into();
                let kvs = vec![KeyValue { value, ..KeyValue::default() }];
                Ok(Framed::encode(&RangeResponse { kvs, ..RangeResponse::default() }))
            }
        }
    }

    async fn stream(
        &self,
        _: Method,
        _: &CallContext,
        mut requests: RequestStream,
        responses: ResponseSink,
    ) -> Result<(), Status> {
        let mut held = responses.hold();
        while let Some(message) = requests.next().await {
            let message = message?;
            held.set(message.len());
            let _: WatchRequest = decode_request(message)?;
            let cancel_reason = "r".repeat(20_000);
            responses.send(Framed::encode(&WatchResponse { cancel_reason, ..WatchResponse::default() })).await?;
        }
        Ok(())
    }

    async fn http(&self, request: HttpRequest) -> HttpResponse {
        let text = format!("{} {} {:?} {:?}", request.method, request.target, request.headers, request.body);
        self.requests.borrow_mut().push(text);
        HttpResponse::text(200, "fine")
    }
}

/// What a connection was.
#[derive(Debug, PartialEq, Eq)]
pub struct Served {
    /// All that came back.
    pub answers: Vec<u8>,
    /// The HTTP/1.1 requests that were taken.
    pub requests: Vec<String>,
}

/// Sends the pieces, each when the server has nothing more to do with those before, closes, and reads all that comes.
/// Panics if the connection doesn't end, or leaves a charge behind.
pub fn serve(pieces: &[&[u8]]) -> Served {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let memory = ShardMemory::new(Memory::new(8 << 20, 1));
    let handler = Rc::<Answers>::default();
    let answers = LocalSet::new().block_on(&runtime, async {
        let limits = Limits { message_bytes_max: 64 << 10, http1_body_bytes_max: 64 << 10, ..Limits::default() };
        let clock = Paused(tokio::time::Instant::now());
        let server = Server::new(handler.clone(), clock, limits).within_memory(memory.clone());
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (mut reader, mut writer) = tokio::io::split(ours);
        let serving = tokio::task::spawn_local(async move {
            serve_connection(theirs, Peer::Local, &server, pending()).await;
        });
        let reading = tokio::task::spawn_local(async move {
            let mut answers = Vec::new();
            let _ = reader.read_to_end(&mut answers).await;
            answers
        });
        for piece in pieces {
            if writer.write_all(piece).await.is_err() {
                break;
            }
            // The paused clock moves on only when all tasks wait.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let _ = writer.shutdown().await;
        // Longer than every timeout of a connection; the clock is not the wall's.
        tokio::time::timeout(Duration::from_secs(100_000), serving).await.expect("it ends").expect("no panic");
        drop(writer);
        reading.await.expect("no panic")
    });
    assert_eq!(memory.held_bytes(), 0, "something is still charged");
    let requests = handler.requests.take();
    Served { answers, requests }
}
