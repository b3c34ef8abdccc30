//! etcd and ringstone in turn, on the same core of the same machine, with the same flags and the same load.
//!
//! ```text
//!   the disk's own figures -> both servers up, all keys put
//!     rounds:   each workload, closed loop, ringstone and etcd in turn (who is first changes each round)
//!     rounds:   puts at the same rate, open loop
//!     rounds:   one client alone, one put at a time, the disk's own recipe timed beside it
//!   memory -> compaction, files -> SIGKILL under puts, start, first answer -> markdown
//! ```
//!
//! Both servers are up all the time: the idle one shares the core, which costs the other what an idle server costs (and is
//! in the machine's figure of either, so ratios of small differences mean little). Of clusters, which are never quite idle, the
//! one that is not measured is stopped meanwhile.

mod markdown;
mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ringstone_net::client::CallOptions;
use ringstone_net::{Code, Method, Status};
use ringstone_proto::etcdserverpb::{CompactionRequest, CompactionResponse, RangeRequest, RangeResponse};

use crate::interrupt::Interrupt;
use crate::load::{on_one_thread, run_local};
use crate::options::{Options, Workload};
use crate::process::{ServerFigures, look_at_all, pin};
use crate::report::Report;
use crate::{BenchError, session};
use server::Server;

/// Syncs of the disk's probe at the start.
const PROBE_SYNCS: usize = 500;
/// Syncs of the probe beside one client alone.
const PROBE_SYNCS_ROUND: usize = 200;
/// How long a restarted server may take to answer.
const RESTART_PATIENCE: Duration = Duration::from_secs(120);
/// Puts before a SIGKILL.
const LOAD_BEFORE_KILL: Duration = Duration::from_secs(2);
/// For a compaction to give room back before files are measured.
const SETTLE: Duration = Duration::from_secs(3);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Ringstone,
    Etcd,
}

impl Side {
    const BOTH: [Side; 2] = [Side::Ringstone, Side::Etcd];

    fn name(self) -> &'static str {
        match self {
            Side::Ringstone => "ringstone",
            Side::Etcd => "etcd",
        }
    }
}

/// What to compare, and where.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// etcd's server.
    pub etcd: PathBuf,
    /// This program.
    pub ringstone: PathBuf,
    /// A folder on the disk that is measured; the data folders are made in it and removed.
    pub folder: PathBuf,
    /// What to run.
    pub workloads: Vec<Workload>,
    /// Connections, sizes, lengths, seeds: those of each run. Its endpoint, workload, rounds and preload are set here.
    pub load: Options,
    /// Members of each; 1: no cluster.
    pub members: usize,
    /// Rounds of each workload and server.
    pub rounds: usize,
    /// The servers' core.
    pub server_core: usize,
    /// The generator's.
    pub generator_core: usize,
    /// The rate of the puts at the same rate; none: half of what the slower one did in the closed loop.
    pub same_rate: Option<f64>,
    /// Puts at the same rate, and one client alone.
    pub latency: bool,
    /// Restarts after SIGKILL; 0: none.
    pub restarts: usize,
    /// Drop the machine's page cache before each restart. Needs root.
    pub drop_caches: bool,
    /// Bytes given to both as `--quota-backend-bytes`.
    pub quota_bytes: u64,
    /// More flags for both.
    pub server_flags: Vec<String>,
}

impl CompareOptions {
    fn check(&self) -> Result<(), BenchError> {
        let any = Options { workload: Workload::Put, ..self.load.clone() };
        any.check()?;
        if self.rounds == 0 || self.workloads.is_empty() && !self.latency {
            return Err(BenchError::Options("a comparison needs rounds, and workloads or the latencies"));
        }
        if !matches!(self.members, 1 | 3 | 5) {
            return Err(BenchError::Options("1, 3 or 5 members"));
        }
        for program in [&self.etcd, &self.ringstone] {
            std::fs::metadata(program).map_err(BenchError::io("find", program))?;
        }
        std::fs::metadata(&self.folder).map_err(BenchError::io("find", &self.folder)).map(drop)
    }
}

/// What kind of run a report is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// As fast as it goes.
    Closed(Workload),
    /// Puts at a rate.
    SameRate(f64),
    /// One put at a time.
    Alone,
}

/// One run.
pub(crate) struct Sample {
    pub kind: Kind,
    pub side: Side,
    pub report: Report,
}

/// What a server's process and files look like after all runs; of a cluster, the sums over its members.
#[derive(Clone, Copy)]
pub(crate) struct Footprint {
    pub side: Side,
    pub memory: ServerFigures,
    /// Bytes on disk of the data folder's log, and of the rest, compacted.
    pub log_bytes: u64,
    pub store_bytes: u64,
    /// Checkpoints (etcd: commits of its backend) by /metrics.
    pub commits: Option<u64>,
    /// Keys, of each member.
    pub keys: i64,
}

