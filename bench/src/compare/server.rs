//! A server of the comparison: its processes, a folder and two ports each.

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
use ringstone_proto::etcdserverpb::{RangeRequest, RangeResponse, StatusRequest, StatusResponse};

use super::{CompareOptions, Side};
use crate::interrupt::Interrupt;
use crate::process::pin;
use crate::{BenchError, session};

/// Between two attempts to get the first answer.
const ATTEMPT: Duration = Duration::from_millis(2);
/// For a cluster to have a leader.
const LEADER_PATIENCE: Duration = Duration::from_secs(20);
/// For a server to end after SIGTERM before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// One member, or the members of a cluster: processes that are ended with the value.
pub(super) struct Server {
    pub side: Side,
    members: Vec<Member>,
}

struct Member {
    place: Place,
    child: Child,
}

/// What stays the same when the process starts again.
#[derive(Clone)]
struct Place {
    name: String,
    port: u16,
    peer_port: u16,
    data_dir: PathBuf,
    log: PathBuf,
}

impl Place {
    fn new(folder: &Path, side: Side, name: String) -> Result<Place, BenchError> {
        let path = |end: &str| folder.join(format!("{}-{name}{end}", side.name()));
        let (data_dir, log) = (path(""), path(".log"));
        Ok(Place { name, port: free_port(folder)?, peer_port: free_port(folder)?, data_dir, log })
    }

    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }
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
        let names = (0..options.members).map(|number| format!("m{number}"));
        let places: Vec<Place> = names.map(|name| Place::new(folder, side, name)).collect::<Result<_, _>>()?;
        let mut server = Server { side, members: Vec::new() };
        server.spawn(options, places)?;
        server.first_answer(options, patience, interrupt).await?;
        Ok(server)
    }

    /// Starts it again on its folders and ports, and waits for its first answer.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_again(
        &mut self,
        options: &CompareOptions,
        patience: Duration,
        interrupt: &Interrupt,
    ) -> Result<(), BenchError> {
        let places = self.members.drain(..).map(|member| member.place).collect();
        self.spawn(options, places)?;
        self.first_answer(options, patience, interrupt).await
    }

    fn spawn(&mut self, options: &CompareOptions, places: Vec<Place>) -> Result<(), BenchError> {
        let cluster: Vec<String> = places.iter().map(|place| format!("{}={}", place.name, place.peer_url())).collect();
        for place in places {
            let child = spawn(options, self.side, &place, &cluster.join(","))?;
            self.members.push(Member { place, child });
        }
        Ok(())
    }

    /// Waits until every member answers a linearizable read.
    ///
    /// # Errors
    /// One has ended, or does not answer in time.
    pub async fn first_answer(
        &mut self,
        options: &CompareOptions,
        patience: Duration,
        interrupt: &Interrupt,
    ) -> Result<(), BenchError> {
        let began = Instant::now();
        for member in &mut self.members {
            let left = patience.saturating_sub(began.elapsed());
            member.first_answer(program(options, self.side), left, interrupt).await?;
        }
        Ok(())
    }

    /// Where all its members are, with commas between them.
    pub fn endpoints(&self) -> String {
        let endpoints: Vec<String> = self.members.iter().map(|member| member.place.endpoint()).collect();
        endpoints.join(",")
    }

    /// Where the member is that leads.
    ///
    /// # Errors
    /// None of them says that it does.
    pub async fn leader(&self) -> Result<String, BenchError> {
        let began = Instant::now();
        while began.elapsed() < LEADER_PATIENCE {
            for member in &self.members {
                let endpoint = member.place.endpoint();
                if leads(&endpoint).await? {
                    return Ok(endpoint);
                }
            }
            tokio::time::sleep(ATTEMPT).await;
        }
        Err(session::unreachable(&self.endpoints(), &"no member leads"))
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.child.id()).collect()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        for member in &mut self.members {
            // An error means that it has ended.
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }

    /// Its processes stand still.
    pub fn pause(&self) {
        self.members.iter().for_each(|member| member.signal(libc::SIGSTOP));
    }

    /// They go on.
    pub fn resume(&self) {
        self.members.iter().for_each(|member| member.signal(libc::SIGCONT));
    }

    /// Bytes that the logs and the rest of the data folders take on disk.
    pub fn file_bytes(&self) -> (u64, u64) {
        let mut log_and_store = (0, 0);
        self.members.iter().for_each(|member| add_files(&member.place.data_dir, false, &mut log_and_store));
        log_and_store
    }

    /// A sample of /metrics that has no labels, the sum over the members; none where it is not there.
    pub async fn metric(&self, name: &str) -> Option<u64> {
        self.members.iter().map(|member| member.metric(name)).sum()
    }
}

impl Member {
    async fn first_answer(
        &mut self,
        program: &Path,
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
            match answers(&self.place.endpoint()).await {
                Ok(()) => return Ok(()),
                Err(error) => cause = error.to_string(),
            }
            tokio::time::sleep(ATTEMPT).await;
        }
        if interrupt.is_set() {
            return Err(BenchError::Interrupted);
        }
        let log = fs::read_to_string(&self.place.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        Err(BenchError::Server {
            program: program.to_owned(),
            seconds: patience.as_secs(),
            cause,
            log: lines[lines.len().saturating_sub(10)..].join("\n"),
        })
    }

    fn metric(&self, name: &str) -> Option<u64> {
        let mut stream = TcpStream::connect(self.place.endpoint()).ok()?;
        stream.set_read_timeout(Some(STOP_PATIENCE)).ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
        line.split(' ').nth(1)?.parse::<f64>().ok().map(|value| value as u64)
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill takes two numbers; the process is our child and not waited for, so the pid is still its own.
        unsafe { libc::kill(libc::pid_t::try_from(self.child.id()).unwrap_or(libc::pid_t::MAX), signal) };
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let began = Instant::now();
        for member in &mut self.members {
            if let Ok(None) = member.child.try_wait() {
                member.signal(libc::SIGCONT);
                member.signal(libc::SIGTERM);
            }
        }
        while began.elapsed() < STOP_PATIENCE {
            let has_ended = |member: &mut Member| !matches!(member.child.try_wait(), Ok(None));
            if self.members.iter_mut().all(has_ended) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }
}

fn spawn(options: &CompareOptions, side: Side, place: &Place, cluster: &str) -> Result<Child, BenchError> {
    let program = program(options, side);
    let output = File::create(&place.log).map_err(BenchError::io("make", &place.log))?;
    let errors = output.try_clone().map_err(BenchError::io("share", &place.log))?;
    let mut command = Command::new(program);
    if side == Side::Ringstone {
        // etcd sees by its affinity mask that it has one core.
        command.args(["serve", "--shards=1"]);
    }
    let (client, peer) = (format!("http://{}", place.endpoint()), place.peer_url());
    command
        .arg(format!("--name={}", place.name))
        .arg(format!("--data-dir={}", place.data_dir.display()))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster={cluster}"))
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

/// Asks a member whether it leads.
async fn leads(endpoint: &str) -> Result<bool, BenchError> {
    let client = session::connect(endpoint).await?;
    let bounded = CallOptions { timeout: Some(Duration::from_secs(5)), ..CallOptions::default() };
    let answer: Result<StatusResponse, Status> =
        client.unary(Method::MaintenanceStatus, &StatusRequest::default(), &bounded).await;
    let answer = answer.map_err(|status| session::unreachable(endpoint, &status.message))?;
    Ok(answer.header.is_some_and(|header| header.member_id == answer.leader))
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
