//! The line about a slow request, from the program as it ships: which stage it names, and that it tells no content.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ringstone_net::client::{CallOptions, Client, ClientOptions};
use ringstone_net::{Method, TokioRuntime};
use ringstone_proto::etcdserverpb::{PutRequest, PutResponse, RangeRequest, RangeResponse};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::support::free_port;

const MESSAGE: &str = "apply request took too long";

/// A member that runs; killed with the value.
struct Member {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Member {
    fn start(flags: &[&str]) -> Member {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (url, log) = (format!("http://{address}"), folder.path().join("log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringstone"));
        command.arg("serve").arg(format!("--data-dir={}", folder.path().join("data").display()));
        command.args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")]);
        command.args(flags).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let member = Member { child: command.spawn().unwrap(), address, log, _folder: folder };
        let began = Instant::now();
        while !fs::read_to_string(&member.log).unwrap().contains("ready to serve") {
            assert!(began.elapsed() < Duration::from_secs(30), "it serves");
            std::thread::sleep(Duration::from_millis(20));
        }
        member
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The first line about a slow call of this method; it may come a moment after the answer.
    fn slow(&self, method: &str) -> Value {
        let began = Instant::now();
        loop {
            let log = self.log();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.find(|line| line["msg"] == MESSAGE && line["method"] == method) {
                return line;
            }
            assert!(began.elapsed() < Duration::from_secs(5), "no line about {method} in:\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client's socket that is not read from for a while, once `after` bytes have come.
struct Lazy {
    socket: TcpStream,
    after: usize,
    read: usize,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
    paused: bool,
}

const PAUSE: Duration = Duration::from_millis(700);

impl AsyncRead for Lazy {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read > self.after && !self.paused {
            self.paused = true;
            self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
        }
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        self.read += buffer.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lazy {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Puts `count` values of `bytes`, then gets them all; the reader pauses once `pause_after` bytes have come.
fn put_and_get(member: &Member, count: usize, bytes: usize, pause_after: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let socket = TcpStream::connect(member.address).await.unwrap();
        let lazy = Lazy { socket, after: pause_after, read: 0, pause: None, paused: false };
        let options = ClientOptions::new(member.address.to_string());
        let client = Client::connect(lazy, &options, &TokioRuntime::default()).await.unwrap();
        let none = CallOptions::default();
        for number in 0..count {
            let key = format!("hidden-key/{number}").into();
            let put = PutRequest { key, value: b"hidden-value".repeat(bytes / 12).into(), ..PutRequest::default() };
            let _: PutResponse = client.unary(Method::KvPut, &put, &none).await.unwrap();
        }
        let all =
            RangeRequest { key: "hidden-key/".into(), range_end: "hidden-key0".into(), ..RangeRequest::default() };
        let answer: RangeResponse = client.unary(Method::KvRange, &all, &none).await.unwrap();
        assert_eq!(answer.kvs.len(), count);
    });
}

/// Where everything counts as slow, a write tells of the stages of a write and a read of those of a read.
#[test]
fn each_kind_of_request_lists_its_stages() {
    let member = Member::start(&["--warning-unary-request-duration=1ns", "--warning-apply-duration=10s"]);
    put_and_get(&member, 3, 120, usize::MAX);
    let put = member.slow("/etcdserverpb.KV/Put");
    let stages = put["stages"].as_str().unwrap();
    for stage in ["queue=", "wal=", "commit=", "apply=", "answer="] {
        assert!(stages.contains(stage), "{stage} in {put}");
    }
    assert!(!stages.contains("read=") && !stages.contains("unanswered="), "{put}");
    assert_eq!((&put["key-bytes"], &put["range-end-bytes"]), (&Value::from(12), &Value::from(0)), "{put}");
    assert_eq!((&put["level"], &put["expected-duration"], &put["code"]), (&"warn".into(), &"1ns".into(), &"OK".into()));
    assert!(put["request-bytes"].as_u64().unwrap() > 120 && put["took"].as_str().unwrap().ends_with('s'), "{put}");
    let range = member.slow("/etcdserverpb.KV/Range");
    let stages = range["stages"].as_str().unwrap();
    assert!(stages.starts_with("read=") && !stages.contains("wal="), "{range}");
    assert_eq!((&range["key-bytes"], &range["range-end-bytes"]), (&Value::from(11), &Value::from(11)), "{range}");
    assert!(range["response-bytes"].as_u64().unwrap() > 360, "{range}");
    assert!(!member.log().contains("hidden"), "keys and values stay out of the log");
}

/// Nobody's disk and nobody's tree is to blame where a client does not read its answer.
#[test]
fn a_client_that_does_not_read_is_named() {
    // A busy machine may take as long to read 16 MiB as is warned of.
    let member = Member::start(&["--warning-apply-duration=10s"]);
    put_and_get(&member, 16, 1 << 20, 1 << 20);
    let range = member.slow("/etcdserverpb.KV/Range");
    assert_eq!(range["stage"], "client", "{range}");
    let took = range["took"].as_str().unwrap();
    assert!(range["response-bytes"].as_u64().unwrap() > 15 << 20, "{range}");
    assert_eq!(range["expected-duration"], "300ms", "{range}");
    assert!(took.contains("ms") || took.ends_with('s'), "{range}");
}
