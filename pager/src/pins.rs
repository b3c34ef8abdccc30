//! Which generations may a reader still be looking at?
//!
//! A wrong "nobody" is a use-after-free on another core; a wrong "somebody" costs space. A reader stores the newest
//! generation to its slot, passes a SeqCst fence, and looks again whether it is still the newest; if not, it retries. The
//! writer publishes, passes a SeqCst fence, then scans the slots. One of the two fences comes first: either the scan sees
//! the pin, or the reader sees the newer root and retries. Store and fence without the second look is the bug that this
//! file exists to avoid; `tests_loom` shows that the model catches it.
//!
//! A slot belongs to one thread and is a cache line of its own. It has a word for each generation that the thread has
//! pinned, so that an old pin beside new ones holds only what it sees. When the words run out, one more, the *floor*,
//! holds everything from a generation on. A pin stays in the word that it began in, so a scan that sees the words at
//! different moments misses none.
//!
//! What a scan says can be stale in one direction only: a pin that has gone since is still reported.

use smallvec::SmallVec;

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
use loom::sync::{Arc, Mutex};
use std::cell::RefCell;
use std::rc::Rc;
#[cfg(not(loom))]
use std::sync::{Arc, Mutex, PoisonError};

/// Words of a slot for single generations; two cache lines (the unit that x86 prefetches) with the floor.
#[cfg(not(loom))]
const WORDS: usize = 15;
#[cfg(loom)]
const WORDS: usize = 1;

/// A word that pins nothing.
const NONE: u64 = u64::MAX;

#[repr(align(128))]
struct Slot {
    words: [AtomicU64; WORDS],
    floor: AtomicU64,
}

impl Slot {
    fn new() -> Slot {
        Slot { words: core::array::from_fn(|_| AtomicU64::new(NONE)), floor: AtomicU64::new(NONE) }
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 128);

/// The slots of all readers. The writer scans it; clones are handles of the same slots.
#[derive(Clone)]
pub struct Pins {
    /// Slots are never removed; a reader that ends leaves its own to the next. Locked for registration and scans, never
    /// by a pin.
    slots: Arc<Mutex<Registry>>,
}

/// Each slot, and whether a reader has it.
type Registry = Vec<(Arc<Slot>, bool)>;

/// The right to one slot, on its way to the thread that will use it.
pub struct PinTicket {
    pins: Pins,
    slot: Arc<Slot>,
}

impl Default for Pins {
    fn default() -> Pins {
        Pins::new()
    }
}

impl Drop for PinTicket {
    fn drop(&mut self) {
        for (slot, used) in self.pins.lock().iter_mut() {
            if Arc::ptr_eq(slot, &self.slot) {
                *used = false;
            }
        }
    }
}

impl Pins {
    /// No readers yet.
    #[must_use]
    pub fn new() -> Pins {
        Pins { slots: Arc::new(Mutex::new(Vec::new())) }
    }

    #[cfg(not(loom))]
    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(loom)]
    fn lock(&self) -> loom::sync::MutexGuard<'_, Registry> {
        self.slots.lock().expect("the model does not poison locks")
    }

    /// A slot for one more reader: once per thread, not per read.
    #[must_use]
    pub fn register(&self) -> PinTicket {
        let mut slots = self.lock();
        let free = slots.iter_mut().find(|(_, used)| !used);
        let slot = match free {
            Some((slot, used)) => {
                *used = true;
                slot.clone()
            }
            None => {
                let slot = Arc::new(Slot::new());
                slots.push((slot.clone(), true));
                slot
            }
        };
        drop(slots);
        PinTicket { pins: self.clone(), slot }
    }

    /// What readers hold. `newest` is the generation that the caller, the only writer, has published last: that one and
    /// all to come count as held. Everything that a reader did before it let go is ordered before this returns.
    #[must_use]
    pub fn scan(&self, newest: u64) -> Held {
        fence(Ordering::SeqCst);
        let mut held = Held { single: SmallVec::new(), floor: newest };
        for (slot, _) in self.lock().iter() {
            for word in &slot.words {
                held.add(word.load(Ordering::Acquire));
            }
            held.floor = held.floor.min(slot.floor.load(Ordering::Acquire));
        }
        held.single.retain(|generation| *generation < held.floor);
        held.single.sort_unstable();
        held.single.dedup();
        held
    }
}

/// The generations that somebody holds, as of one scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Ascending, all below the floor.
    single: SmallVec<[u64; 16]>,
    /// This one and all later ones are held.
    floor: u64,
}

impl Held {
    /// Nobody reads; `newest` is the published generation.
    #[must_use]
    pub fn only(newest: u64) -> Held {
        Held { single: SmallVec::new(), floor: newest }
    }

    fn add(&mut self, generation: u64) {
        if generation != NONE {
            self.single.push(generation);
        }
    }

    /// Adds a generation that something else than a pin holds.
    pub fn insert(&mut self, generation: u64) {
        if generation < self.floor
            && let Err(index) = self.single.binary_search(&generation)
        {
            self.single.insert(index, generation);
        }
    }

    /// Is the state of this generation held?
    #[must_use]
    pub fn contains(&self, generation: u64) -> bool {
        generation >= self.floor || self.single.binary_search(&generation).is_ok()
    }

