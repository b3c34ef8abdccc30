//! One run from its beginning to its end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringstone_net::client::{CallOptions, Client};
use ringstone_net::{Method, Status};
use ringstone_proto::etcdserverpb::{CompactionRequest, CompactionResponse, RangeRequest, RangeResponse};

use crate::interrupt::Interrupt;
use crate::options::{Options, Workload};
use crate::pace::{Pace, WAITING_MAX};
use crate::process::{self, Figures};
use crate::recorder::{Recorder, Tally};
use crate::report::{Partial, Report, Round};
use crate::timer::Timer;
use crate::work::{Lane, Leases, Watchers};
use crate::{BenchError, session};

/// How far an open loop may fall behind before the run is given up.
const LAG_MAX: Duration = Duration::from_secs(5);
/// How long nothing but errors may come.
const FAILING_MAX: Duration = Duration::from_secs(3);
/// How often these are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// For the calls that are under way at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// The part of an asked rate that counts as reached.
const REACHED: f64 = 0.98;

/// Runs the workload and waits for its end. Blocks. The keys that it put are deleted again unless they are to be kept.
///
/// # Errors
/// [`BenchError`]: nothing was measured. Calls that fail during the run are counted, and end it if all do.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    on_one_thread(|interrupt| async move { run_local(options, &interrupt).await })
}

/// Runs a future on this thread, with signals listened for.
pub(crate) fn on_one_thread<T, F: Future<Output = T>>(make: impl FnOnce(Interrupt) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a descriptor for epoll can be had at the start of a program");
    tokio::task::LocalSet::new().block_on(&runtime, async { make(Interrupt::install()).await })
}

pub(crate) async fn run_local(options: &Options, interrupt: &Interrupt) -> Result<Report, BenchError> {
    options.check()?;
    for pid in &options.server_pids {
        process::look_at(*pid)?;
    }
    let clients = session::connect_all(options).await?;
    let result = prepare_and_run(options, &clients, interrupt).await;
    if options.preload && !options.keep {
        let cleaned = session::clean(options).await;
        // A run that has failed says why; that its keys could not be deleted either follows from it.
        if let (Ok(_), Err(error)) = (&result, cleaned) {
            eprintln!("its keys below {} may still be there: {error}", session::PREFIX);
        }
    }
    result
}

async fn prepare_and_run(options: &Options, clients: &[Client], interrupt: &Interrupt) -> Result<Report, BenchError> {
    if options.preload {
        session::preload(options, clients, interrupt).await?;
    }
    if interrupt.is_set() {
        return Err(BenchError::Interrupted);
    }
    let leases = match options.workload {
        Workload::Lease => Some(Leases::grant(clients, options.leases).await?),
        _ => None,
    };
    let result = run_lanes(options, clients, leases.as_ref(), interrupt).await;
    if let Some(leases) = leases {
        leases.revoke(clients).await;
    }
    result
}

async fn run_lanes(
    options: &Options,
    clients: &[Client],
    leases: Option<&Leases>,
    interrupt: &Interrupt,
) -> Result<Report, BenchError> {
    let recorder = Rc::new(Recorder::new(options.rounds, options.duration, options.workload.counted()));
    let watchers = match options.workload.has_watchers() {
        true => Some(Watchers::start(options, clients, &recorder).await?),
        false => None,
    };
    let timer = Timer::new().map_err(BenchError::io("make a timer for", "the rate"))?;
    let pace = Pace::new(options.rate);
    let ids: Rc<[i64]> = leases.map_or_else(|| Rc::from([]), |leases| Rc::clone(&leases.ids));
    let lanes = (0..options.lanes()).map(|number| {
        let client = clients[number % clients.len()].clone();
        let lane = Lane::new(number, client, options, Rc::clone(&recorder), Rc::clone(&ids));
        tokio::task::spawn_local(lane.run(options.workload, Rc::clone(&pace)))
    });
    let lanes: Vec<_> = lanes.collect();
    tokio::task::spawn_local(Rc::clone(&pace).drive(timer));
    let compacting = Rc::new(Cell::new(true));
    if let Some(interval) = options.compact_every {
        tokio::task::spawn_local(compact(clients[0].clone(), interval, Rc::clone(&compacting)));
    }
    let measured = measure(options, &recorder, &pace, interrupt).await;
    let waiting = pace.waiting();
    pace.stop();
    compacting.set(false);
    recorder.add_errors(drain(lanes).await);
    if let Some(watchers) = watchers {
        recorder.add_errors(watchers.wrong().await);
    }
    report(options, &recorder, &measured, waiting)
}

