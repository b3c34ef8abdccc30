//! What tests of the whole program share: a member that runs.

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const RINGSTONE: &str = env!("CARGO_BIN_EXE_ringstone");

pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A port that nobody has, by TCP or UDP. Not one of those that the system gives to whoever asks for any (from 32 768 on): that would
/// have another owner now and then by the time a member binds it.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let from = std::process::id().wrapping_mul(97);
    loop {
        let number = from.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(number).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub fn arguments(data_dir: &Path, port: u16) -> Vec<String> {
    let url = format!("http://127.0.0.1:{port}");
    vec![
        "serve".to_owned(),
        format!("--data-dir={}", data_dir.display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
    ]
}

/// A member that runs; killed with the value.
pub struct Member {
    child: Child,
    pub port: u16,
    log: PathBuf,
}

impl Member {
    pub fn start(data_dir: &Path) -> Member {
        Member::start_with(data_dir, &[])
    }

    pub fn start_with(data_dir: &Path, more: &[&str]) -> Member {
        let member = Member::spawn(data_dir, more);
        member.wait_until_ready();
        member
    }

    /// Begins a member; one of several is ready once a quorum is there.
    pub fn spawn(data_dir: &Path, more: &[&str]) -> Member {
        let port = free_port();
        let path = data_dir.with_extension("log");
        let log = File::create(&path).unwrap();
        let mut command = Command::new(RINGSTONE);
        command.args(arguments(data_dir, port)).args(more).stdout(Stdio::null()).stderr(log);
        Member { child: command.spawn().unwrap(), port, log: path }
    }

    pub fn wait_until_ready(&self) {
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() || !self.log().contains("ready to serve")
        {
            let waits = began.elapsed() < Duration::from_secs(60) && !self.has_ended();
            assert!(waits, "it serves:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A zombie: nobody has asked for its status yet.
    fn has_ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    }

    /// What it has logged since it was started.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until its log has these words.
    pub fn wait_for_log(&self, words: &str) {
        let began = Instant::now();
        while !self.log().contains(words) {
            assert!(began.elapsed() < Duration::from_secs(30), "{words:?} is not in the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its exit status, once it ends by itself.
    pub fn wait_for_end(&mut self) -> Option<i32> {
        let began = Instant::now();
        while self.is_running() {
            assert!(began.elapsed() < Duration::from_secs(30), "it ends:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        self.child.wait().unwrap().code()
    }

    pub fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "SIGTERM ends it with success");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
