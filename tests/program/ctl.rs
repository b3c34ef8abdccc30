//! `ringstone ctl` where the other side is no etcd, and where its user has seen enough: a message that names the cause,
//! etcdctl's exit status, nothing left behind. What it prints beside a server: tests/clients/etcdctl.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Member, RINGSTONE, folder, free_port};

fn ctl(port: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new(RINGSTONE);
    command.arg("ctl").arg(format!("--endpoints=127.0.0.1:{port}")).args(arguments);
    command
}

fn done(port: u16, arguments: &[&str]) -> Output {
    ctl(port, arguments).stdin(Stdio::null()).output().unwrap()
}

/// Listens, and hands each connection to `serve`.
fn listen(serve: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().for_each(|stream| serve(stream.unwrap())));
    port
}

fn answers_with_http_1(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 1024]);
    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
}

fn says_nothing(stream: TcpStream) {
    // Open until the test ends.
    std::mem::forget(stream);
}

#[test]
fn an_endpoint_that_is_no_etcd() {
    let root = folder();
    let file = root.path().join("snapshot");
    let commands: [(&[&str], i32); 6] = [
        (&["get", "a"], 1),
        (&["put", "a", "1"], 1),
        (&["watch", "a"], 1),
        (&["endpoint", "status"], 1),
        (&["lease", "keep-alive", "77"], 2),
        (&["snapshot", "save", file.to_str().unwrap()], 5),
    ];
    let hint = "is it a server of the etcd API?";
    for (port, causes) in [
        (listen(answers_with_http_1), ["does not speak HTTP/2", hint]),
        (listen(drop), ["does not speak HTTP/2", hint]),
        (listen(says_nothing), ["handshake timeout", hint]),
        (free_port(), ["Connection refused", ""]),
    ] {
        for (command, status) in commands {
            let began = Instant::now();
            let output = done(port, &[command, &["--dial-timeout=300ms"]].concat());
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(status), "{command:?}: {text}");
            assert_eq!(text.lines().count(), 1, "{command:?}: one message: {text}");
            let address = format!("can't connect to 127.0.0.1:{port}: ");
            assert!(text.contains(&address), "{command:?}: {text}");
            assert!(causes.iter().all(|cause| text.contains(cause)), "{command:?}, {causes:?}: {text}");
            assert!(began.elapsed() < Duration::from_secs(5), "{command:?} took {:?}", began.elapsed());
        }
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "no file was left");
}

/// A client that runs until it gets a signal.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(port: u16, arguments: &[&str]) -> Running {
        let mut command = ctl(port, arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Running { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    /// Sends the signal; the end comes at once, with etcdctl's status for it.
    fn ends_with(mut self, signal: libc::c_int, word: &str) {
        // SAFETY: our own child, not waited for yet.
        assert_eq!(unsafe { libc::kill(self.child.id().cast_signed(), signal) }, 0);
        eventually("it ends", || self.child.try_wait().unwrap().is_some());
        // Standard input stays open until here: nobody may wait for it.
        let output = self.child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.trim()), (Some(5), format!("Error: {word}").as_str()));
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn interrupted_streams() {
    let root = folder();
    let member = Member::start(&root.path().join("data"));
    assert!(done(member.port, &["put", "a", "1"]).status.success());

    let mut watch = Running::start(member.port, &["watch", "a", "--rev=1"]);
    assert_eq!([watch.line(), watch.line(), watch.line()], ["PUT\n", "a\n", "1\n"]);
    watch.ends_with(libc::SIGINT, "interrupted");

    let mut typed = Running::start(member.port, &["watch", "-i"]);
    typed.child.stdin.as_mut().unwrap().write_all(b"watch a --rev=1\n").unwrap();
    assert_eq!(typed.line(), "PUT\n");
    typed.ends_with(libc::SIGINT, "interrupted");

    let granted = String::from_utf8(done(member.port, &["lease", "grant", "600"]).stdout).unwrap();
    let mut lease = Running::start(member.port, &["lease", "keep-alive", granted.split(' ').nth(1).unwrap()]);
    assert!(lease.line().contains("keepalived with TTL(600)"));
    lease.ends_with(libc::SIGTERM, "terminated");

    // Whether it waits already or not: the value never comes.
    let put = Running::start(member.port, &["put", "b"]);
    thread::sleep(Duration::from_millis(200));
    put.ends_with(libc::SIGINT, "interrupted");
    assert!(done(member.port, &["get", "b"]).stdout.is_empty());
    member.stop();
}

/// A signal for the client alone, as `kill` sends it, ends the command of a watch too.
#[test]
fn an_interrupted_command_of_a_watch() {
    let root = folder();
    let member = Member::start(&root.path().join("data"));
    assert!(done(member.port, &["put", "a", "1"]).status.success());
    let mut watch = Running::start(
        member.port,
        &["watch", "a", "--rev=1", "--", "sh", "-c", "echo $$; exec sleep 60 >/dev/null 2>&1"],
    );
    let lines = [watch.line(), watch.line(), watch.line(), watch.line()];
    let process = format!("/proc/{}/stat", lines[3].trim());
    assert!(Path::new(&process).exists(), "{lines:?}");
    watch.ends_with(libc::SIGINT, "interrupted");
    // Gone, or nobody's zombie in a container whose first process waits for none.
    eventually("the command ends", || fs::read_to_string(&process).map_or(true, |stat| stat.contains(") Z ")));
    member.stop();
}

/// A connection to `port` over which only so many bytes come back.
fn stalling(port: u16, bytes: u64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own_port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let client = listener.accept().unwrap().0;
        let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
        let _ = std::io::copy(&mut (&server).take(bytes), &mut &client);
        thread::park();
    });
    own_port
}

