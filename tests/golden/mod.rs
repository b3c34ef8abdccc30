//! Does this program open what every version before it wrote?
//!
//! `tests/golden/VERSION/` was made by that version's real binary (`tests/golden/make VERSION`) and is never changed:
//!
//! | archive | | listing |
//! |---|---|---|
//! | `stopped.tar.gz` | a data folder, its member stopped by SIGTERM: everything is in the page file | `stopped.txt` |
//! | `killed.tar.gz` | the same store, its member killed: what it holds is in the log | `killed.txt` |
//! | `snapshot.tar.gz` | a snapshot file of the first | `snapshot.txt` |
//!
//! Each is unpacked, started, read back through the API down to the last event and held against its listing; then it takes
//! a write, and has it after a restart. That a changed byte fails: `core/src/entry/golden.rs` and the tests of the
//! format documents.

mod fill;
mod listing;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Member, RINGSTONE, folder};
use listing::Side;
use ringstone_net::client::{CallOptions, Client, ClientOptions};
use ringstone_net::{Method, TokioRuntime};
use ringstone_proto::etcdserverpb::alarm_request::AlarmAction;
use ringstone_proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, PutRequest, PutResponse, RangeRequest, RangeResponse,
};

/// Names a version to make: what `tests/golden/make` sets.
const MAKE: &str = "RINGSTONE_GOLDEN_MAKE";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn versions() -> Vec<PathBuf> {
    let entries = fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path());
    let mut versions: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    versions.sort();
    versions
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn unpack(archive: &Path, into: &Path) {
    run("tar", &["-xzf", archive.to_str().unwrap(), "-C", into.to_str().unwrap()]);
}

/// Packs what stands under `name` in `root`; zeros stay holes.
fn pack(root: &Path, name: &str, archive: &Path) {
    let (from, sparse) = (root.join(name), root.join("sparse"));
    fs::create_dir(&sparse).unwrap();
    run("cp", &["-r", "--sparse=always", from.to_str().unwrap(), sparse.to_str().unwrap()]);
    let plain = ["--sparse", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"];
    let places = ["-czf", archive.to_str().unwrap(), "-C", sparse.to_str().unwrap(), name];
    run("tar", &[&plain[..], &places].concat());
    fs::remove_dir_all(&sparse).unwrap();
}

fn restore(snapshot: &Path, data: &Path) {
    let data = format!("--data-dir={}", data.display());
    run(RINGSTONE, &["snapshot", "restore", snapshot.to_str().unwrap(), &data]);
}

/// Talks to a member.
fn with<T>(member: &Member, talk: impl AsyncFnOnce(&Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", member.port)).await.unwrap();
        let options = ClientOptions::new(format!("127.0.0.1:{}", member.port));
        let client = Client::connect(stream, &options, &TokioRuntime::default()).await.unwrap();
        talk(&client).await
    })
}

/// Starts a member on the folder, lists all that it has, and stops it.
fn listed(data: &Path, side: Side) -> String {
    let member = Member::start(data);
    let text = with(&member, async |client| listing::listing(client, side).await);
    member.stop();
    text
}

fn compare(found: &str, expected: &Path) {
    let wanted = fs::read_to_string(expected).unwrap();
    let lines = found.lines().zip(wanted.lines()).enumerate();
    for (number, (found, wanted)) in lines {
        assert_eq!(found, wanted, "{}:{}", expected.display(), number + 1);
    }
    assert_eq!(found.lines().count(), wanted.lines().count(), "{}: lines", expected.display());
}

/// It is no museum: the next write has the next revision and outlives a restart.
fn goes_on(data: &Path) {
    let request = PutRequest { key: b"after".to_vec().into(), value: b"all".to_vec().into(), ..PutRequest::default() };
    let options = CallOptions::default();
    // A NOSPACE alarm refuses puts.
    let disarm =
        AlarmRequest { action: AlarmAction::Deactivate as i32, member_id: 77, alarm: AlarmType::Nospace as i32 };
    let member = Member::start(data);
    let put = with(&member, async |client| {
        client.unary::<_, AlarmResponse>(Method::MaintenanceAlarm, &disarm, &options).await.unwrap();
        client.unary::<_, PutResponse>(Method::KvPut, &request, &options).await.unwrap()
    });
    drop(member);
    let member = Member::start(data);
    let range = RangeRequest { key: b"after".to_vec().into(), ..RangeRequest::default() };
    let read = with(&member, async |client| {
        client.unary::<_, RangeResponse>(Method::KvRange, &range, &options).await.unwrap()
    });
    assert_eq!(read.kvs[0].mod_revision, put.header.unwrap().revision, "{}", data.display());
    member.stop();
}

#[test]
fn every_version_opens() {
    if let Ok(version) = std::env::var(MAKE) {
        make(&golden().join(version));
    }
    let versions = versions();
    assert!(!versions.is_empty(), "no version's folders in {}", golden().display());
    for version in versions {
        let root = folder();
        for name in ["stopped", "killed", "snapshot"] {
            unpack(&version.join(format!("{name}.tar.gz")), root.path());
            let (mut data, mut side) = (root.path().join(name), Side::Folder);
            if name == "snapshot" {
                restore(&root.path().join("snapshot/snapshot.db"), &root.path().join("restored"));
                (data, side) = (root.path().join("restored"), Side::Restored);
            }
            let expected = version.join(format!("{name}.txt"));
            compare(&listed(&data, side), &expected);
            if name == "killed" {
                // Stopped by now: what it replayed is in its page file.
                compare(&listed(&data, side), &expected);
            }
            goes_on(&data);
        }
    }
}

/// Makes a version's folders with this program.
fn make(version: &Path) {
    fs::create_dir(version).expect("a version is made once: its folders are what it wrote");
    let root = folder();
    let at = |name: &str| root.path().join(name);
    for name in ["stopped", "killed"] {
        let member = Member::start(&at(name));
        let text = with(&member, async |client| {
            fill::fill(client).await;
            listing::listing(client, Side::Folder).await
        });
        fs::write(version.join(format!("{name}.txt")), text).unwrap();
        if name == "stopped" {
            fs::create_dir(at("snapshot")).unwrap();
            let file = at("snapshot").join("snapshot.db");
            let endpoint = format!("--endpoints=127.0.0.1:{}", member.port);
            run(RINGSTONE, &["snapshot", "save", file.to_str().unwrap(), &endpoint]);
            member.stop();
        } else {
            drop(member);
        }
        pack(root.path(), name, &version.join(format!("{name}.tar.gz")));
    }
    pack(root.path(), "snapshot", &version.join("snapshot.tar.gz"));
    restore(&at("snapshot").join("snapshot.db"), &at("restored"));
    fs::write(version.join("snapshot.txt"), listed(&at("restored"), Side::Restored)).unwrap();
}