/// Everything that was seen.
#[derive(Default)]
pub(crate) struct Findings {
    pub versions: Vec<String>,
    pub disk_p50_us: Vec<f64>,
    pub samples: Vec<Sample>,
    pub footprints: Vec<Footprint>,
    /// Seconds from the start of the process to its first answer.
    pub restarts: Vec<(Side, f64)>,
    pub interrupted: bool,
}

/// Compares. Blocks. `say` is told what happens. Gives the report as Markdown, and whether it is of all that was asked for.
///
/// # Errors
/// [`BenchError`]: there is nothing to report. Servers and their folders are gone in any case.
pub fn compare(options: &CompareOptions, command: &str, say: impl Fn(&str)) -> Result<(String, bool), BenchError> {
    options.check()?;
    on_one_thread(|interrupt| async move {
        pin(options.generator_core).map_err(BenchError::io("bind to core", options.generator_core.to_string()))?;
        let mut findings = Findings::default();
        let comparison = Comparison { options, interrupt, say: &say };
        let result = comparison.run(&mut findings).await;
        findings.interrupted = comparison.interrupt.is_set();
        match result {
            Err(error) if findings.samples.is_empty() => return Err(error),
            Err(BenchError::Interrupted) | Ok(()) => {}
            Err(error) => say(&format!("given up: {error}")),
        }
        let whole = !findings.interrupted && findings.restarts.len() == 2 * options.restarts;
        Ok((markdown::render(options, command, &findings), whole))
    })
}

struct Comparison<'a> {
    options: &'a CompareOptions,
    interrupt: Interrupt,
    say: &'a dyn Fn(&str),
}