#[test]
fn an_interrupted_snapshot() {
    let root = folder();
    let member = Member::start(&root.path().join("data"));
    let value = root.path().join("value");
    fs::write(&value, vec![b'x'; 1 << 20]).unwrap();
    for key in ["a", "b"] {
        let put = ctl(member.port, &["put", key]).stdin(File::open(&value).unwrap()).output().unwrap();
        assert!(put.status.success());
    }
    let saved = root.path().join("saved");
    fs::create_dir(&saved).unwrap();
    let (file, part) = (saved.join("snapshot"), saved.join("snapshot.part"));
    fs::write(&file, "an older one").unwrap();
    for (signal, word) in [(libc::SIGINT, "interrupted"), (libc::SIGTERM, "terminated")] {
        let port = stalling(member.port, 600 << 10);
        let save = Running::start(port, &["snapshot", "save", file.to_str().unwrap()]);
        eventually("a part was written", || fs::metadata(&part).is_ok_and(|part| part.len() > 0));
        save.ends_with(signal, word);
        assert!(!part.exists(), "the part was removed");
        assert_eq!(fs::read_to_string(&file).unwrap(), "an older one");
    }
    member.stop();
}

/// What a shell offers behind these words: the script in a real bash.
fn completed(words: &[&str]) -> Vec<String> {
    let script = Command::new(RINGSTONE).args(["ctl", "completion", "bash"]).output().unwrap();
    assert!(script.status.success());
    let (last, all) = (words[words.len() - 1], words.iter().map(|word| format!("'{word}' ")).collect::<String>());
    let asks = format!(
        "COMP_WORDS=({all}); COMP_CWORD={}; _ringstone ringstone '{last}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.len() - 1
    );
    let text = [&script.stdout[..], asks.as_bytes()].concat();
    let root = folder();
    fs::write(root.path().join("script"), text).unwrap();
    let output = Command::new("bash").arg(root.path().join("script")).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn completion_and_options_know_the_command_line() {
    assert_eq!(completed(&["ringstone", "ctl", "comple"]), ["completion"]);
    assert_eq!(completed(&["ringstone", "ctl", "lease", "time"]), ["timetolive"]);
    assert_eq!(completed(&["ringstone", "ctl", "get", "--keys"]), ["--keys-only"]);
    for shell in ["zsh", "fish", "powershell"] {
        let output = Command::new(RINGSTONE).args(["ctl", "completion", shell]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("make-mirror"), "{shell}");
    }
    for wrong in [&["completion"][..], &["completion", "nosuch"], &["completion", "bash", "more"]] {
        assert_eq!(Command::new(RINGSTONE).arg("ctl").args(wrong).output().unwrap().status.code(), Some(1));
    }
    let options = Command::new(RINGSTONE).args(["ctl", "options"]).output().unwrap();
    let text = String::from_utf8(options.stdout).unwrap();
    for flag in ["--endpoints", "--write-out", "--hex", "--dial-timeout", "--command-timeout", "--insecure-transport"] {
        assert!(options.status.success() && text.contains(flag), "{flag} in {text}");
    }
    assert!(!text.contains("--keys-only"), "only what all commands take");
}
