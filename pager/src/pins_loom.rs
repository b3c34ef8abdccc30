//! All interleavings of readers that pin and a writer that publishes, scans and uses again what nobody holds.
//! `RUSTFLAGS="--cfg loom" cargo test -p ringstone-pager --release pins`
//!
//! The root record has the form that `root.rs` gives it: memory that stays, used again for a later generation. A record's
//! content and the page that it leads to are loom cells: a write to one that a reader may still be reading fails the
//! model, and so does a reader that sees another generation's content.

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;
use loom::thread;

use super::*;

const RECORDS: usize = 2;

struct Record {
    generation: AtomicU64,
    /// The generation that the content, and the page behind it, were written for.
    content: UnsafeCell<u64>,
    page: UnsafeCell<u64>,
}

struct Store {
    pins: Pins,
    newest: AtomicUsize,
    records: [Record; RECORDS],
}

// SAFETY: this is what the model checks.
unsafe impl Sync for Store {}
// SAFETY: the same.
unsafe impl Send for Store {}

impl Store {
    fn new() -> Store {
        let record =
            |_| Record { generation: AtomicU64::new(0), content: UnsafeCell::new(0), page: UnsafeCell::new(0) };
        Store { pins: Pins::new(), newest: AtomicUsize::new(0), records: core::array::from_fn(record) }
    }

    fn newest(&self) -> (u64, usize) {
        let index = self.newest.load(Ordering::Acquire);
        (self.records[index].generation.load(Ordering::Acquire), index)
    }

    /// Reads what a pin of `generation` promises.
    fn check(&self, generation: u64, index: usize) {
        for cell in [&self.records[index].content, &self.records[index].page] {
            // SAFETY: pinned; loom fails where that is not true.
            let seen = cell.with(|content| unsafe { *content });
            assert_eq!(seen, generation, "a reader sees the state that it pinned");
        }
    }

    /// Publishes `generation` in the record that is not the newest, where nobody holds what stands in it.
    fn publish(&self, generation: u64) -> bool {
        let newest = self.newest.load(Ordering::Relaxed);
        let newest_generation = self.records[newest].generation.load(Ordering::Relaxed);
        let held = self.pins.scan(newest_generation);
        let index = (newest + 1) % RECORDS;
        let record = &self.records[index];
        let (born, freed) = (record.generation.load(Ordering::Relaxed), newest_generation);
        if held.holds(born, freed) {
            return false;
        }
        for cell in [&record.content, &record.page] {
            // SAFETY: nobody holds it; loom fails where that is not true.
            cell.with_mut(|content| unsafe { *content = generation });
        }
        record.generation.store(generation, Ordering::Release);
        self.newest.store(index, Ordering::Release);
        true
    }
}

impl Pinner {
    /// The bug: store, fence, and no second look.
    fn pin_without_second_look(&self, store: &Store) -> (Pin, usize) {
        let (generation, index) = store.newest();
        let pin = self.hold(generation).0;
        fence(Ordering::SeqCst);
        (pin, index)
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn no_reader_sees_a_record_or_a_page_that_was_used_again() {
    check(|| {
        let store = Arc::new(Store::new());
        let ticket = store.pins.register();
        let readers = store.clone();
        let reader = thread::spawn(move || {
            let pinner = Pinner::new(ticket);
            for _ in 0..2 {
                let (pin, index) = pinner.pin(|| readers.newest());
                readers.check(pin.generation(), index);
            }
        });
        for generation in 1..=3 {
            store.publish(generation);
        }
        reader.join().expect("the reader found what it had pinned");
    });
}

#[test]
fn two_readers_hold_their_own_generations() {
    check(|| {
        let store = Arc::new(Store::new());
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (ticket, store) = (store.pins.register(), store.clone());
                thread::spawn(move || {
                    let (pin, index) = Pinner::new(ticket).pin(|| store.newest());
                    store.check(pin.generation(), index);
                })
            })
            .collect();
        for generation in 1..=2 {
            store.publish(generation);
        }
        readers.into_iter().for_each(|reader| reader.join().expect("the reader found what it had pinned"));
    });
}

#[test]
fn nested_pins_share_a_word_or_take_the_floor() {
    check(|| {
        let store = Arc::new(Store::new());
        let ticket = store.pins.register();
        let readers = store.clone();
        let reader = thread::spawn(move || {
            let pinner = Pinner::new(ticket);
            let (outer, outer_index) = pinner.pin(|| readers.newest());
            let (inner, inner_index) = pinner.pin(|| readers.newest());
            readers.check(outer.generation(), outer_index);
            drop(outer);
            readers.check(inner.generation(), inner_index);
        });
        for generation in 1..=3 {
            store.publish(generation);
        }
        reader.join().expect("the reader found what it had pinned");
    });
}

#[test]
#[should_panic]
fn a_pin_without_the_second_look_is_caught() {
    check(|| {
        let store = Arc::new(Store::new());
        let ticket = store.pins.register();
        let readers = store.clone();
        let reader = thread::spawn(move || {
            let (pin, index) = Pinner::new(ticket).pin_without_second_look(&readers);
            readers.check(pin.generation(), index);
        });
        for generation in 1..=3 {
            store.publish(generation);
        }
        reader.join().expect("the reader found what it had pinned");
    });
}
