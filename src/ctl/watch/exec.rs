//! `watch ... -- COMMAND`: the command once for each event, one after the other.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

use ringstone_proto::etcdserverpb::WatchResponse;
use tokio::process::Command;

use super::super::output::{event_name, quote};
use super::super::{ERROR, Failure, Outcome, go_cause};

/// Ends the whole client where the command fails.
pub async fn run(command: &[String], response: &WatchResponse) -> Outcome {
    let [program, arguments @ ..] = command else { return Ok(()) };
    let revision = response.header.as_ref().map_or(0, |header| header.revision);
    for event in &response.events {
        let kv = event.kv.clone().unwrap_or_default();
        let status = Command::new(program)
            .args(arguments)
            .env("ETCD_WATCH_REVISION", revision.to_string())
            .env("ETCD_WATCH_EVENT_TYPE", quote(event_name(event).as_bytes()))
            .env("ETCD_WATCH_KEY", quote(&kv.key))
            .env("ETCD_WATCH_VALUE", quote(&kv.value))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await;
        if let Some(why) = failure(program, status) {
            let words: Vec<_> = command.iter().map(|word| quote(word.as_bytes())).collect();
            eprintln!("command [{}] error ({why})", words.join(" "));
            return Err(Failure::new(ERROR, ""));
        }
    }
    Ok(())
}

/// What Go says of it.
fn failure(program: &str, status: io::Result<ExitStatus>) -> Option<String> {
    match status {
        Ok(status) if status.success() => None,
        Ok(status) => Some(match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(libc::SIGKILL)) => "signal: killed".to_owned(),
            (None, Some(libc::SIGTERM)) => "signal: terminated".to_owned(),
            (None, Some(libc::SIGINT)) => "signal: interrupt".to_owned(),
            (None, signal) => format!("signal: signal {}", signal.unwrap_or_default()),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !program.contains('/') => {
            Some(format!("exec: {}: executable file not found in $PATH", quote(program.as_bytes())))
        }
        Err(error) => Some(format!("fork/exec {program}: {}", go_cause(&error))),
    }
}
