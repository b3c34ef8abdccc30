//! Which pages must not leave memory, because somebody is checking them at this moment?
//!
//! A page is given back while its bit is clear, and checked while its bit is clear. Who checks names the page, passes a fence,
//! and looks what is leaving; who gives back names that, passes a fence, and looks what is held. One of the fences comes
//! first: so at least one of the two sees the other, and leaves the page alone. Both seeing each other costs a read.
//!
//! Nothing is unsafe without it: a page that leaves while it is checked comes back by a major fault.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use crate::api::PageRun;

/// More threads than that share places, and may lose a hold to each other.
const PLACES: usize = 64;
/// Names no run.
const NOTHING: u64 = 0;

/// Runs by their names: no node begins at page 0.
pub(crate) struct Leaving {
    held: [AtomicU64; PLACES],
    leaving: AtomicU64,
}

impl Default for Leaving {
    fn default() -> Leaving {
        Leaving { held: [const { AtomicU64::new(NOTHING) }; PLACES], leaving: AtomicU64::new(NOTHING) }
    }
}

fn name_of(run: PageRun) -> u64 {
    run.first << 32 | u64::from(run.pages)
}

fn overlaps(name: u64, run: PageRun) -> bool {
    let (first, pages) = (name >> 32, name & u64::from(u32::MAX));
    name != NOTHING && first < run.first + u64::from(run.pages) && run.first < first + pages
}

fn place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
    }
    PLACE.with(|place| {
        let found = place.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed) % PLACES);
        place.set(Some(found));
        found
    })
}

impl Leaving {
    /// This thread checks the run; false: it is just leaving.
    pub fn hold(&self, run: PageRun) -> bool {
        self.held[place()].store(name_of(run), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if overlaps(self.leaving.load(Ordering::Acquire), run) {
            self.let_go();
            return false;
        }
        true
    }

    /// This thread has checked it: its bit is set by now, or it is of no use.
    pub fn let_go(&self) {
        self.held[place()].store(NOTHING, Ordering::Release);
    }

    /// The run is to be given back, by the one thread that does that; false: somebody checks a page of it.
    pub fn begin(&self, run: PageRun) -> bool {
        self.leaving.store(name_of(run), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.held.iter().any(|held| overlaps(held.load(Ordering::Acquire), run))
    }

    /// It is given back, or left.
    pub fn end(&self) {
        self.leaving.store(NOTHING, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_does_not_leave_and_what_leaves_is_not_held() {
        let leaving = Leaving::default();
        let run = |first, pages| PageRun { first, pages };
        assert!(leaving.hold(run(10, 2)));
        for (first, pages, may) in [(5, 5, true), (5, 6, false), (11, 1, false), (12, 4, true), (1, 4000, false)] {
            assert_eq!(leaving.begin(run(first, pages)), may, "{first}+{pages}");
            leaving.end();
        }
        leaving.let_go();
        assert!(leaving.begin(run(1, 4000)));
        assert!(!leaving.hold(run(10, 2)) && leaving.hold(run(4001, 1)));
        leaving.end();
        assert!(leaving.hold(run(10, 2)), "the hold of before was given up");
    }
}
