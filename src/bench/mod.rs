//! `ringstone bench`: the load generator against any server of the etcd v3 API, and the comparison with etcd.

mod compare;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use ringstone_bench::{BenchError, Options, Partial, Report, Workload};

use crate::exit::ExitStatus;

/// As a shell reports a program that SIGINT has ended.
const INTERRUPTED: u8 = 130;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// What a run and a comparison have in common.
#[derive(Args, Clone, Debug)]
struct Load {
    /// Connections
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Calls under way on each connection, at most
    #[arg(long = "inflight", alias = "in-flight", default_value_t = 10)]
    in_flight: usize,
    /// Size of the key space
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long = "value-size", alias = "value-bytes", default_value_t = 256)]
    value_bytes: usize,
    /// Length of a round
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Time before the first round, not measured
    #[arg(long, default_value = "2s", value_parser = duration)]
    warm_up: Duration,
    /// Watchers of a watch or kubernetes run
    #[arg(long, default_value_t = 100)]
    watchers: usize,
    /// Leases of a lease run
    #[arg(long, default_value_t = 1_000)]
    leases: usize,
    /// Seed of the random keys
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Load {
    fn options(&self, endpoint: &str, workload: Workload) -> Options {
        let mut options = Options::new(endpoint, workload);
        options.connections = self.connections;
        options.in_flight = self.in_flight;
        options.keys = self.keys;
        options.value_bytes = self.value_bytes;
        options.duration = self.duration;
        options.warm_up = self.warm_up;
        options.watchers = self.watchers;
        options.leases = self.leases;
        options.seed = self.seed;
        options
    }
}

/// Puts a server under load and says what it took.
///
/// Without --rate a closed loop: each connection keeps --inflight calls under way. With it an open one: operations fall
/// due at fixed moments, and latency counts from there, whoever made them wait.
///
/// The keys, /registry/bench/..., are put first and deleted at the end (also after Ctrl-C, which gives a partial report).
///
/// Ends with 0, 1 if nothing was measured, the rate was not reached or the server went away, 130 after Ctrl-C.
///
/// `ringstone bench compare` runs the same load against etcd and ringstone.
#[derive(Parser, Debug)]
#[command(name = "ringstone bench", disable_version_flag = true, args_override_self = true)]
struct Bench {
    /// put, get, serializable-get, range (100 keys), range-10000, count, count-old (1000 revisions ago), txn (compare and put),
    /// delete, lease (renewals), watch (an operation is an event delivered) or kubernetes (a mix)
    #[arg(value_parser = workload)]
    what: Workload,
    /// HOST:PORT of the server (no TLS); several members with commas, over which connections are spread
    #[arg(long, default_value = "127.0.0.1:2379")]
    endpoint: String,
    #[command(flatten)]
    load: Load,
    /// Operations a second (of a watch run: puts)
    #[arg(long)]
    rate: Option<f64>,
    /// Rounds, without a pause between them
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Put all keys first; false: they are there from a run before, and stay
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    preload: bool,
    /// Leave the keys that were put
    #[arg(long)]
    keep: bool,
    /// Compact this often, to the revision at the time before
    #[arg(long, value_parser = duration)]
    compact_every: Option<Duration>,
    /// Pid of the server, on this machine: its CPU and memory are reported; of several members with commas, the sums
    #[arg(long, value_delimiter = ',')]
    server_pid: Vec<u32>,
    /// table, or json: one line
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::flags::parse_duration(text).ok_or_else(|| format!("{text:?} is no duration, as 10s or 500ms"))
}

fn workload(text: &str) -> Result<Workload, String> {
    Workload::parse(text).ok_or_else(|| {
        let names: Vec<&str> = Workload::ALL.into_iter().map(|(_, name)| name).collect();
        format!("there are {}", names.join(", "))
    })
}

