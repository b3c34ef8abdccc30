//! How much of the page file may stay in memory, and who sees to it.
//!
//! The group forgets (it is the pages' writer, see the pager's eviction.rs); a thread of its own gives back, for that blocks, and
//! executors must not. The budget is what the cgroup (or the machine)
//! has, without what anonymous memory may take and a reserve for the kernel: the log on its way, dirty pages, sockets. As
//! long as the file is shorter than that, the thread sleeps.

#[cfg(feature = "glommio")]
use std::fs;
#[cfg(feature = "glommio")]
use std::path::{Path, PathBuf};
#[cfg(feature = "glommio")]
use std::sync::Arc;
use std::sync::atomic::Ordering;
#[cfg(feature = "glommio")]
use std::thread;
use std::time::Duration;

use crate::shared::Shared;

#[cfg(feature = "glommio")]
const PAGE_BYTES: u64 = 4096;
/// Between turns while pages leave: longer than a reader keeps what it has looked at.
const BUSY: Duration = Duration::from_millis(30);
/// So many major faults within so long, and pages are no longer believed to be in memory: each of them is looked at once more, which
/// costs a put a tenth for as long as it takes to meet all (docs/profile.md). One fault alone costs one read.
const FAULTS_OF_PRESSURE: u64 = 8;
const FAULTS_WINDOW: Duration = Duration::from_secs(1);
/// How long a step that needs many pages at once is given before it asks again.
const KEPT: Duration = Duration::from_secs(2);
#[cfg(feature = "glommio")]
/// Between looks otherwise.
const IDLE: Duration = Duration::from_millis(100);
#[cfg(feature = "glommio")]
/// Looks between two at the limits, which an operator may change.
const LOOKS_A_LIMIT: u32 = 100;
#[cfg(feature = "glommio")]
/// The least that the file gets.
const BUDGET_LEAST: u64 = 32 << 20;

#[cfg(feature = "glommio")]
/// Starts the thread. It ends with the process.
pub(crate) fn start(shared: Arc<Shared>) {
    let spawned = thread::Builder::new().name("evictor".to_owned()).spawn(move || run(&shared));
    if let Err(error) = spawned {
        tracing::warn!(error = %error, "no thread to give memory back: the kernel takes it where it needs it");
    }
}

#[cfg(feature = "glommio")]
fn run(shared: &Shared) {
    let Some(evictor) = shared.evictor.get() else { return };
    let budget = || budget_bytes(memory_bytes(), shared.config.memory_limit_bytes) / PAGE_BYTES;
    evictor.set_budget(budget());
    for look in 1_u32.. {
        let is_busy = evictor.drop_forgotten().unwrap_or_else(|error| {
            tracing::warn!(error = %error, "memory of the page file could not be given back");
            false
        });
        if shared.has_ended() {
            return;
        }
        thread::sleep(if is_busy { BUSY } else { IDLE });
        if look.is_multiple_of(LOOKS_A_LIMIT) {
            evictor.set_budget(budget());
        }
    }
}

/// What the group does of it: forgetting, when it is neither in the middle of an entry nor asked to wait.
#[derive(Debug, Default)]
pub(crate) struct Forgetting {
    last: Duration,
    taken: Taken,
}

/// Major faults, by which the kernel's taking of pages is told from a page that is absent once for reasons of its own.
#[derive(Debug, Default)]
struct Taken {
    since: Duration,
    faults: u64,
}

impl Taken {
    /// `faults`: since the process began. True where so many came so fast that the kernel needs memory for others.
    fn is_seen(&mut self, faults: u64, now: Duration) -> bool {
        let is_seen = faults >= self.faults + FAULTS_OF_PRESSURE;
        if is_seen || now >= self.since + FAULTS_WINDOW {
            *self = Taken { since: now, faults };
        }
        is_seen
    }
}

impl Forgetting {
    /// Between two entries.
    pub(crate) fn turn(&mut self, shared: &Shared, now: Duration) {
        let Some(evictor) = shared.evictor.get().filter(|_| now >= self.last + BUSY) else { return };
        self.last = now;
        if now < Duration::from_millis(shared.keeps_pages_until_ms.load(Ordering::Relaxed)) {
            return;
        }
        evictor.forget();
        let faults = shared.metrics.iter().map(|shard| shard.major_faults.load(Ordering::Relaxed)).sum();
        if self.taken.is_seen(faults, now) {
            evictor.forget_all();
        }
    }
}

