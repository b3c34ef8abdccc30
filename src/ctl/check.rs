//! check perf, check datascale: etcdctl's loads, words and bounds.
//!
//! Both put under a prefix of their own that must be empty, and delete it at the end, also after Ctrl-C; what was measured
//! until then is still judged.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringstone_net::Method;
use ringstone_net::client::{CallOptions, Client};
use ringstone_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use super::args::{Check, CheckCommand, CheckFlags, Defrag};
use super::connect::{Session, failed, text_of};
use super::output::print_line;
use super::{BAD_FEATURE, ERROR, Failure, INTERRUPTED, INVALID_INPUT, Outcome, cluster, kv};

/// How far a busy client may lag behind the rate before the rate slips: etcdctl's limiter does not catch up either.
const LAG_MAX: Duration = Duration::from_millis(20);
/// For the deletion of the keys.
const CLEANUP: Duration = Duration::from_secs(30);
/// etcdctl's bounds: a part of the rate, seconds, seconds.
const RATE_PART: f64 = 0.9;
const SLOWEST_MAX: f64 = 0.5;
const DEVIATION_MAX: f64 = 0.1;

/// Writes a second (perf) or keys (datascale), and clients.
struct Load {
    limit: u32,
    clients: usize,
}

fn load(name: &str, loads: [(u32, usize); 4]) -> Result<Load, Failure> {
    let index = match name {
        "s" | "small" => 0,
        "m" | "medium" => 1,
        "l" | "large" => 2,
        "xl" | "xLarge" => 3,
        other => return Err(Failure::new(BAD_FEATURE, format!("unknown load option {other}"))),
    };
    let (limit, clients) = loads[index];
    Ok(Load { limit, clients })
}

/// What puts to make, and until when.
struct Plan {
    prefix: String,
    key_bytes: usize,
    value: Bytes,
    /// Time from one to the next; none: as fast as they go.
    period: Option<Duration>,
    count: u64,
    until: Option<Instant>,
}

/// What was seen.
#[derive(Default)]
struct Seen {
    done: u64,
    begun: u64,
    next: Option<Instant>,
    seconds: f64,
    seconds_squared: f64,
    slowest: f64,
    errors: BTreeMap<String, u64>,
    stopped: bool,
}

impl Seen {
    fn took(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.done += 1;
        self.seconds += seconds;
        self.seconds_squared += seconds * seconds;
        self.slowest = self.slowest.max(seconds);
    }

    fn deviation(&self) -> f64 {
        let count = self.done.max(1) as f64;
        let mean = self.seconds / count;
        (self.seconds_squared / count - mean * mean).max(0.0).sqrt()
    }
}

/// Runs with signals of its own: a command that is dropped could not delete its keys.
pub async fn check(session: &Session, check: Check) -> Outcome {
    match check.command {
        CheckCommand::Perf(flags) => perf(session, &flags.or_prefix("/etcdctl-check-perf/")).await,
        CheckCommand::Datascale(flags) => datascale(session, &flags.or_prefix("/etcdctl-check-datascale/")).await,
    }
}

async fn perf(session: &Session, flags: &CheckFlags) -> Outcome {
    let load = load(&flags.load, [(150, 50), (1_000, 200), (8_000, 500), (15_000, 1_000)])?;
    let length = flags.duration;
    let clients = clients(session, load.clients).await?;
    expect_empty(&clients[0], session, &flags.prefix, '\'').await?;
    let plan = Plan {
        prefix: flags.prefix.clone(),
        key_bytes: 256,
        value: Bytes::from(vec![0; 1024]),
        period: Some(Duration::from_secs(1) / load.limit),
        count: u64::MAX,
        until: Some(Instant::now() + length),
    };
    let began = Instant::now();
    let (seen, interrupted) = put_all(&clients, plan, length.as_secs()).await;
    let seconds = began.elapsed().as_secs_f64();
    let cleaned = clean_up(&clients[0], session, flags).await;
    if let Err(failure) = cleaned {
        print_line(&format!("FAIL: Cleanup failed during key deletion: ERROR({})", failure.text));
    }
    if interrupted {
        eprintln!("interrupted after {seconds:.1} s");
    }
    verdict(&seen, seconds, load.limit)?;
    if interrupted { Err(Failure::new(INTERRUPTED, "interrupted")) } else { Ok(()) }
}