/// Waits for calls that are under way; gives the number of those that never ended.
async fn drain(lanes: Vec<tokio::task::JoinHandle<()>>) -> u64 {
    let until = Instant::now() + DRAIN;
    let mut unfinished = 0;
    for mut lane in lanes {
        let left = until.saturating_duration_since(Instant::now());
        if tokio::time::timeout(left, &mut lane).await.is_err() {
            lane.abort();
            unfinished += 1;
        }
    }
    unfinished
}

/// What was seen at the boundaries of rounds.
struct Boundaries {
    at: Vec<(Instant, Figures)>,
    partial: Option<Partial>,
}

async fn measure(options: &Options, recorder: &Recorder, pace: &Pace, interrupt: &Interrupt) -> Boundaries {
    let look = || (Instant::now(), process::look(&options.server_pids));
    let warm = Instant::now() + options.warm_up;
    let mut partial = wait_until(warm, recorder, pace, interrupt).await;
    let mut at = vec![look()];
    recorder.begin();
    let began = at[0].0;
    for round in 1..=options.rounds {
        if partial.is_some() {
            break;
        }
        let end = began + options.duration * u32::try_from(round).expect("rounds are few");
        partial = wait_until(end, recorder, pace, interrupt).await;
        at.push(look());
    }
    Boundaries { at, partial }
}

/// Waits for a moment, or for what ends a run before it.
async fn wait_until(end: Instant, recorder: &Recorder, pace: &Pace, interrupt: &Interrupt) -> Option<Partial> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(LOOK)) => {}
            () = interrupt.wait() => return Some(Partial::Interrupted),
        }
        if recorder.failing_for() > FAILING_MAX {
            return Some(Partial::ServerGone);
        }
        if pace.lag() > LAG_MAX || pace.waiting() >= WAITING_MAX {
            return Some(Partial::RateNotReached);
        }
    }
}

/// Compacts to the revision at the time before: what is younger than `interval` stays readable.
async fn compact(client: Client, interval: Duration, running: Rc<Cell<bool>>) {
    let none = CallOptions::default();
    let mut revision = 0;
    loop {
        tokio::time::sleep(interval).await;
        if !running.get() {
            return;
        }
        if revision > 0 {
            // One that is refused (compacted by somebody else already) is no matter.
            let request = CompactionRequest { revision, physical: false };
            let _: Result<CompactionResponse, Status> = client.unary(Method::KvCompact, &request, &none).await;
        }
        let get = RangeRequest { key: session::key(0), count_only: true, ..RangeRequest::default() };
        let answer: Result<RangeResponse, Status> = client.unary(Method::KvRange, &get, &none).await;
        revision = answer.ok().and_then(|answer| answer.header).map_or(0, |header| header.revision);
    }
}

fn report(
    options: &Options,
    recorder: &Recorder,
    boundaries: &Boundaries,
    waiting: usize,
) -> Result<Report, BenchError> {
    let (tallies, calls) = recorder.take();
    let mut all = Tally::default();
    for tally in &tallies {
        all.operations += tally.operations;
        all.errors += tally.errors;
        all.latencies.add(&tally.latencies).expect("the bounds are the same");
    }
    if all.operations == 0 {
        if let Some(failure) = recorder.take_failure() {
            return Err(failure);
        }
        if boundaries.partial == Some(Partial::Interrupted) {
            return Err(BenchError::Interrupted);
        }
    }
    let rounds = boundaries
        .at
        .windows(2)
        .zip(&tallies)
        .map(|(pair, tally)| Round::new(pair[1].0 - pair[0].0, tally, &pair[0].1, &pair[1].1));
    let rounds: Vec<Round> = rounds.collect();
    let (first, last) = (&boundaries.at[0], boundaries.at.last().expect("one at least"));
    let elapsed = last.0 - first.0;
    // What was due and not begun at the end, beyond what the lanes would have taken up at once.
    let owed = waiting.saturating_sub(options.lanes()) as f64;
    let asked = options.rate.map_or(0.0, |rate| rate * elapsed.as_secs_f64());
    let missed = boundaries.partial.is_none() && owed > asked * (1.0 - REACHED) && options.rate.is_some();
    let partial = if missed { Some(Partial::RateNotReached) } else { boundaries.partial };
    let all = Round::new(elapsed, &all, &first.1, &last.1);
    Ok(Report::new(options, partial, all, rounds, &calls))
}
