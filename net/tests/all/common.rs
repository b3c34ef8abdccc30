use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, Request};
use ringstone_net::client::{Client, ClientOptions};
use ringstone_net::*;
use ringstone_proto::etcdserverpb::{
    RangeRequest, RangeResponse, SnapshotResponse, WatchRequest, WatchResponse, watch_request::RequestUnion,
};
use ringstone_proto::mvccpb::KeyValue;
use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::rc::Rc;
use tokio::io::DuplexStream;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

/// Answers as the key of the request tells it to.
#[derive(Default)]
pub struct TestHandler {
    pub waiting: Rc<Cell<usize>>,
    pub admitted: RefCell<Vec<Method>>,
    /// A sink that outlives its handler, or that others write to.
    pub sink: RefCell<Option<ResponseSink>>,
    pub flood_sent: Cell<usize>,
    pub ended: RefCell<Vec<UnaryEnd>>,
}

/// Counts the handlers that wait.
pub struct Waiting(Rc<Cell<usize>>);

impl Waiting {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Waiting(count.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

pub fn value_response(bytes: usize) -> RangeResponse {
    let kv = KeyValue { value: vec![b'v'; bytes].into(), ..Default::default() };
    RangeResponse { kvs: vec![kv], count: bytes as i64, ..Default::default() }
}

impl Handler for TestHandler {
    type Notes = ();

    fn admit(&self, method: Method, _: Entry, call: &CallContext) -> Result<(), Status> {
        self.admitted.borrow_mut().push(method);
        match call.metadata_text("token") {
            Some("bad") => Err(Status::new(Code::Unauthenticated, "etcdserver: invalid auth token")),
            _ => Ok(()),
        }
    }

    async fn unary(&self, _: Method, _: &CallContext, message: Bytes, (): &()) -> Result<Framed, Status> {
        let request: RangeRequest = decode_request(message)?;
        match &request.key[..] {
            b"wait" => {
                let _waiting = Waiting::new(&self.waiting);
                pending().await
            }
            b"yield" => {
                tokio::task::yield_now().await;
                Ok(Framed::encode(&value_response(1)))
            }
            b"error" => Err(Status::new(Code::OutOfRange, "100% of ü\nis wrong")),
            b"big" => Ok(Framed::encode(&value_response(request.limit as usize))),
            b"tail" => {
                let tail = prost::Message::encode_to_vec(&value_response(request.limit as usize));
                Ok(Framed::with_tail(&RangeResponse { more: true, ..Default::default() }, tail.into()))
            }
            key => Ok(Framed::encode(&RangeResponse { count: key.len() as i64, ..Default::default() })),
        }
    }

    fn unary_ended(&self, _: Method, _: &CallContext, (): &(), end: UnaryEnd) {
        self.ended.borrow_mut().push(end);
    }

    async fn stream(
        &self,
        method: Method,
        _: &CallContext,
        mut requests: RequestStream,
        responses: ResponseSink,
    ) -> Result<(), Status> {
        let _waiting = Waiting::new(&self.waiting);
        match method {
            Method::MaintenanceSnapshot => {
                requests.only().await?;
                for remaining_bytes in [2, 1, 0] {
                    let blob = vec![b's'; 100_000].into();
                    let response = SnapshotResponse { remaining_bytes, blob, ..Default::default() };
                    responses.send(Framed::encode(&response)).await?;
                }
                Ok(())
            }
            Method::Watch => self.watch(requests, responses).await,
            _ => Err(Status::new(Code::Unimplemented, "not here")),
        }
    }

    async fn http(&self, request: HttpRequest) -> HttpResponse {
        let text = format!(
            "{} {} {:?} body={}",
            request.method,
            request.path(),
            request.query(),
            String::from_utf8_lossy(&request.body)
        );
        HttpResponse::text(200, text)
    }
}

impl TestHandler {
    async fn watch(&self, mut requests: RequestStream, responses: ResponseSink) -> Result<(), Status> {
        let mut watch_id = 0;
        while let Some(message) = requests.next().await {
            let request: WatchRequest = decode_request(message?)?;
            let Some(RequestUnion::CreateRequest(create)) = request.request_union else { continue };
            match &create.key[..] {
                b"keep" => *self.sink.borrow_mut() = Some(responses.clone()),
                b"flood" => loop {
                    let cancel_reason = "f".repeat(10_000);
                    responses.send(Framed::encode(&WatchResponse { cancel_reason, ..Default::default() })).await?;
                    self.flood_sent.set(self.flood_sent.get() + 1);
                },
                _ => {}
            }
            watch_id += 1;
            responses.send(Framed::encode(&WatchResponse { watch_id, created: true, ..Default::default() })).await?;
        }
        Ok(())
    }
}

/// A server with one connection.
pub struct Harness {
    pub handler: Rc<TestHandler>,
    pub metrics: Rc<WireMetrics>,
    pub ended: JoinHandle<ConnectionEnd>,
    shutdown: Option<oneshot::Sender<()>>,
}

impl Harness {
    pub fn start(limits: Limits) -> (Harness, DuplexStream) {
        Harness::start_within(limits, &ShardMemory::new(Memory::new(1 << 30, 1)))
    }

    pub fn start_within(limits: Limits, memory: &Rc<ShardMemory>) -> (Harness, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(256 << 10);
        let handler = Rc::<TestHandler>::default();
        let server = Server::new(handler.clone(), TokioRuntime::default(), limits).within_memory(memory.clone());
        let metrics = server.metrics.clone();
        let (shutdown, asked) = oneshot::channel::<()>();
        let ended = spawn_local(async move {
            let shutdown = async {
                if asked.await.is_err() {
                    pending().await
                }
            };
            serve_connection(theirs, Peer::Local, &server, shutdown).await
        });
        (Harness { handler, metrics, ended, shutdown: Some(shutdown) }, ours)
    }

    pub async fn client(limits: Limits) -> (Harness, Client) {
        let (harness, stream) = Harness::start(limits);
        let options = ClientOptions::new("localhost:2379");
        let client = Client::connect(stream, &options, &TokioRuntime::default()).await.expect("handshake");
        (harness, client)
    }

    pub fn ask_shutdown(&mut self) {
        self.shutdown.take().expect("asked once").send(()).expect("the server waits for it");
    }

    pub async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}

/// Runs a test on one thread, with a clock that runs ahead while nothing else does.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let timed = async { tokio::time::timeout(std::time::Duration::from_secs(20), test).await.expect("in time") };
    LocalSet::new().block_on(&runtime, timed);
}

/// Everything that came back for one HTTP/2 request.
#[derive(Debug)]
pub struct RawAnswer {
    pub http_status: u16,
    pub headers: HeaderMap,
    pub data: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl RawAnswer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// `grpc-status` and the decoded `grpc-message`, from headers or trailers.
    pub fn status(&self) -> (u32, String) {
        let of = |name: &str| self.headers.get(name).or_else(|| self.trailers.as_ref()?.get(name));
        let code = of("grpc-status").expect("a status").to_str().expect("text").parse().expect("a number");
        (code, of("grpc-message").map_or_else(String::new, |value| value.to_str().expect("text").to_owned()))
    }

