//! `ringstone bench`: the load generator against any server of the etcd v3 API.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use ringstone_bench::{BenchError, Options, Report, Workload};

use crate::exit::ExitStatus;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// Puts to random keys
    Put,
    /// Linearizable gets of random keys
    Get,
    /// Compare-and-put transactions on random keys
    Txn,
    /// Ranges of 100 neighbouring keys
    Range,
    /// Puts that watchers of the whole key space see: an operation is an event delivered
    Watch,
}

/// Puts a server under load and says what it took.
///
/// Closed loop: each connection keeps --in-flight calls under way. The server gets a key space of its own,
/// /registry/bench/..., which stays in it.
#[derive(Parser, Debug)]
#[command(name = "ringstone bench", disable_version_flag = true)]
struct Bench {
    /// What the clients do
    what: What,
    /// HOST:PORT of the server (no TLS)
    #[arg(long, default_value = "127.0.0.1:2379")]
    endpoint: String,
    /// Connections
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Calls under way on each connection
    #[arg(long, default_value_t = 10)]
    in_flight: usize,
    /// Size of the key space
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Time measured
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Time before, not measured
    #[arg(long, default_value = "2s", value_parser = duration)]
    warm_up: Duration,
    /// Watchers of a watch run
    #[arg(long, default_value_t = 100)]
    watchers: usize,
    /// Do not put all keys first: they are there from a run before
    #[arg(long)]
    no_preload: bool,
    /// Pid of the server, on this machine: its CPU and memory are reported
    #[arg(long)]
    server_pid: Option<u32>,
    /// The report as one line of JSON
    #[arg(long)]
    json: bool,
    /// Seed of the random keys
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::flags::parse_duration(text).ok_or_else(|| format!("{text:?} is no duration, as 10s or 500ms"))
}

impl Bench {
    fn options(self) -> Options {
        Options {
            endpoint: self.endpoint.trim_start_matches("http://").to_owned(),
            workload: match self.what {
                What::Put => Workload::Put,
                What::Get => Workload::Get,
                What::Txn => Workload::Txn,
                What::Range => Workload::Range,
                What::Watch => Workload::Watch,
            },
            connections: self.connections,
            in_flight: self.in_flight,
            keys: self.keys,
            value_bytes: self.value_bytes,
            preload: !self.no_preload,
            warm_up: self.warm_up,
            duration: self.duration,
            watchers: self.watchers,
            server_pid: self.server_pid,
            seed: self.seed,
        }
    }
}

/// Runs `ringstone bench ARGUMENTS`. Ends with 1 where there is nothing to report.
pub fn main(arguments: &[String]) -> ExitCode {
    let words = std::iter::once("ringstone bench").chain(arguments.iter().map(String::as_str));
    let bench = match Bench::try_parse_from(words) {
        Ok(bench) => bench,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitStatus::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let json = bench.json;
    match ringstone_bench::run(&bench.options()) {
        Ok(report) if json => {
            println!("{}", serde_json::to_string(&report).expect("a report is numbers and names"));
            ExitCode::SUCCESS
        }
        Ok(report) => {
            println!("{}\n{}", Report::header(), report.line());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ringstone bench: {error}");
            match error {
                BenchError::Options(_) => ExitStatus::Usage.into(),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Bench, clap::Error> {
        Bench::try_parse_from(std::iter::once("bench").chain(words.split_whitespace()))
    }

    #[test]
    fn the_flags_reach_the_options() {
        let options = parse("txn --endpoint http://a:1 --keys 7 --duration 500ms --no-preload --server-pid 3 --seed 9")
            .expect("good words")
            .options();
        assert_eq!((options.endpoint.as_str(), options.workload), ("a:1", Workload::Txn));
        assert_eq!((options.keys, options.duration), (7, Duration::from_millis(500)));
        assert_eq!((options.preload, options.server_pid, options.seed), (false, Some(3), 9));
        assert_eq!((options.connections, options.in_flight, options.value_bytes), (10, 10, 256));
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for bad in ["", "delete", "put --duration 5", "put --keys many"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nobody_there_is_said() {
        // A port that was free a moment ago.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let error = ringstone_bench::run(&Options::new(endpoint.clone(), Workload::Get)).expect_err("nobody listens");
        let text = error.to_string();
        assert!(text.starts_with(&format!("{endpoint} can't be reached")) && text.contains("refused"), "{text}");
    }
}
