//! `ringstone ctl`: etcdctl's words, flags and outputs, over gRPC to any server of the etcd v3 API.
//!
//! ```text
//! args (clap) -> connect -> kv | txn | watch | lease | cluster | snapshot | check | concurrency | mirror -> output::Answer -> one of five formats
//! ```

mod args;
mod check;
mod cluster;
mod completion;
mod concurrency;
mod connect;
mod kv;
mod lease;
mod mirror;
mod output;
mod snapshot;
mod txn;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use tokio::signal::unix::{SignalKind, signal};

use args::{Command, Ctl};
use connect::Session;
pub use output::{Table, human_bytes};

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
        Err(error) if error.use_stderr() => {
            eprint!("{}", refusal(&error));
            return ERROR.into();
        }
        Err(help) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
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

/// What is wrong with the command line: etcdctl's words where it has some, then clap's hints.
fn refusal(error: &clap::Error) -> String {
    let whole = error.render().to_string();
    match (unknown_word(error), whole.split_once('\n')) {
        (Some(text), Some((_, hints))) => format!("Error: {text}\n{hints}"),
        _ => whole,
    }
}

fn unknown_word(error: &clap::Error) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::UnknownArgument => context(ContextKind::InvalidArg)
            .filter(|word| word.starts_with('-'))
            .map(|flag| format!("unknown flag: {flag}")),
        ErrorKind::InvalidSubcommand => context(ContextKind::InvalidSubcommand)
            .map(|word| format!("unknown command {word:?} for \"ringstone ctl\"")),
        _ => None,
    }
}

/// A system error as Go writes it: in small letters and without its number.
fn go_cause(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let (first, rest) = text.split_at(text.chars().next().map_or(0, char::len_utf8));
    format!("{}{rest}", first.to_lowercase())
}

fn run(ctl: Ctl) -> Outcome {
    match ctl.command {
        Command::Version => {
            println!("ringstone version: {}", ringstone_core::config::RINGSTONE_VERSION);
            println!("API version: 3.7");
            return Ok(());
        }
        Command::Completion(completion) => return completion::script(completion.shell),
        Command::Options => return completion::options(),
        _ => {}
    }
    let cannot_start = |error| Failure::new(ERROR, format!("the runtime can't start: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot_start)?;
    let local = tokio::task::LocalSet::new();
    let outcome = local.block_on(&runtime, async {
        let mut interrupts = signal(SignalKind::interrupt()).map_err(cannot_start)?;
        let mut terminations = signal(SignalKind::terminate()).map_err(cannot_start)?;
        // These have something to take back when a signal comes.
        match ctl.command {
            Command::Check(check) => return check::check(&Session::new(ctl.global)?, check).await,
            Command::Lock(lock) => return concurrency::lock(&Session::new(ctl.global)?, lock).await,
            Command::Elect(elect) => return concurrency::elect(&Session::new(ctl.global)?, elect).await,
            _ => {}
        }
        // Whatever the command has under way is dropped here: a file that is not whole is removed, a child is killed.
        tokio::select! {
            outcome = dispatch(ctl) => outcome,
            _ = interrupts.recv() => Err(Failure::new(INTERRUPTED, "interrupted")),
            _ = terminations.recv() => Err(Failure::new(INTERRUPTED, "terminated")),
        }
    });
    // A thread may wait for standard input for ever.
    runtime.shutdown_background();
    outcome
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
        Command::MoveLeader(order) => cluster::move_leader(&session, order.to).await,
        Command::Defrag(defrag) => cluster::defrag(&session, defrag).await,
        Command::Alarm(alarm) => cluster::alarm(&session, alarm).await,
        Command::Snapshot(args::Snapshot { command: args::SnapshotCommand::Save { files } }) => {
            snapshot::save(&session, &files).await
        }
        Command::MakeMirror(flags) => mirror::make_mirror(&session, flags).await,
        Command::Check(_)
        | Command::Lock(_)
        | Command::Elect(_)
        | Command::Version
        | Command::Completion(_)
        | Command::Options => unreachable!("done before"),
    }
}

/// `ringstone snapshot save`: the same without the word ctl.
pub fn snapshot_save(arguments: &[String]) -> ExitCode {
    let words: Vec<String> =
        ["snapshot", "save"].map(str::to_owned).into_iter().chain(arguments.iter().cloned()).collect();
    main(&words)
}
