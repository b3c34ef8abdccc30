//! A server of the comparison: one process, one folder, one port.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringstone_net::client::CallOptions;
use ringstone_net::{Method, Status};
use ringstone_proto::etcdserverpb::{RangeRequest, RangeResponse};

use super::{CompareOptions, Side};
use crate::interrupt::Interrupt;
use crate::process::pin;
use crate::{BenchError, session};

/// Between two attempts to get the first answer.
const ATTEMPT: Duration = Duration::from_millis(2);
/// For a server to end after SIGTERM before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A process that is ended with the value.
pub(super) struct Server {
    pub side: Side,
    child: Child,
    port: u16,
    peer_port: u16,
    data_dir: PathBuf,
    log: PathBuf,
}

fn free_port(folder: &Path) -> Result<u16, BenchError> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(BenchError::io("find a free port for", folder))
}

fn program(options: &CompareOptions, side: Side) -> &Path {
    match side {
        Side::Ringstone => &options.ringstone,
        Side::Etcd => &options.etcd,
    }
}

/// The first line of `--version`.
pub(super) fn version(options: &CompareOptions, side: Side) -> Result<String, BenchError> {
    let program = program(options, side);
    let output = Command::new(program).arg("--version").output().map_err(BenchError::io("run", program))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("no version").to_owned())
}

/// Forgets what the machine has cached of all files.
pub(super) fn drop_caches() -> Result<(), BenchError> {
    let path = "/proc/sys/vm/drop_caches";
    // SAFETY: sync takes nothing and touches no memory of this process.
    unsafe { libc::sync() };
    fs::write(path, "3").map_err(BenchError::io("write (it needs root)", path))
}

impl Server {
    /// Starts a server on an empty folder and waits for its first answer.
    ///
    /// # Errors
    /// It can't be started or does not answer; then its process is gone.
    pub async fn start(
        options: &CompareOptions,
        side: Side,
        folder: &Path,
        patience: Duration,
        interrupt: &Interrupt,
    ) -> Result<Server, BenchError> {
        let (port, peer_port) = (free_port(folder)?, free_port(folder)?);
        let data_dir = folder.join(side.name());
        let log = folder.join(format!("{}.log", side.name()));
        let child = spawn(options, side, &data_dir, &log, (port, peer_port))?;
        let mut server = Server { side, child, port, peer_port, data_dir, log };
        server.first_answer(options, patience, interrupt).await?;
        Ok(server)
    }

    /// Starts it again on its folder and ports, and waits for its first answer.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_again(
        &mut self,
        options: &CompareOptions,
        patience: Duration,
        interrupt: &Interrupt,
    ) -> Result<(), BenchError> {
        self.child = spawn(options, self.side, &self.data_dir, &self.log, (self.port, self.peer_port))?;
        self.first_answer(options, patience, interrupt).await
    }

    async fn first_answer(
        &mut self,
        options: &CompareOptions,
        patience: Duration,
        interrupt: &Interrupt,
    ) -> Result<(), BenchError> {
        let began = Instant::now();
        let mut cause = String::from("no attempt was made");
        while began.elapsed() < patience && !interrupt.is_set() {
            if let Ok(Some(status)) = self.child.try_wait() {
                cause = format!("it has ended: {status}");
                break;
            }
            match answers(&self.endpoint()).await {
                Ok(()) => return Ok(()),
                Err(error) => cause = error.to_string(),
            }
            tokio::time::sleep(ATTEMPT).await;
        }
        if interrupt.is_set() {
            return Err(BenchError::Interrupted);
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        Err(BenchError::Server {
            program: program(options, self.side).to_owned(),
            seconds: patience.as_secs(),
            cause,
            log: lines[lines.len().saturating_sub(10)..].join("\n"),
        })
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Bytes that the log and the rest of the data folder take on disk.
    pub fn file_bytes(&self) -> (u64, u64) {
        let mut log_and_store = (0, 0);
        add_files(&self.data_dir, false, &mut log_and_store);
        log_and_store
    }

    /// A sample of /metrics that has no labels; none where it is not there.
    pub async fn metric(&self, name: &str) -> Option<u64> {
        let mut stream = TcpStream::connect(self.endpoint()).ok()?;
        stream.set_read_timeout(Some(STOP_PATIENCE)).ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
        line.split(' ').nth(1)?.parse::<f64>().ok().map(|value| value as u64)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // SAFETY: kill takes two numbers; the process is our child and not waited for, so the pid is still its own.
            unsafe { libc::kill(libc::pid_t::try_from(self.child.id()).unwrap_or(libc::pid_t::MAX), libc::SIGTERM) };
            let began = Instant::now();
            while began.elapsed() < STOP_PATIENCE {
                if let Ok(Some(_)) | Err(_) = self.child.try_wait() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.kill();
    }
}

fn spawn(
    options: &CompareOptions,
    side: Side,
    data_dir: &Path,
    log: &Path,
    (port, peer_port): (u16, u16),
) -> Result<Child, BenchError> {
    let program = program(options, side);
    let output = File::create(log).map_err(BenchError::io("make", log))?;
    let errors = output.try_clone().map_err(BenchError::io("share", log))?;
    let mut command = Command::new(program);
    if side == Side::Ringstone {
        // etcd sees by its affinity mask that it has one core.
        command.args(["serve", "--shards=1"]);
    }
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    command
        .arg(format!("--data-dir={}", data_dir.display()))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=default={peer}"))
        .arg(format!("--quota-backend-bytes={}", options.quota_bytes))
        .arg("--log-level=warn")
        .args(&options.server_flags)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        // Ctrl-C is for this program, which ends the servers.
        .process_group(0);
    // The child inherits this thread's core.
    let bind = |core: usize| pin(core).map_err(BenchError::io("bind to core", core.to_string()));
    bind(options.server_core)?;
    let child = command.spawn().map_err(BenchError::io("run", program));
    bind(options.generator_core)?;
    child
}

/// One read, over a connection of its own.
async fn answers(endpoint: &str) -> Result<(), BenchError> {
    let client = session::connect(endpoint).await?;
    let get = RangeRequest { key: session::key(0), ..RangeRequest::default() };
    let bounded = CallOptions { timeout: Some(Duration::from_secs(5)), ..CallOptions::default() };
    let answer: Result<RangeResponse, Status> = client.unary(Method::KvRange, &get, &bounded).await;
    answer.map(drop).map_err(|status| session::unreachable(endpoint, &status.message))
}

fn add_files(folder: &Path, in_log: bool, sums: &mut (u64, u64)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            add_files(&entry.path(), in_log || entry.file_name() == "wal", sums);
            continue;
        }
        let sum = if in_log { &mut sums.0 } else { &mut sums.1 };
        *sum += metadata.blocks() * 512;
    }
}