/// etcdctl's lines and bounds.
fn verdict(seen: &Seen, seconds: f64, limit: u32) -> Outcome {
    let mut good = print_errors(seen);
    let mut judge = |fine: bool, pass: String, fail: String| {
        print_line(if fine { &pass } else { &fail });
        good &= fine;
    };
    let rate = seen.done as f64 / seconds.max(1e-9);
    let writes = rate as u64 + 1;
    judge(
        rate / f64::from(limit) > RATE_PART,
        format!("PASS: Throughput is {writes} writes/s"),
        format!("FAIL: Throughput too low: {writes} writes/s"),
    );
    let slowest = seen.slowest;
    judge(
        slowest <= SLOWEST_MAX,
        format!("PASS: Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    );
    let deviation = seen.deviation();
    judge(
        deviation <= DEVIATION_MAX,
        format!("PASS: Stddev is {deviation:.6}s"),
        format!("Stddev too high: {deviation:.6}s"),
    );
    print_line(if good { "PASS" } else { "FAIL" });
    if good { Ok(()) } else { Err(Failure::new(ERROR, "")) }
}

async fn datascale(session: &Session, flags: &CheckFlags) -> Outcome {
    let load = load(&flags.load, [(10_000, 50), (100_000, 200), (1_000_000, 500), (3_000_000, 1_000)])?;
    let clients = clients(session, load.clients).await?;
    expect_empty(&clients[0], session, &flags.prefix, '\0').await?;
    let endpoint = session.global.endpoints.first().map_or("", String::as_str);
    let unread = |when| {
        print_line(&format!("FAIL: Could not read process_resident_memory_bytes {when} the put operations."));
        Failure::new(ERROR, "")
    };
    let before = resident(endpoint).await.ok_or_else(|| unread("before"))?;
    print_line(&format!(
        "Start data scale check for work load [{} key-value pairs, 1024 bytes per key-value, {} concurrent clients].",
        load.limit, load.clients
    ));
    let plan = Plan {
        prefix: flags.prefix.clone(),
        key_bytes: 512,
        value: Bytes::from(vec![0; 512]),
        period: None,
        count: u64::from(load.limit),
        until: None,
    };
    let (seen, interrupted) = put_all(&clients, plan, 0).await;
    let after = resident(endpoint).await;
    clean_up(&clients[0], session, flags).await?;
    if interrupted {
        return Err(Failure::new(INTERRUPTED, format!("interrupted after {} puts", seen.done)));
    }
    let after = after.ok_or_else(|| unread("after"))?;
    if !print_errors(&seen) {
        return Err(Failure::new(ERROR, ""));
    }
    print_line(&format!("PASS: Approximate system memory used : {:.2} MB.", (after - before) / f64::from(1 << 20)));
    Ok(())
}

fn print_errors(seen: &Seen) -> bool {
    if !seen.errors.is_empty() {
        print_line("FAIL: too many errors");
    }
    for (text, count) in &seen.errors {
        print_line(&format!("FAIL: ERROR({text}) -> {count}"));
    }
    seen.errors.is_empty()
}

async fn clients(session: &Session, count: usize) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(session.client().await?);
    }
    Ok(clients)
}

async fn expect_empty(client: &Client, session: &Session, prefix: &str, quote: char) -> Outcome {
    let range_end = kv::prefix_end(prefix.as_bytes());
    let range = RangeRequest { key: prefix.to_owned().into(), range_end, limit: 1, ..RangeRequest::default() };
    let found: RangeResponse =
        client.unary(Method::KvRange, &range, &session.options()).await.map_err(|status| failed(&status))?;
    if found.kvs.is_empty() {
        return Ok(());
    }
    // The one has quotes around the command, the other has none.
    let command = format!("etcdctl del --prefix {prefix}");
    let command = if quote == '\0' { command } else { format!("{quote}{command}{quote}") };
    Err(Failure::new(INVALID_INPUT, format!("prefix {prefix:?} has keys. Delete with {command} first")))
}

/// Puts with all clients; returns when the plan is done or after Ctrl-C, with nothing under way any more.
async fn put_all(clients: &[Client], plan: Plan, seconds: u64) -> (Seen, bool) {
    let (plan, seen) = (Rc::new(plan), Rc::new(RefCell::new(Seen::default())));
    let lanes = clients.iter().enumerate().map(|(number, client)| {
        tokio::task::spawn_local(put(client.clone(), number as u64, Rc::clone(&plan), Rc::clone(&seen)))
    });
    let lanes: Vec<_> = lanes.collect();
    let progress = tokio::task::spawn_local(show_progress(Rc::clone(&seen), plan.count, seconds));
    let all = async {
        for lane in lanes {
            let _ = lane.await;
        }
    };
    tokio::pin!(all);
    let interrupted = tokio::select! {
        () = &mut all => false,
        () = interrupt() => true,
    };
    seen.borrow_mut().stopped = true;
    if interrupted {
        // A put that lands behind the deletion would stay.
        let _ = tokio::time::timeout(CLEANUP, all).await;
    }
    progress.abort();
    (seen.take(), interrupted)
}

/// Returns when SIGINT or SIGTERM comes.
pub async fn interrupt() {
    let (Ok(mut interrupts), Ok(mut terminations)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupts.recv() => {}
        _ = terminations.recv() => {}
    }
}

async fn show_progress(seen: Rc<RefCell<Seen>>, count: u64, seconds: u64) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    for second in 1u64.. {
        tokio::time::sleep(Duration::from_secs(1)).await;
        match count {
            u64::MAX => eprint!("\r{second} / {seconds} s "),
            count => eprint!("\r{} / {count} ", seen.borrow().done),
        }
    }
}

