//! `ringstone bench compare`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ringstone_bench::compare::{CompareOptions, compare};
use ringstone_bench::{BenchError, Workload};

use super::{INTERRUPTED, Load, failed, parse, workload};

/// Runs the same load against etcd and ringstone in turn and writes the ratios with their spread.
///
/// Both servers get the same flags and the same core; the generator has another one. Their data folders are made below
/// --folder and removed. CPU is all non-idle time of the machine less the generator's, and the servers' own.
///
/// With --members, connections are spread over all members, one client alone is the leader's, CPU is that of all members, and
/// the processes of the other side are stopped (SIGSTOP) meanwhile.
///
/// Ends with 0, 1 if there is nothing to report or a part is missing, 130 after Ctrl-C (the report is of what was done).
#[derive(Parser, Debug)]
#[command(name = "ringstone bench compare", disable_version_flag = true, args_override_self = true)]
struct Compare {
    /// etcd's server (tests/control/build.sh builds one)
    #[arg(long)]
    etcd: PathBuf,
    /// Ringstone, if not this program
    #[arg(long)]
    ringstone: Option<PathBuf>,
    /// A folder on the disk that is measured
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// Where the report goes, as Markdown; else it is printed
    #[arg(long)]
    report: Option<PathBuf>,
    /// Workloads, comma-separated; none: --workloads=
    #[arg(long, value_delimiter = ',', default_value = "put,get,txn,range,watch")]
    workloads: Vec<String>,
    /// Members of each: 3 or 5 compare clusters, all on one machine
    #[arg(long, default_value_t = 1)]
    members: usize,
    /// Rounds of each, ringstone and etcd in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[command(flatten)]
    load: Load,
    /// Compact this often, to the revision at the time before; 0s: never
    #[arg(long, value_parser = super::duration, default_value = "5s")]
    compact_every: Duration,
    /// The servers' core
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The generator's core
    #[arg(long, default_value_t = 1)]
    generator_core: usize,
    /// Puts a second where latencies are compared at the same rate; half of the slower one's by default
    #[arg(long)]
    same_rate: Option<f64>,
    /// Neither puts at the same rate nor one client alone
    #[arg(long)]
    no_latency: bool,
    /// Restarts of each after SIGKILL under puts
    #[arg(long, default_value_t = 3)]
    restarts: usize,
    /// Drop the machine's page cache before each restart (root)
    #[arg(long)]
    drop_caches: bool,
    /// --quota-backend-bytes of both
    #[arg(long, default_value_t = 16 << 30)]
    quota: u64,
    /// One more flag for both servers; may be given several times
    #[arg(long, allow_hyphen_values = true)]
    server_flag: Vec<String>,
}

impl Compare {
    fn options(&self) -> Result<CompareOptions, BenchError> {
        let named = self.workloads.iter().filter(|name| !name.is_empty()).map(|name| workload(name));
        let workloads: Result<Vec<Workload>, _> = named.collect();
        let mut load = self.load.options("", Workload::Put);
        load.compact_every = Some(self.compact_every).filter(|interval| !interval.is_zero());
        let own = || std::env::current_exe().unwrap_or_else(|_| PathBuf::from("ringstone"));
        Ok(CompareOptions {
            etcd: self.etcd.clone(),
            ringstone: self.ringstone.clone().unwrap_or_else(own),
            folder: self.folder.clone(),
            workloads: workloads.map_err(|_| BenchError::Options("--workloads names one that there is not"))?,
            load,
            members: self.members,
            rounds: self.rounds,
            server_core: self.server_core,
            generator_core: self.generator_core,
            same_rate: self.same_rate,
            latency: !self.no_latency,
            restarts: self.restarts,
            drop_caches: self.drop_caches,
            quota_bytes: self.quota,
            server_flags: self.server_flag.clone(),
        })
    }
}

pub fn main(arguments: &[String]) -> ExitCode {
    let name = "ringstone bench compare";
    let words: Compare = match parse(name, arguments) {
        Ok(words) => words,
        Err(status) => return status,
    };
    let command = format!("{name} {}", arguments.join(" "));
    let result = words.options().and_then(|options| compare(&options, &command, |text| eprintln!("{text}")));
    let (text, whole) = match result {
        Ok(found) => found,
        Err(error) => return failed(name, &error),
    };
    match &words.report {
        None => println!("{text}"),
        Some(path) => {
            if let Err(error) = fs::write(path, &text) {
                // What took long to measure is not thrown away.
                println!("{text}");
                return failed(name, &BenchError::Io { what: "write", path: path.clone(), error });
            }
            eprintln!("written: {}", path.display());
        }
    }
    match whole {
        true => ExitCode::SUCCESS,
        false if text.contains("**Interrupted") => INTERRUPTED.into(),
        false => ExitCode::FAILURE,
    }
}