    pub fn trailers_only(&self) -> bool {
        self.headers.contains_key("grpc-status") && self.trailers.is_none() && self.data.is_empty()
    }
}

/// A plain HTTP/2 client.
pub struct RawClient {
    pub send: h2::client::SendRequest<Bytes>,
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

impl RawClient {
    pub async fn connect(stream: DuplexStream) -> RawClient {
        let (send, connection) = h2::client::handshake(stream).await.expect("handshake");
        RawClient { send, connection: spawn_local(connection) }
    }

    pub async fn call(&mut self, request: Request<()>, body: &[&[u8]]) -> RawAnswer {
        let mut send = self.send.clone().ready().await.expect("open");
        let (response, mut stream) = send.send_request(request, body.is_empty()).expect("sent");
        for (position, part) in body.iter().enumerate() {
            let last = position + 1 == body.len();
            // The server may have answered already.
            let _ = stream.send_data(Bytes::copy_from_slice(part), last);
        }
        let (parts, body) = response.await.expect("a response").into_parts();
        let (data, trailers) = read_all(body).await;
        RawAnswer { http_status: parts.status.as_u16(), headers: parts.headers, data, trailers }
    }
}

pub async fn read_all(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut data = Vec::new();
    while let Some(part) = poll_fn(|cx| body.poll_data(cx)).await {
        let part = part.expect("no reset");
        body.flow_control().release_capacity(part.len()).expect("open");
        data.extend_from_slice(&part);
    }
    (data, poll_fn(|cx| body.poll_trailers(cx)).await.expect("no reset"))
}

pub fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::builder().method("POST").uri(format!("http://localhost{path}"));
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).expect("a request")
}

pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// A message with its prefix.
pub fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut out = vec![flag];
    out.extend((message.len() as u32).to_be_bytes());
    out.extend(message);
    out
}

pub fn range(key: &str) -> Vec<u8> {
    prost::Message::encode_to_vec(&RangeRequest { key: key.to_owned().into(), ..Default::default() })
}
