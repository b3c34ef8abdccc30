//! `ringstone ctl`: etcdctl's words, flags and outputs (simple and JSON), over gRPC to any server of the etcd v3 API.
//!
//! ```text
//! args (clap) -> connect -> kv | txn | watch | lease | cluster | snapshot -> print (simple) or json
//! ```

mod args;
mod cluster;
mod connect;
mod json;
mod kv;
mod lease;
mod snapshot;
mod txn;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Command, Ctl};
pub use cluster::human_bytes;
use connect::Session;

/// Why a command did not succeed: etcdctl's exit status, and the text behind "Error: ".
#[derive(Debug)]
pub struct Failure {
    status: u8,
    text: String,
}

/// etcdctl's exit statuses.
const ERROR: u8 = 1;
const BAD_CONNECTION: u8 = 2;
const INVALID_INPUT: u8 = 3;
const BAD_FEATURE: u8 = 4;
const INTERRUPTED: u8 = 5;
const IO: u8 = 6;
const BAD_ARGUMENTS: u8 = 128;

impl Failure {
    fn new(status: u8, text: impl Into<String>) -> Failure {
        Failure { status, text: text.into() }
    }

    fn arguments(text: impl Into<String>) -> Failure {
        Failure::new(BAD_ARGUMENTS, text)
    }
}

type Outcome = Result<(), Failure>;

/// Runs `ringstone ctl ARGUMENTS`.
pub fn main(arguments: &[String]) -> ExitCode {
    let ctl = match Ctl::try_parse_from(std::iter::once("ringstone ctl".to_owned()).chain(arguments.iter().cloned())) {
        Ok(ctl) => ctl,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ERROR.into() } else { ExitCode::SUCCESS };
        }
    };
    match run(ctl) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                eprintln!("Error: {}", failure.text);
            }
            failure.status.into()
        }
    }
}

fn run(ctl: Ctl) -> Outcome {
    if !matches!(ctl.global.write_out.as_str(), "simple" | "json") {
        return Err(match ctl.global.write_out.as_str() {
            "fields" | "protobuf" | "table" => Failure::new(
                BAD_FEATURE,
                format!("--write-out={} is not built yet: simple and json are", ctl.global.write_out),
            ),
            _ => Failure::new(BAD_FEATURE, "unsupported output format"),
        });
    }
    if matches!(ctl.command, Command::Version) {
        println!("ringstone version: {}", ringstone_core::config::RINGSTONE_VERSION);
        println!("API version: 3.7");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ERROR, format!("the runtime can't start: {error}")))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        tokio::select! {
            outcome = dispatch(ctl) => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failure::new(INTERRUPTED, "interrupted")),
        }
    })
}

async fn dispatch(ctl: Ctl) -> Outcome {
    let session = Session::new(ctl.global)?;
    match ctl.command {
        Command::Put(put) => kv::put(&session, put).await,
        Command::Get(get) => kv::get(&session, get).await,
        Command::Del(del) => kv::del(&session, del).await,
        Command::Compaction(compaction) => kv::compaction(&session, compaction).await,
        Command::Txn(txn) => txn::txn(&session, txn).await,
        Command::Watch(watch) => watch::watch(&session, watch).await,
        Command::Lease(lease) => lease::lease(&session, lease).await,
        Command::Endpoint(endpoint) => cluster::endpoint(&session, endpoint).await,
        Command::Member(member) => cluster::member(&session, member).await,
        Command::Alarm(alarm) => cluster::alarm(&session, alarm).await,
        Command::Snapshot(args::Snapshot { command: args::SnapshotCommand::Save { file } }) => {
            snapshot::save(&session, &file).await
        }
        Command::Version => unreachable!("answered without a server"),
    }
}

/// `ringstone snapshot save`: the same without the word ctl.
pub fn snapshot_save(arguments: &[String]) -> ExitCode {
    let words: Vec<String> =
        ["snapshot", "save"].map(str::to_owned).into_iter().chain(arguments.iter().cloned()).collect();
    main(&words)
}