impl Bench {
    fn options(&self) -> Options {
        let bare = |endpoint: &str| endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let endpoints: Vec<String> = self.endpoint.split(',').map(bare).collect();
        let mut options = self.load.options(&endpoints.join(","), self.what);
        options.rate = self.rate;
        options.rounds = self.rounds;
        options.preload = self.preload;
        options.keep = self.keep;
        options.compact_every = self.compact_every;
        options.server_pids.clone_from(&self.server_pid);
        options
    }
}

fn parse<P: Parser>(name: &str, arguments: &[String]) -> Result<P, ExitCode> {
    P::try_parse_from(std::iter::once(name).chain(arguments.iter().map(String::as_str))).map_err(|error| {
        let _ = error.print();
        if error.use_stderr() { ExitStatus::Usage.into() } else { ExitCode::SUCCESS }
    })
}

fn failed(name: &str, error: &BenchError) -> ExitCode {
    eprintln!("{name}: {error}");
    match error {
        BenchError::Options(_) => ExitStatus::Usage.into(),
        BenchError::Interrupted => INTERRUPTED.into(),
        _ => ExitCode::FAILURE,
    }
}

fn print(report: &Report, format: Format) -> ExitCode {
    match format {
        Format::Json => println!("{}", serde_json::to_string(report).expect("a report is numbers and names")),
        Format::Table => println!("{}", report.table()),
    }
    for remark in report.remarks() {
        eprintln!("ringstone bench: {remark}");
    }
    match report.partial {
        None => ExitCode::SUCCESS,
        Some(Partial::Interrupted) => INTERRUPTED.into(),
        Some(Partial::RateNotReached | Partial::ServerGone) => ExitCode::FAILURE,
    }
}

/// Runs `ringstone bench ARGUMENTS`.
pub fn main(arguments: &[String]) -> ExitCode {
    if arguments.first().is_some_and(|word| word == "compare") {
        return compare::main(&arguments[1..]);
    }
    let bench: Bench = match parse("ringstone bench", arguments) {
        Ok(bench) => bench,
        Err(status) => return status,
    };
    match ringstone_bench::run(&bench.options()) {
        Ok(report) => print(&report, bench.format),
        Err(error) => failed("ringstone bench", &error),
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
        let options = parse(
            "txn --endpoint http://a:1/ --keys 7 --duration 500ms --preload=false --server-pid 3 --seed 9 --rate 5 \
             --rounds 3 --inflight 2 --value-size 8 --compact-every 1s --keep",
        )
        .expect("good words")
        .options();
        assert_eq!((options.endpoint.as_str(), options.workload), ("a:1", Workload::Txn));
        assert_eq!((options.keys, options.duration, options.rounds), (7, Duration::from_millis(500), 3));
        assert_eq!((options.preload, options.keep, options.server_pids, options.seed), (false, true, vec![3], 9));
        assert_eq!((options.rate, options.compact_every), (Some(5.0), Some(Duration::from_secs(1))));
        assert_eq!((options.connections, options.in_flight, options.value_bytes), (10, 2, 8));
        assert!(parse("put").expect("good words").options().preload);
        let options = parse("put --endpoint http://a:1/,b:2 --server-pid 3,4").expect("good words").options();
        assert_eq!((options.endpoint.as_str(), options.server_pids), ("a:1,b:2", vec![3, 4]));
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for bad in ["", "remove", "put --duration 5", "put --keys many", "put --rate fast", "put --format xml"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for bad in [
            "put --keys 0",
            "put --inflight 0",
            "put --connections 100000",
            "put --rate 0",
            "put --rate=-1",
            "put --rate NaN",
            "put --rounds 0",
            "put --duration 0s",
            "put --value-size 2000000",
            "watch --watchers 0",
            "lease --leases 0",
            "put --compact-every 0s",
        ] {
            let options = parse(bad).expect("the form is right").options();
            let error = ringstone_bench::run(&options).expect_err(bad);
            assert!(matches!(error, BenchError::Options(_)), "{bad}: {error}");
        }
    }
}
