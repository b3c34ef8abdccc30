//! When is the page file made shorter, and how fast?
//!
//! Too eagerly, and a store that is written to gives away what its next checkpoint needs: the file would shrink and grow in
//! turn, and everything be written twice. Too late costs space only. So a file shrinks when a tenth of it, and at least
//! 16 MiB, is more than what lives there needs: that, an eighth of it, and as much as was lately waiting to be written, or to be
//! free again because a meta still has it: what churn needs.
//!
//! ```text
//!  tick    regions whose free space is not known are looked at, one by one; then: is the file too long? -> ceiling
//!          moving: so many pages until the next tick
//!  turn    a step, between entries, while frames are below their bound; then published
//!  reads   beside those that apply needs, and apply never waits for one
//!  done    checkpoints, forced ones where nothing else brings them about: the third is shorter, the fourth cuts the file
//! ```
//! Where little is done for a while, and the metas alone stand in the way of all that, checkpoints are forced as well.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ahash::AHashSet;
use ringstone_pager::api::{Damage, PageRun};
use ringstone_pager::layout::FILE_PAGES_MAX;

use super::Group;

const PAGE_BYTES: u64 = 4096;
/// The least that it is worth.
const LEAST_PAGES: u64 = (16 << 20) / PAGE_BYTES;
/// And what any file has besides.
const SLACK_PAGES: u64 = 256;
/// Pages moved in a tick of 100 ms, and at once, while nothing else is done: 20 MB/s.
const IDLE_PAGES: u64 = 512;
/// The same beside a load: 10 MB/s, in steps of a quarter of a millisecond.
const BUSY_PAGES: u64 = 256;
const BUSY_STEP_PAGES: u64 = 64;
/// So long after the last entry nobody waits.
const IDLE: Duration = Duration::from_millis(200);
/// Between two attempts, and after the file has grown.
const PAUSE: Duration = Duration::from_secs(5);
/// After an attempt that found no room below its ceiling.
const PAUSE_WITHOUT_ROOM: Duration = Duration::from_secs(10);
/// After an attempt at whose end something stands that can't be moved; doubled by each that follows, up to an hour and a half.
const STUCK_PAUSE: Duration = Duration::from_secs(5);
const STUCK_DOUBLINGS_MAX: u32 = 10;
/// Between two looks at a region while others wait: its runs are sorted out in a millisecond or two.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Checkpoints that are forced one after the other: as many as it takes where no pin holds anything, and two.
const FORCED_MAX: u32 = 6;
/// Between forced checkpoints beside a load.
const FORCED_INTERVAL: Duration = Duration::from_secs(2);
/// By so much the time between two of them grows with each that brought nothing about: a snapshot that is being taken holds
/// what was freed since.
const FORCED_INTERVAL_MORE: Duration = Duration::from_millis(500);
/// Bytes that wait for the metas, below which no checkpoint is forced for them.
const HELD_BYTES_LEAST: u64 = 1 << 20;

/// Where an attempt is.
#[derive(Debug)]
pub(super) struct Shrinking {
    /// The least pages that an attempt is worth.
    least_pages: u64,
    is_moving: bool,
    /// Pages that may be moved before the next tick.
    credit: u64,
    /// Pages to be read for the next step, and those under way.
    needed: Vec<PageRun>,
    reads: AHashSet<u64>,
    /// The most pages that were lately waiting to be free again.
    pending_peak: f64,
    not_before: Duration,
    /// Where the file should end by the attempt that goes on.
    wanted: Option<u64>,
    /// Attempts in a row after which it ended elsewhere, though all was moved: a page that can't be read, a closed region.
    stuck: u32,
    stuck_until: Duration,
    next_look: Duration,
    forced: u32,
    /// The longest that the file was since its last cut was told.
    longest_bytes: u64,
}

impl Default for Shrinking {
    fn default() -> Shrinking {
        Shrinking {
            least_pages: LEAST_PAGES,
            is_moving: false,
            credit: 0,
            needed: Vec::new(),
            reads: AHashSet::new(),
            pending_peak: 0.0,
            not_before: Duration::ZERO,
            wanted: None,
            stuck: 0,
            stuck_until: Duration::ZERO,
            next_look: Duration::ZERO,
            forced: 0,
            longest_bytes: 0,
        }
    }
}

/// The page where a file of this content should end; none where it is not worth it.
fn wanted_pages(file: u64, live: u64, pending_peak: u64, least_pages: u64) -> Option<u64> {
    let needed = live + live / 8 + pending_peak + SLACK_PAGES;
    (file.saturating_sub(needed) >= least_pages.max(file / 10)).then_some(needed)
}