/// One step that needs all its pages at once, and has met so many absent ones in a row, gets them all, whatever the budget: it
/// would never come to its end else.
pub(crate) const ABSENT_IN_A_ROW: u32 = 1024;

/// For a while nothing is forgotten.
pub(crate) fn keep_pages(shared: &Shared, now: Duration) {
    let until = u64::try_from((now + KEPT).as_millis()).unwrap_or(u64::MAX);
    shared.keeps_pages_until_ms.fetch_max(until, Ordering::Relaxed);
}

#[cfg(feature = "glommio")]
/// What the page file may have of so much memory, beside so much anonymous memory.
fn budget_bytes(memory_bytes: u64, memory_limit_bytes: u64) -> u64 {
    memory_bytes.saturating_sub(memory_limit_bytes).saturating_sub(memory_bytes / 8).max(BUDGET_LEAST)
}

#[cfg(feature = "glommio")]
/// Bytes of memory that this process may have: the machine's, or the least limit of its cgroup and those above it.
pub(crate) fn memory_bytes() -> u64 {
    // SAFETY: sysconf takes a number and touches no memory.
    let (pages, page_bytes) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let machine = u64::try_from(pages).unwrap_or(0).saturating_mul(u64::try_from(page_bytes).unwrap_or(PAGE_BYTES));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limits_of(Path::new("/sys/fs/cgroup"), &groups).into_iter().fold(machine, u64::min)
}

#[cfg(feature = "glommio")]
/// The limits that a mount of cgroups (version 2, or 1 with the memory controller below it) has for these lines of
/// /proc/self/cgroup. A container may see its own group as the root.
fn limits_of(mount: &Path, groups: &str) -> Vec<u64> {
    let mut files: Vec<PathBuf> = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, name) = match controllers {
            "" => (mount.to_owned(), "memory.max"),
            some if some.split(',').any(|controller| controller == "memory") => {
                (mount.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut group = Path::new(group.trim_start_matches('/'));
        files.push(root.join(name));
        while !group.as_os_str().is_empty() {
            files.push(root.join(group).join(name));
            group = group.parent().unwrap_or(Path::new(""));
        }
    }
    files.iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).collect()
}

#[cfg(all(test, feature = "glommio"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_pages_where_many_are_gone_at_once() {
        let seen = |told: &[(u64, u64)]| {
            let mut taken = Taken::default();
            let told = told.iter().map(|(ms, faults)| taken.is_seen(*faults, Duration::from_millis(*ms)));
            told.collect::<Vec<bool>>()
        };
        assert_eq!(
            seen(&[(2000, 5), (2030, 6), (2900, 11), (3100, 12), (3200, 13), (4200, 19)]),
            [false; 6],
            "one now and then"
        );
        assert_eq!(seen(&[(2000, 5), (2030, 13), (2060, 14), (2500, 21)]), [false, true, false, true]);
    }

    #[test]
    fn the_budget_is_what_anonymous_memory_and_the_kernel_leave() {
        assert_eq!(budget_bytes(512 << 20, 192 << 20), 256 << 20);
        assert_eq!(budget_bytes(16 << 30, 4 << 30), 10 << 30);
        assert_eq!(budget_bytes(128 << 20, 192 << 20), BUDGET_LEAST);
    }

    #[test]
    fn the_limits_of_a_group_and_of_those_above_it_are_found() {
        let mount = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = mount.path().join(name);
            fs::create_dir_all(path.parent().expect("in the mount")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/a/memory.limit_in_bytes", "1000\n");
        write("memory/a/b/memory.limit_in_bytes", "2000\n");
        write("memory/c/memory.limit_in_bytes", "1\n");
        let mut limits = limits_of(mount.path(), "12:cpu,cpuacct:/c\n4:memory:/a/b\n0::/x\n");
        limits.sort_unstable();
        assert_eq!(limits, [1000, 2000, 9_223_372_036_854_771_712]);
        write("x/y/memory.max", "max\n");
        write("x/memory.max", "77\n");
        assert_eq!(limits_of(mount.path(), "0::/x/y\n"), [77]);
        assert!(limits_of(mount.path(), "nonsense").is_empty());
    }
}
