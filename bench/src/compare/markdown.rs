//! The findings as Markdown: every figure with the command that made it, every ratio with its spread.

use std::fmt::Write as _;
use std::fs;

use super::{CompareOptions, Findings, Kind, Sample, Side};
use crate::report::Round;

/// The middle one; the mean of the two in the middle of an even number.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

pub(super) fn name(kind: Kind) -> String {
    match kind {
        Kind::Closed(workload) => workload.name().to_owned(),
        Kind::SameRate(rate) => format!("put at {rate:.0}/s"),
        Kind::Alone => "put, one client alone".to_owned(),
    }
}

fn spread(values: &[f64]) -> String {
    let Some(middle) = median(values.iter().copied()) else { return "-".to_owned() };
    let (least, most) = values.iter().fold((f64::INFINITY, 0.0f64), |(a, b), &value| (a.min(value), b.max(value)));
    format!("{middle:.2} ({least:.2} to {most:.2})")
}

/// One figure of all rounds of a kind: medians of both sides, and the ratios of the pairs.
struct Pairs {
    ringstone: Vec<f64>,
    etcd: Vec<f64>,
}

impl Pairs {
    fn new(samples: &[Sample], kind: Kind, figure: impl Fn(&Round) -> f64) -> Pairs {
        let of = |side| {
            let own = samples.iter().filter(|sample| sample.kind == kind && sample.side == side);
            own.map(|sample| figure(&sample.report.all)).collect()
        };
        Pairs { ringstone: of(Side::Ringstone), etcd: of(Side::Etcd) }
    }

    fn ratios(&self) -> Vec<f64> {
        self.ringstone.iter().zip(&self.etcd).filter(|(_, etcd)| **etcd > 0.0).map(|(own, etcd)| own / etcd).collect()
    }

    /// Three cells: ringstone, etcd, the ratio with its spread.
    fn cells(&self, digits: usize) -> String {
        let middle =
            |values: &[f64]| median(values.iter().copied()).map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        format!("{} | {} | {}", middle(&self.ringstone), middle(&self.etcd), spread(&self.ratios()))
    }
}

fn kinds(samples: &[Sample]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for sample in samples {
        if !kinds.contains(&sample.kind) {
            kinds.push(sample.kind);
        }
    }
    kinds
}

/// Seconds, machine, load: what the figures were made on.
fn circumstances() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |line: &str| line.split_once(':').map(|(_, value)| value.trim().to_owned());
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(field).unwrap_or_default();
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let loadavg = read("/proc/loadavg");
    let load: Vec<&str> = loadavg.split(' ').take(3).collect();
    format!(
        "Linux {}, {model}, {cores} cores, load at the end {}",
        read("/proc/sys/kernel/osrelease").trim(),
        load.join(" ")
    )
}

/// The report.
pub(super) fn render(options: &CompareOptions, command: &str, findings: &Findings) -> String {
    let mut text = format!("```\n{command}\n```\n\n");
    let load = &options.load;
    let _ = writeln!(text, "{}; {}.", findings.versions.join(", "), circumstances());
    let compaction = load.compact_every.map_or("no compaction".to_owned(), |interval| {
        format!("compacted each {interval:?} to the revision at the time before")
    });
    let _ = writeln!(
        text,
        "{} keys, {}-byte values, {} connections with {} calls each (range-10000: 1), {} rounds of {:?} after {:?} of \
         warm-up, {compaction}. {}Servers on core {}, generator on core {}. Medians; ratios are ringstone / etcd of the same \
         round, with the least and the most.",
        load.keys,
        load.value_bytes,
        load.connections,
        load.in_flight,
        options.rounds,
        load.duration,
        load.warm_up,
        members(options.members),
        options.server_core,
        options.generator_core
    );
    if findings.interrupted {
        text += "\n**Interrupted: this is what was done until then.**\n";
    }
    cpu_table(&mut text, &findings.samples);
    latency_table(&mut text, &findings.samples);
    remarks(&mut text, &findings.samples);
    disk(&mut text, findings);
    footprints(&mut text, findings, options);
    restarts(&mut text, findings, options);
    text
}

/// What is different where clusters are compared.
fn members(count: usize) -> String {
    if count == 1 {
        return String::new();
    }
    format!(
        "{count} members each, connections spread over them (one client alone: the leader's), CPU, memory and files of all of \
         them, the other cluster stopped meanwhile. "
    )
}

fn cpu_table(text: &mut String, samples: &[Sample]) {
    if samples.is_empty() {
        return;
    }
    text.push_str(
        "\nCPU an operation in microseconds: *machine* is all non-idle time of the machine less the generator's, *process* the \
         server's own user and system time.\n\n\
         | workload | machine: ringstone | etcd | ratio | process: ringstone | etcd | ratio |\n|---|---|---|---|---|---|---|\n",
    );
    for kind in kinds(samples) {
        let machine = Pairs::new(samples, kind, |round| round.machine_cpu_us);
        let process = Pairs::new(samples, kind, |round| round.server_cpu_us.unwrap_or(0.0));
        let _ = writeln!(text, "| {} | {} | {} |", name(kind), machine.cells(1), process.cells(1));
    }
}