/// Is a peak that is being forgotten what the length depends on? Then a little later one attempt moves what now takes several.
fn is_passing(pending_peak: u64, pending: u64, live: u64) -> bool {
    pending_peak > pending + pending / 4 + live / 16 + 256
}

impl Group {
    /// Sets what shrinking the file is worth at least, in bytes; from the longest file on, nothing is even looked at.
    pub fn set_shrink_least(&mut self, bytes: u64) {
        self.shrinking.least_pages = bytes / PAGE_BYTES;
    }

    fn is_idle(&self) -> bool {
        self.now.saturating_sub(self.pace.last_entry()) >= IDLE
    }

    /// A tick's part.
    pub(super) fn tick_shrink(&mut self) {
        let pending = self.pending_pages();
        // Half of it is forgotten in 1.4 s of idleness, in 7 s of load: what a load needs comes back with each checkpoint.
        let kept = if self.is_idle() { 0.95 } else { 0.99 };
        self.shrinking.pending_peak = (self.shrinking.pending_peak * kept).max(pending as f64);
        self.tell_cut();
        self.note_end();
        if self.stopping {
            return;
        }
        let may_shrink = self.shrinking.least_pages < FILE_PAGES_MAX;
        if may_shrink && self.now >= self.shrinking.next_look && self.pager.look_at_region() {
            self.shrinking.next_look = if self.is_idle() { self.now } else { self.now + LOOK_INTERVAL };
        }
        if self.shrinking.is_moving {
            self.shrinking.credit = if self.is_idle() { IDLE_PAGES } else { BUSY_PAGES };
        } else {
            self.maybe_begin_shrink();
        }
    }

    fn maybe_begin_shrink(&mut self) {
        // What took the room of the last attempt is over.
        let is_calm = self.now.saturating_sub(self.pace.last_entry()) >= PAUSE;
        let may = (self.now >= self.shrinking.not_before || is_calm)
            && self.now >= self.shrinking.stuck_until
            && self.pager.shrink_ceiling().is_none()
            && !self.pager.shrink_awaits_checkpoint()
            && !self.pager.shrink_is_cutting()
            && self.pager.unread_regions() == 0
            && !self.checkpoint_running()
            && !self.sweep_pending();
        if !may {
            return;
        }
        let (file, live) = self.file_and_live_pages();
        let peak = self.shrinking.pending_peak as u64;
        let Some(pages) = wanted_pages(file, live, peak, self.shrinking.least_pages) else { return };
        if is_passing(peak, self.pending_pages(), live) {
            return;
        }
        if self.pager.shrink_begin(pages) {
            tracing::info!(
                file_bytes = file * PAGE_BYTES,
                live_bytes = live * PAGE_BYTES,
                to_bytes = pages * PAGE_BYTES,
                "the page file has more room than it needs: what stands at its end is moved"
            );
            self.shrinking.is_moving = true;
            self.shrinking.wanted = Some(pages);
            self.shrinking.forced = 0;
        }
    }

    /// Pages that wait for the metas to let go of them, and those that the next checkpoint writes.
    fn pending_pages(&self) -> u64 {
        (self.pager.held_bytes() + self.pager.dirty_bytes()) / PAGE_BYTES
    }

    fn file_and_live_pages(&self) -> (u64, u64) {
        let live = self.pager.file_bytes_in_use() - self.pager.held_bytes();
        (self.pager.file_bytes() / PAGE_BYTES, live / PAGE_BYTES)
    }

    /// Moves some pages, where nothing is in the way. Between entries: it publishes.
    pub(super) fn shrink_some(&mut self) {
        let may = self.shrinking.is_moving
            && self.shrinking.credit > 0
            && self.shrinking.reads.is_empty()
            && self.shrinking.needed.is_empty()
            && self.absent.is_none()
            && self.removal.is_none()
            && !self.stopping
            && !self.sweep_pending()
            && !self.is_pressed()
            && self.pager.dirty_bytes() < self.pace.dirty_bytes_max;
        if !may {
            return;
        }
        let most = if self.is_idle() { IDLE_PAGES } else { BUSY_STEP_PAGES };
        let step = self.pager.shrink_step(most.min(self.shrinking.credit));
        self.shrinking.credit = self.shrinking.credit.saturating_sub(step.moved_pages);
        self.shrinking.reads.extend(step.absent.iter().map(|run| run.first));
        self.shrinking.needed.extend(step.absent);
        if step.is_done {
            self.shrinking.is_moving = false;
            let has_room = self.pager.shrink_awaits_checkpoint();
            self.shrinking.not_before = self.now + if has_room { PAUSE } else { PAUSE_WITHOUT_ROOM };
            if !has_room {
                self.shrinking.wanted = None;
            }
        }
        if step.moved_pages > 0 || step.is_done {
            self.shared.shrink_moved_bytes.fetch_add(step.moved_pages * PAGE_BYTES, Ordering::Relaxed);
            self.publish();
        }
    }