async fn put(client: Client, number: u64, plan: Rc<Plan>, seen: Rc<RefCell<Seen>>) {
    let mut random = number;
    loop {
        let now = Instant::now();
        let due = {
            let mut seen = seen.borrow_mut();
            if seen.stopped || seen.begun >= plan.count {
                return;
            }
            seen.begun += 1;
            let due = seen.next.unwrap_or(now).max(now.checked_sub(LAG_MAX).unwrap_or(now));
            seen.next = plan.period.map(|period| due + period);
            due
        };
        if plan.until.is_some_and(|until| due.max(now) >= until) {
            return;
        }
        tokio::time::sleep_until(due.into()).await;
        if seen.borrow().stopped {
            return;
        }
        let key = key(&plan, &mut random);
        let request = PutRequest { key, value: plan.value.clone(), ..PutRequest::default() };
        let began = Instant::now();
        let answer = client.unary::<_, PutResponse>(Method::KvPut, &request, &CallOptions::default()).await;
        let mut seen = seen.borrow_mut();
        match answer {
            Ok(_) => seen.took(began.elapsed()),
            Err(status) => *seen.errors.entry(text_of(&status)).or_default() += 1,
        }
    }
}

/// The prefix and a key of the plan's length that differs from all others.
fn key(plan: &Plan, random: &mut u64) -> Bytes {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = (*random ^ (*random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let mut key = format!("{}{:016x}", plan.prefix, mixed ^ (mixed >> 31)).into_bytes();
    key.resize(plan.prefix.len() + plan.key_bytes, 0);
    key.into()
}

async fn clean_up(client: &Client, session: &Session, flags: &CheckFlags) -> Outcome {
    let bounded = CallOptions { timeout: Some(CLEANUP), ..CallOptions::default() };
    let range_end = kv::prefix_end(flags.prefix.as_bytes());
    let delete = DeleteRangeRequest { key: flags.prefix.clone().into(), range_end, prev_kv: false };
    let deleted: DeleteRangeResponse =
        client.unary(Method::KvDeleteRange, &delete, &bounded).await.map_err(|status| failed(&status))?;
    if flags.auto_compact {
        let revision = deleted.header.map_or(0, |header| header.revision);
        print_line(&format!("Compacting with revision {revision}"));
        let compact = CompactionRequest { revision, physical: true };
        let _: CompactionResponse =
            client.unary(Method::KvCompact, &compact, &bounded).await.map_err(|status| failed(&status))?;
        print_line(&format!("Compacted with revision {revision}"));
    }
    if flags.auto_defrag {
        cluster::defrag(session, Defrag { cluster: false }).await?;
    }
    Ok(())
}

/// `process_resident_memory_bytes` of /metrics.
async fn resident(endpoint: &str) -> Option<f64> {
    let address = endpoint.strip_prefix("http://").unwrap_or(endpoint).trim_end_matches('/');
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "))?;
        line.trim().parse::<f64>().ok().filter(|bytes| *bytes > 0.0)
    };
    tokio::time::timeout(CLEANUP, exchange).await.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_etcdctls() {
        let loads = [(1, 2), (3, 4), (5, 6), (7, 8)];
        for (name, limit) in [("s", 1), ("small", 1), ("medium", 3), ("l", 5), ("xl", 7), ("xLarge", 7)] {
            assert_eq!(load(name, loads).ok().map(|load| load.limit), Some(limit), "{name}");
        }
        let refused = load("huge", loads).err().expect("there is none");
        assert_eq!((refused.status, refused.text.as_str()), (BAD_FEATURE, "unknown load option huge"));
    }

    #[test]
    fn bounds_are_etcdctls() {
        let seen = |done: u64, each: f64, slowest: f64| Seen {
            done,
            seconds: each * done as f64,
            seconds_squared: each * each * done as f64,
            slowest,
            ..Seen::default()
        };
        assert!(verdict(&seen(149, 0.01, 0.1), 1.0, 150).is_ok());
        assert!(verdict(&seen(135, 0.01, 0.1), 1.0, 150).is_err(), "nine tenths are not enough");
        assert!(verdict(&seen(149, 0.01, 0.51), 1.0, 150).is_err());
        let mut wide = seen(149, 0.01, 0.1);
        wide.seconds_squared *= 1_000.0;
        assert!(wide.deviation() > DEVIATION_MAX);
        assert!(verdict(&wide, 1.0, 150).is_err());
        let mut failing = seen(149, 0.01, 0.1);
        failing.errors.insert("x".into(), 1);
        assert!(verdict(&failing, 1.0, 150).is_err());
    }

    #[test]
    fn keys_differ() {
        let plan =
            Plan { prefix: "p".into(), key_bytes: 256, value: Bytes::new(), period: None, count: 0, until: None };
        let mut all = std::collections::BTreeSet::new();
        for lane in 0..50 {
            let mut random = lane;
            all.extend((0..100).map(|_| key(&plan, &mut random)));
        }
        assert_eq!(all.len(), 5_000);
        assert!(all.iter().all(|key| key.len() == 257));
    }
}