fn latency_table(text: &mut String, samples: &[Sample]) {
    if samples.is_empty() {
        return;
    }
    text.push_str(
        "\n| workload | ops/s: ringstone | etcd | ratio | p50 us: ringstone | etcd | ratio | p99 us: ringstone | etcd | ratio |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for kind in kinds(samples) {
        let rate = Pairs::new(samples, kind, |round| round.rate);
        let p50 = Pairs::new(samples, kind, |round| round.latency.p50_us);
        let p99 = Pairs::new(samples, kind, |round| round.latency.p99_us);
        let _ = writeln!(text, "| {} | {} | {} | {} |", name(kind), rate.cells(0), p50.cells(0), p99.cells(0));
    }
}

fn remarks(text: &mut String, samples: &[Sample]) {
    for kind in kinds(samples) {
        for side in Side::BOTH {
            let own: Vec<&Sample> =
                samples.iter().filter(|sample| sample.kind == kind && sample.side == side).collect();
            let errors: u64 = own.iter().map(|sample| sample.report.all.errors).sum();
            if errors > 0 {
                let _ =
                    writeln!(text, "\n{}, {}: {errors} calls failed (or events were lost).", name(kind), side.name());
            }
            let mut said: Vec<String> = own.iter().flat_map(|sample| sample.report.remarks()).collect();
            said.truncate(1);
            for remark in said {
                let _ = writeln!(text, "\n{}, {}: {remark}.", name(kind), side.name());
            }
        }
    }
}

fn disk(text: &mut String, findings: &Findings) {
    let Some(p50) = median(findings.disk_p50_us.iter().copied()) else { return };
    let (least, most) =
        findings.disk_p50_us.iter().fold((f64::INFINITY, 0.0f64), |(a, b), &value| (a.min(value), b.max(value)));
    let _ = writeln!(
        text,
        "\nThe disk's own write of 2 300 bytes with fdatasync, timed at the start and before each round of one client alone: p50 \
         {p50:.0} us ({least:.0} to {most:.0}).",
    );
    for side in Side::BOTH {
        let alone = findings.samples.iter().filter(|sample| sample.kind == Kind::Alone && sample.side == side);
        if let Some(put) = median(alone.map(|sample| sample.report.all.latency.p50_us)) {
            let _ = writeln!(
                text,
                "One client alone, {}: put p50 {put:.0} us, the disk's own and {:.0} us.",
                side.name(),
                put - p50
            );
        }
    }
}

fn footprints(text: &mut String, findings: &Findings, options: &CompareOptions) {
    if findings.footprints.is_empty() {
        return;
    }
    text.push_str(
        "\nAfter these runs; files compacted, in bytes on disk:\n\n\
         | | anonymous MiB | resident MiB | store MiB | log MiB | store bytes / (key + value + 64) a key | checkpoints (etcd: commits) |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for print in &findings.footprints {
        let each = crate::session::key(0).len() + options.load.value_bytes + 64;
        let least = print.keys.max(1) as f64 * each as f64;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.2} | {} |",
            print.side.name(),
            print.memory.anonymous_bytes >> 20,
            print.memory.resident_bytes >> 20,
            print.store_bytes >> 20,
            print.log_bytes >> 20,
            print.store_bytes as f64 / least,
            print.commits.map_or("-".to_owned(), |commits| commits.to_string())
        );
    }
}

fn restarts(text: &mut String, findings: &Findings, options: &CompareOptions) {
    if findings.restarts.is_empty() {
        return;
    }
    let cache = if options.drop_caches { "page cache dropped" } else { "page cache as it is" };
    let _ = writeln!(
        text,
        "\nSIGKILL under {} puts in flight, {cache}, from start to first answer, in seconds:\n",
        options.load.lanes()
    );
    for side in Side::BOTH {
        let times: Vec<f64> =
            findings.restarts.iter().filter(|(own, _)| *own == side).map(|(_, seconds)| *seconds).collect();
        let all: Vec<String> = times.iter().map(|seconds| format!("{seconds:.2}")).collect();
        let _ = writeln!(
            text,
            "- {}: {} (each: {})",
            side.name(),
            median(times).map_or("-".to_owned(), |middle| format!("{middle:.2}")),
            all.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(spread(&[0.25, 0.5, 0.3]), "0.30 (0.25 to 0.50)");
        let pairs = Pairs { ringstone: vec![1.0, 3.0], etcd: vec![4.0, 6.0] };
        assert_eq!(pairs.cells(1), "2.0 | 5.0 | 0.38 (0.25 to 0.50)");
    }
}