    /// A page that a step needs: read when apply needs none.
    pub(super) fn poll_shrink_read(&mut self) -> Option<PageRun> {
        self.shrinking.needed.pop()
    }

    /// A page was read, whoever asked for it.
    pub(super) fn shrink_read(&mut self, run: PageRun, result: &Result<(), Damage>) {
        if self.shrinking.reads.remove(&run.first)
            && let Err(damage) = result
        {
            self.pager.shrink_unreadable(run, damage.clone());
        }
    }

    /// Everything is moved, or the metas alone hold what would make the file long enough to be worth it; and nothing else
    /// brings the checkpoints about that are left to be done.
    pub(super) fn forces_checkpoint(&mut self, is_quiet: bool) -> bool {
        if self.shrinking.is_moving || self.stopping {
            return false;
        }
        let awaits = self.pager.shrink_awaits_checkpoint();
        if !awaits && !self.is_held() {
            self.shrinking.forced = 0;
            return false;
        }
        let since = self.now.saturating_sub(self.pace.last_begin());
        let forced = self.shrinking.forced;
        (is_quiet && forced < FORCED_MAX) || since >= FORCED_INTERVAL + FORCED_INTERVAL_MORE * forced
    }

    fn is_held(&self) -> bool {
        let (file, live) = self.file_and_live_pages();
        self.pager.held_bytes() >= HELD_BYTES_LEAST && wanted_pages(file, live, 0, self.shrinking.least_pages).is_some()
    }

    pub(super) fn note_forced(&mut self) {
        self.shrinking.forced += 1;
    }

    /// What came of an attempt.
    fn note_end(&mut self) {
        let goes_on =
            self.shrinking.is_moving || self.pager.shrink_awaits_checkpoint() || self.pager.shrink_is_cutting();
        let Some(wanted) = self.shrinking.wanted.filter(|_| !goes_on) else { return };
        self.shrinking.wanted = None;
        if self.pager.file_bytes() > wanted * PAGE_BYTES {
            self.shrinking.stuck += 1;
            self.shrinking.stuck_until =
                self.now + STUCK_PAUSE * 2_u32.pow(self.shrinking.stuck.min(STUCK_DOUBLINGS_MAX));
        } else {
            self.shrinking.stuck = 0;
        }
    }

    /// Says what was cut off, once it is.
    fn tell_cut(&mut self) {
        let (now, longest) = (self.pager.length_bytes(), self.shrinking.longest_bytes);
        if now > longest {
            self.shrinking.not_before = self.shrinking.not_before.max(self.now + PAUSE);
        }
        if now >= longest || self.pager.shrink_awaits_checkpoint() || self.pager.shrink_is_cutting() {
            self.shrinking.longest_bytes = longest.max(now);
            return;
        }
        tracing::info!("the page file was cut from {longest} to {now} bytes");
        self.shared.cut_bytes.fetch_add(longest - now, Ordering::Relaxed);
        self.shrinking.longest_bytes = now;
        self.shrinking.not_before = self.now + PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = (1 << 20) / PAGE_BYTES;

    #[test]
    fn a_file_shrinks_when_a_tenth_of_it_is_more_than_life_and_churn_need() {
        // Four fifths of 2 GiB are gone: it ends under 1.3 times of what lives.
        let to = wanted_pages(2048 * MIB, 400 * MIB, 0, LEAST_PAGES).expect("it is worth it");
        assert!(to * 10 < 400 * MIB * 13 && to > 400 * MIB, "{}", to / MIB);
        // There it stays: with what is left to churn, and at any length below 1.25 times what lives.
        assert_eq!(wanted_pages(to, 400 * MIB, 0, LEAST_PAGES), None);
        assert_eq!(wanted_pages(500 * MIB, 400 * MIB, 0, LEAST_PAGES), None);
        assert!(wanted_pages(505 * MIB, 400 * MIB, 0, LEAST_PAGES).is_some());
        // What waits to be free again is needed, and a small store is left alone.
        assert_eq!(wanted_pages(800 * MIB, 400 * MIB, 300 * MIB, LEAST_PAGES), None);
        assert_eq!(wanted_pages(20 * MIB, 5 * MIB, 0, LEAST_PAGES), None);
        assert_eq!(wanted_pages(0, 0, 0, LEAST_PAGES), None);
        // A peak of the past is waited for, what a load needs all the time is not.
        assert!(is_passing(300 * MIB, 10 * MIB, 400 * MIB) && !is_passing(300 * MIB, 250 * MIB, 400 * MIB));
        assert!(!is_passing(30 * MIB, 10 * MIB, 400 * MIB));
    }
}