impl Comparison<'_> {
    fn interrupted(&self) -> Result<(), BenchError> {
        if self.interrupt.is_set() { Err(BenchError::Interrupted) } else { Ok(()) }
    }

    fn say(&self, text: &str) {
        (self.say)(text);
    }

    async fn run(&self, findings: &mut Findings) -> Result<(), BenchError> {
        let options = self.options;
        let made = tempfile::Builder::new().prefix("ringstone-compare-").tempdir_in(&options.folder);
        let folder = made.map_err(BenchError::io("make a folder in", &options.folder))?;
        findings.disk_p50_us.push(ringstone_tuning::probe(folder.path(), PROBE_SYNCS)?.recipe.p50_us);
        let mut servers = Vec::new();
        for side in Side::BOTH {
            self.interrupted()?;
            findings.versions.push(server::version(options, side)?);
            let server = Server::start(options, side, folder.path(), RESTART_PATIENCE, &self.interrupt).await?;
            let load = self.load(&server, Kind::Closed(Workload::Put)).await?;
            let began = Instant::now();
            let clients = session::connect_all(&load).await?;
            session::preload(&load, &clients, &self.interrupt).await?;
            self.interrupted()?;
            self.say(&format!("{}: {} keys put in {:.1} s", side.name(), load.keys, began.elapsed().as_secs_f64()));
            self.pause(&server);
            servers.push(server);
        }
        for round in 0..options.rounds {
            for &workload in &options.workloads {
                self.both(&mut servers, Kind::Closed(workload), round, findings).await?;
            }
        }
        if options.latency {
            let rate = options.same_rate.unwrap_or_else(|| half_of_the_slower(&findings.samples));
            for round in 0..options.rounds {
                self.both(&mut servers, Kind::SameRate(rate), round, findings).await?;
            }
            for round in 0..options.rounds {
                findings.disk_p50_us.push(ringstone_tuning::probe(folder.path(), PROBE_SYNCS_ROUND)?.recipe.p50_us);
                self.both(&mut servers, Kind::Alone, round, findings).await?;
            }
        }
        for server in &mut servers {
            self.resume(server).await?;
            findings.footprints.push(self.footprint(server).await?);
        }
        for number in 0..options.restarts {
            for server in &mut servers {
                let took = self.restart(server).await?;
                self.say(&format!("restart {} {}: {took:.3} s", number + 1, server.side.name()));
                findings.restarts.push((server.side, took));
            }
        }
        Ok(())
    }

    /// Lets the processes of a cluster stand still while the other one is measured.
    fn pause(&self, server: &Server) {
        if self.options.members > 1 {
            server.pause();
        }
    }

    async fn resume(&self, server: &mut Server) -> Result<(), BenchError> {
        if self.options.members > 1 {
            server.resume();
            server.first_answer(self.options, RESTART_PATIENCE, &self.interrupt).await?;
        }
        Ok(())
    }

    async fn load(&self, server: &Server, kind: Kind) -> Result<Options, BenchError> {
        let mut load = self.options.load.clone();
        load.endpoint = if kind == Kind::Alone { server.leader().await? } else { server.endpoints() };
        load.server_pids = server.pids();
        (load.preload, load.keep, load.rounds, load.rate) = (false, true, 1, None);
        match kind {
            Kind::Closed(workload) => load.workload = workload,
            Kind::SameRate(rate) => (load.workload, load.rate) = (Workload::Put, Some(rate)),
            Kind::Alone => load.workload = Workload::Put,
        }
        if kind == Kind::Alone {
            (load.connections, load.in_flight) = (1, 1);
        }
        if load.workload == Workload::Range10000 {
            // Ten answers of some MiB under way are enough for one core.
            load.in_flight = 1;
        }
        Ok(load)
    }

    async fn both(
        &self,
        servers: &mut [Server],
        kind: Kind,
        round: usize,
        findings: &mut Findings,
    ) -> Result<(), BenchError> {
        let mut pair = Vec::new();
        for turn in 0..servers.len() {
            self.interrupted()?;
            let number = (turn + round) % servers.len();
            let server = &mut servers[number];
            self.resume(server).await?;
            let mut load = self.load(server, kind).await?;
            load.seed = load.seed.wrapping_add(round as u64);
            let report = run_local(&load, &self.interrupt).await?;
            self.pause(server);
            self.say(&format!(
                "round {} {} {:<9} {:>8.0} ops/s, p99 {:>7.0} us, {:>6.1} us of the machine each, {:>6.1} of the server",
                round + 1,
                markdown::name(kind),
                server.side.name(),
                report.all.rate,
                report.all.latency.p99_us,
                report.all.machine_cpu_us,
                report.all.server_cpu_us.unwrap_or(0.0)
            ));
            pair.push(Sample { kind, side: server.side, report });
        }
        // Only whole pairs: a ratio is of two runs of one round.
        self.interrupted()?;
        findings.samples.extend(pair);
        Ok(())
    }

    async fn footprint(&self, server: &Server) -> Result<Footprint, BenchError> {
        let memory = look_at_all(&server.pids())?;
        let client = session::connect(&server.leader().await?).await?;
        let none = CallOptions::default();
        let call = |call| move |status: Status| BenchError::Call { call, status };
        let count = RangeRequest {
            key: session::PREFIX.into(),
            range_end: session::PREFIX_END.into(),
            count_only: true,
            ..RangeRequest::default()
        };
        let counted: RangeResponse = client.unary(Method::KvRange, &count, &none).await.map_err(call("count"))?;
        let revision = counted.header.as_ref().map_or(0, |header| header.revision);
        let request = CompactionRequest { revision, physical: true };
        let compacted: Result<CompactionResponse, Status> = client.unary(Method::KvCompact, &request, &none).await;
        match compacted {
            // By the server itself, where it is told to.
            Err(status) if status.code == Code::OutOfRange => {}
            compacted => drop(compacted.map_err(call("compact"))?),
        }
        tokio::time::sleep(SETTLE).await;
        let (log_bytes, store_bytes) = server.file_bytes();
        let commits = server.metric("etcd_disk_backend_commit_duration_seconds_count").await;
        let keys = counted.count * i64::try_from(self.options.members).unwrap_or(1);
        Ok(Footprint { side: server.side, memory, log_bytes, store_bytes, commits, keys })
    }

    /// Kills the server under puts and starts it again. Seconds from the start of the process to the first answer.
    async fn restart(&self, server: &mut Server) -> Result<f64, BenchError> {
        self.interrupted()?;
        let mut load = self.load(server, Kind::Closed(Workload::Put)).await?;
        load.server_pids.clear();
        load.duration = RESTART_PATIENCE;
        let interrupt = self.interrupt.clone();
        // It ends by itself once nothing but errors comes.
        let putting = tokio::task::spawn_local(async move { run_local(&load, &interrupt).await });
        tokio::time::sleep(LOAD_BEFORE_KILL).await;
        server.kill();
        let _ = putting.await;
        self.interrupted()?;
        if self.options.drop_caches {
            server::drop_caches()?;
        }
        let began = Instant::now();
        server.start_again(self.options, RESTART_PATIENCE, &self.interrupt).await?;
        Ok(began.elapsed().as_secs_f64())
    }
}

fn half_of_the_slower(samples: &[Sample]) -> f64 {
    let median = |side| {
        let puts = samples.iter().filter(|sample| sample.kind == Kind::Closed(Workload::Put) && sample.side == side);
        markdown::median(puts.map(|sample| sample.report.all.rate))
    };
    let slower = Side::BOTH.into_iter().filter_map(median).fold(f64::INFINITY, f64::min);
    // Without a closed loop of puts: what any server does.
    if slower.is_finite() { (slower / 2.0).max(1.0) } else { 1_000.0 }
}
