//! What tests of the whole program share: a member that runs.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const RINGSTONE: &str = env!("CARGO_BIN_EXE_ringstone");

pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
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
}

impl Member {
    #[allow(dead_code, reason = "not every test's member runs without flags")]
    pub fn start(data_dir: &Path) -> Member {
        Member::start_with(data_dir, &[])
    }

    pub fn start_with(data_dir: &Path, more: &[&str]) -> Member {
        let port = free_port();
        let log = File::create(data_dir.with_extension("log")).unwrap();
        let mut command = Command::new(RINGSTONE);
        command.args(arguments(data_dir, port)).args(more).stdout(Stdio::null()).stderr(log);
        let member = Member { child: command.spawn().unwrap(), port };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() || !member.is_ready(data_dir) {
            assert!(began.elapsed() < Duration::from_secs(30), "it serves");
            std::thread::sleep(Duration::from_millis(20));
        }
        member
    }

    fn is_ready(&self, data_dir: &Path) -> bool {
        fs::read_to_string(data_dir.with_extension("log")).unwrap().contains("ready to serve")
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
