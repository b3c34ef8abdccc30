//! A log in which a later leader has cut the tail of an earlier one, as a follower writes it: after a power cut at any I/O
//! the member opens with the old tail or with the new one, never with a mixture. A sole voter never cuts its log, so the
//! records are written here by the log itself; who opens them is the shipping group.
//!
//! `RINGSTONE_CRASH_SEEDS` set: the opening is ended at each of its I/Os as well, not only at one.
//!
//! Not checked: a configuration among the cut entries, and a page file that is ahead of the cut (raft forbids it).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::support::disks::{Disks, End, Fuse};
use super::support::history::{Made, created, rounds};
use super::support::journal::Journal;
use super::support::life::{self, IDENTITY};
use ringstone_core::command::{Command, Put};
use ringstone_core::entry::{Draft, Envelope};
use ringstone_wal::{Kind, Log, Record, run_until_idle};

/// An entry of the log, or what changes entries.
#[derive(Clone, Debug)]
struct Owned {
    kind: Kind,
    term: u64,
    index: u64,
    payload: Vec<u8>,
}

impl Owned {
    fn borrow(&self) -> Record<'_> {
        Record { group: 0, kind: self.kind, term: self.term, index: self.index, payload: &self.payload }
    }
}

fn put(term: u64, index: u64, value: &str) -> Owned {
    let envelope = Envelope { proposer: IDENTITY.member_id, ..Envelope::default() };
    let command = Command::Put(Put { key: b"tail".to_vec(), value: value.into(), ..Put::default() });
    let payload = Draft::new(&envelope, &command).seal(0, 0).to_vec();
    Owned { kind: Kind::Entry, term, index, payload }
}

/// The last entry and hard state of a log.
fn last(disks: &Disks) -> (u64, Owned) {
    let (mut index, mut hard_state) = (0, None);
    let mut visit = |record: Record<'_>| match record.kind {
        Kind::Entry => index = record.index,
        Kind::HardState => {
            let (kind, term, index) = (record.kind, record.term, record.index);
            hard_state = Some(Owned { kind, term, index, payload: record.payload.to_vec() });
        }
        _ => {}
    };
    let identity = life::log_options(disks).identity;
    ringstone_wal::recovery::read_only(&mut *disks.log_mut(), identity, &mut visit).expect("a sound log");
    (index, hard_state.expect("a term was begun"))
}

/// A member with some history, and what its log is to take: the tail of the old leader, then that of the new one over its
/// second half.
fn member() -> (Disks, Vec<Owned>) {
    let disks = created();
    let mut life = life::open(&disks, &Fuse::whole(), &Journal::new().shared(), 7).expect("the disks work");
    rounds(&mut life, 7, 8, &mut Made::default()).expect("the disks work");
    drop(life);
    let (index, hard_state) = last(&disks);
    // The next start begins the next term: what it writes is what the new leader's follower would.
    let later = disks.after(End::Kill);
    let mut life = life::open(&later, &Fuse::whole(), &Journal::blind().shared(), 8).expect("the disks work");
    life.until_ready().expect("the disks work");
    let (_, next) = last(&later);
    let term = hard_state.term;
    assert!(next.term > term);
    let old = (1..=4).map(|at| put(term, index + at, &format!("old {at}")));
    let truncate = Owned { kind: Kind::Truncate, term: 0, index: index + 3, payload: vec![] };
    let entries = (3..=5).map(|at| put(next.term, index + at, &format!("new {at}")));
    let records = old.chain([next.clone(), truncate]).chain(entries).collect();
    (disks.after(End::Kill), records)
}

/// Appends the records, each in a batch of its own where `alone`; stops at this step. How many are known to be on disk.
fn follow(disks: &Disks, records: &[Owned], alone: bool, step: u64) -> usize {
    let disk = &mut *disks.log_mut();
    disk.crash_at(step);
    let Ok((mut log, _)) = Log::open(disk, life::log_options(disks), &mut |_| {}) else { return 0 };
    let mut synced = 0;
    for (number, record) in records.iter().enumerate() {
        log.append(record.borrow()).expect("the batch has room");
        if alone || number + 1 == records.len() {
            if run_until_idle(disk, &mut log).is_err() {
                return synced;
            }
            synced = number + 1;
        }
    }
    synced
}

/// The values that the key had, first one first.
fn values(disks: &Disks) -> Vec<String> {
    values_watched(disks, &Fuse::whole())
}

fn values_watched(disks: &Disks, fuse: &Fuse) -> Vec<String> {
    let mut life = life::open(disks, fuse, &Journal::blind().shared(), 9).expect("it opens");
    life.until_ready().expect("the disks work");
    let events = life.events().0.into_iter().filter(|event| event.kv.key == b"tail"[..]);
    events.map(|event| String::from_utf8_lossy(&event.kv.value).into_owned()).collect()
}

/// The values, and those after another end at each I/O of that opening (at one of them, in the gate): what was not synced
/// may still go then.
fn values_and_again(disks: &Disks, step: u64, is_whole: bool) -> Vec<Vec<String>> {
    let again: Rc<RefCell<Vec<Vec<String>>>> = Rc::default();
    let (watched, watched_again) = (disks.clone(), Rc::clone(&again));
    let fuse = Fuse::watched(move |at, _| {
        if is_whole || at == step % 19 {
            watched_again.borrow_mut().push(values(&watched.after(End::of(step + at, at))));
        }
    });
    let values = values_watched(disks, &fuse);
    again.borrow_mut().insert(0, values);
    again.take()
}

/// What the key must have been after each of the records.
fn expected() -> Vec<Vec<String>> {
    let named = |name: &str, numbers: std::ops::RangeInclusive<u32>| -> Vec<String> {
        numbers.map(|at| format!("{name} {at}")).collect()
    };
    let mut after: Vec<Vec<String>> = (0..=4).map(|last| named("old", 1..=last)).collect();
    // The hard state of the new term, then the truncation.
    after.push(named("old", 1..=4));
    after.extend((2..=5).map(|last| [named("old", 1..=2), named("new", 3..=last)].concat()));
    after
}

#[test]
fn a_cut_tail_never_comes_back() {
    let is_whole = std::env::var("RINGSTONE_CRASH_SEEDS").is_ok();
    let ((disks, records), expected) = (member(), expected());
    assert_eq!(expected.len(), records.len() + 1);
    for alone in [false, true] {
        let mut seen = BTreeSet::new();
        for step in 0.. {
            let member = disks.after(End::Kill);
            let synced = follow(&member, &records, alone, step);
            for end in (0..End::WAYS).map(|way| End::of(way, step)) {
                for values in values_and_again(&member.after(end), step, is_whole) {
                    assert!(expected[synced..].contains(&values), "step {step}, {end:?}, {synced} synced: {values:?}");
                    seen.insert(values);
                }
            }
            if synced == records.len() {
                break;
            }
        }
        // Without the hard state, which changes no value, and the truncation, which leads back to the second.
        let all = if alone { records.len() - 1 } else { 2 };
        assert!(seen.len() >= all, "{seen:?}");
    }
}