    /// Is it held on its own, not only as one of all from the floor on?
    pub(crate) fn is_single(&self, generation: u64) -> bool {
        self.single.binary_search(&generation).is_ok()
    }

    /// Is something held that exists in the generations `born..freed`?
    #[must_use]
    pub fn holds(&self, born: u64, freed: u64) -> bool {
        self.holder(born, freed).is_some()
    }

    /// The newest generation that holds `born..freed`; for the open end the floor, which need not be in that range.
    #[must_use]
    pub fn holder(&self, born: u64, freed: u64) -> Option<u64> {
        if freed > self.floor && freed > born {
            return Some(self.floor);
        }
        let below = self.single.partition_point(|generation| *generation < freed);
        self.single[..below].last().copied().filter(|generation| *generation >= born)
    }

    /// All generations from this one on are held.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The oldest generation that is held: for metrics, and for the age limit of pins.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.single.first().copied().unwrap_or(self.floor)
    }
}

/// One thread's pins.
#[derive(Clone)]
pub struct Pinner {
    local: Rc<Local>,
}

struct Local {
    ticket: PinTicket,
    table: RefCell<Table>,
}

#[derive(Default)]
struct Table {
    /// The generation in each word of the slot and how many pins share it; 0 where the word is free.
    words: [(u64, u32); WORDS],
    /// Pins that found no word: their generations, with counts.
    floored: SmallVec<[(u64, u32); 4]>,
}

impl Pinner {
    /// Takes the slot into use on this thread.
    #[must_use]
    pub fn new(ticket: PinTicket) -> Pinner {
        Pinner { local: Rc::new(Local { ticket, table: RefCell::default() }) }
    }

    /// Pins the newest state. `newest` gives its generation and where it is; it is asked before the pin is visible, when
    /// its answer may be stale (so it must not look at what can be freed), and again behind the fence, until both agree.
    /// The second word of the answer may then be used as long as the pin lives.
    pub fn pin<T: PartialEq>(&self, newest: impl Fn() -> (u64, T)) -> (Pin, T) {
        let mut answer = newest();
        loop {
            let (pin, certain) = self.hold(answer.0);
            if !certain {
                fence(Ordering::SeqCst);
            }
            // A generation that this thread had pinned already is still there, whether it is the newest or not; but its
            // place is known for certain only when it is told again.
            let again = newest();
            if again == answer {
                return (pin, again.1);
            }
            answer = again;
        }
    }

    /// True: the thread held this generation already, so that no fence is needed.
    fn hold(&self, generation: u64) -> (Pin, bool) {
        assert!(generation != NONE, "generations are below u64::MAX");
        let slot = &self.local.ticket.slot;
        let mut table = self.local.table.borrow_mut();
        let known = table.words.iter().position(|(word, count)| *count > 0 && *word == generation);
        let free = table.words.iter().position(|(_, count)| *count == 0);
        let place = if let Some(index) = known {
            table.words[index].1 += 1;
            Place::Word(index)
        } else if let Some(index) = free {
            table.words[index] = (generation, 1);
            // Release: a scan that sees this word instead of the one before it is ordered behind what was read under that.
            slot.words[index].store(generation, Ordering::Release);
            Place::Word(index)
        } else {
            match table.floored.iter_mut().find(|(floored, _)| *floored == generation) {
                Some((_, count)) => *count += 1,
                None => table.floored.push((generation, 1)),
            }
            slot.floor.store(table.floor(), Ordering::Release);
            Place::Floor
        };
        (Pin { local: self.local.clone(), generation, place }, known.is_some())
    }

    /// The slots that this one's is among.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.local.ticket.pins
    }

    /// The oldest generation that this thread holds.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        let table = self.local.table.borrow();
        let words = table.words.iter().filter(|(_, count)| *count > 0).map(|(word, _)| *word);
        words.chain(table.floored.iter().map(|(floored, _)| *floored)).min()
    }
}

impl Table {
    fn floor(&self) -> u64 {
        self.floored.iter().map(|(floored, _)| *floored).min().unwrap_or(NONE)
    }
}

/// Keeps one generation's pages and root record from being used again. Belongs to its thread.
pub struct Pin {
    local: Rc<Local>,
    generation: u64,
    place: Place,
}

/// Where a pin stands in its slot, from its beginning to its end.
#[derive(Clone, Copy)]
enum Place {
    Word(usize),
    Floor,
}

impl Pin {
    /// The generation that it holds.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let slot = &self.local.ticket.slot;
        let mut table = self.local.table.borrow_mut();
        match self.place {
            Place::Word(index) => {
                table.words[index].1 -= 1;
                if table.words[index].1 == 0 {
                    slot.words[index].store(NONE, Ordering::Release);
                }
            }
            Place::Floor => {
                table.floored.iter_mut().filter(|(floored, _)| *floored == self.generation).for_each(|(_, n)| *n -= 1);
                table.floored.retain(|(_, count)| *count > 0);
                slot.floor.store(table.floor(), Ordering::Release);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
#[path = "pins_tests.rs"]
mod tests;
#[cfg(all(test, loom))]
#[path = "pins_loom.rs"]
mod tests_loom;
