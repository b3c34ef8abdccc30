//! Runs one history on the model and on two stores, and compares.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use ringstone_core::command::{ArchivedCommand, Command, Range};
use ringstone_core::error::{ApplyFault, Error, ReadFault};
use ringstone_core::event::{Event, Revision};
use ringstone_core::lease::state::{self as lease, LeaseTime};
use ringstone_core::mvcc::hash::{HashKv, hash_all, hash_kv};
use ringstone_core::mvcc::history::read_events;
use ringstone_core::mvcc::record::{LogRecord, SPECS, VALUE_INLINE_BYTES_MAX};
use ringstone_core::mvcc::{Applied, Budget, Progress, RangeScan, apply, apply_lease_revoke, compact_slice};
use ringstone_core::state::State;
use ringstone_core::trees::{BESIDE, LIVE, LOG, VALUE};
use ringstone_pager::api::{Access, Direction, Fault, PageRun, ReadTrees, TreeId, TreeSpec, WriteTrees};
use ringstone_pager::disk::SimDisk;
use ringstone_pager::model::ModelTrees;
use ringstone_pager::{FileOptions, Pager};
use ringstone_proto::etcdserverpb::{RangeRequest, RangeResponse};

use super::model::Model;
use super::paged::PagedTrees;
use super::strategy::Action;

const HASH_KEY: [u8; 16] = *b"sixteen key byte";

pub struct Store<T> {
    pub trees: T,
    pub state: State,
}

/// Trees that a test can look through.
pub trait TestTrees: WriteTrees {
    fn bring_in(&self, run: PageRun);
    /// Between two commands: pages may go, states may be published.
    fn between(&mut self);
    fn with_all_pages(&self) -> &dyn ReadTrees;
}

impl TestTrees for PagedTrees {
    fn bring_in(&self, run: PageRun) {
        PagedTrees::bring_in(self, run);
    }

    fn between(&mut self) {
        self.evict();
    }

    fn with_all_pages(&self) -> &dyn ReadTrees {
        &self.inner
    }
}

impl TestTrees for Pager {
    fn bring_in(&self, run: PageRun) {
        self.bring_in_done(run).expect("the disk is sound");
    }

    fn between(&mut self) {
        self.publish();
    }

    fn with_all_pages(&self) -> &dyn ReadTrees {
        self
    }
}

pub fn tree_specs() -> Vec<TreeSpec> {
    let mut specs = SPECS.to_vec();
    specs.extend(lease::TREE_SPECS);
    specs
}

/// The real trees, on a simulated disk.
pub fn pager() -> Pager {
    let disk = SimDisk::new();
    let specs = tree_specs();
    let options = FileOptions { file_id: [9; 16], owner_id: [1; 16], trees: &specs };
    Pager::create(&mut disk.clone(), Arc::new(disk.clone()), &options).expect("the disk is sound")
}

impl<T: TestTrees> Store<T> {
    pub fn new(trees: T) -> Store<T> {
        Store { trees, state: State { hash_key: HASH_KEY, ..State::default() } }
    }

    pub fn apply(&mut self, command: &Command) -> Applied {
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(command).expect("commands serialize");
        let command = rkyv::access::<ArchivedCommand, rkyv::rancor::Error>(&bytes).expect("what was written is valid");
        self.trees.between();
        loop {
            let before = self.state.clone();
            let result = match command {
                ArchivedCommand::LeaseRevoke { id, .. } => {
                    apply_lease_revoke(&mut self.trees, &mut self.state, id.to_native()).map(Some)
                }
                _ => apply(&mut self.trees, &mut self.state, command),
            };
            match result {
                Ok(applied) => return applied.expect("a command of the store"),
                Err(ApplyFault::Absent(run)) => {
                    assert_eq!(self.state, before, "nothing changes before all pages are there");
                    self.trees.bring_in(run);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    fn grant(&mut self, id: i64) {
        retry(&mut self.trees, |trees| lease::grant(trees, LeaseTime(0), id, 60)).ok();
    }

    fn sweep(&mut self, records: usize) -> Progress {
        self.trees.between();
        let state = &mut self.state;
        retry(&mut self.trees, |trees| compact_slice(trees, state, records))
    }

    fn sweep_to_end(&mut self, records: usize) {
        let mut slices = 0;
        while self.sweep(records) == Progress::More {
            slices += 1;
            assert!(slices < 100_000, "a sweep ends");
        }
    }

    pub fn range(&self, range: &Range) -> Result<RangeResponse, Error> {
        let mut scan = RangeScan::new(&request(range));
        loop {
            let mut budget = Budget { records: 3, bytes: 1000 };
            match scan.step(&self.trees, &self.state, &mut budget) {
                Ok(Progress::Done) => return Ok(scan.finish()),
                Ok(Progress::More) => {}
                Err(ReadFault::Refused(error)) => return Err(error),
                Err(ReadFault::Absent(run)) => {
                    self.trees.bring_in(run);
                    // Goes on without losing pages until one step succeeds: a step alone may need many.
                    loop {
                        match scan.step(&self.trees, &self.state, &mut Budget { records: 2, bytes: 1000 }) {
                            Ok(_) => break,
                            Err(ReadFault::Absent(run)) => self.trees.bring_in(run),
                            Err(ReadFault::Refused(error)) => return Err(error),
                        }
                    }
                }
            }
        }
    }

    /// In one step; all pages are there.
    pub fn range_at_once(&self, range: &Range) -> RangeResponse {
        let mut scan = RangeScan::new(&request(range));
        let mut budget = Budget::UNBOUNDED;
        let progress = scan.step(&self.trees, &self.state, &mut budget).expect("all pages are there");
        assert_eq!(progress, Progress::Done);
        scan.finish()
    }

    pub fn hash(&self, revision: i64) -> Result<HashKv, Error> {
        loop {
            match hash_kv(&self.trees, &self.state, revision) {
                Ok(hash) => return Ok(hash),
                Err(ReadFault::Absent(run)) => self.trees.bring_in(run),
                Err(ReadFault::Refused(error)) => return Err(error),
            }
        }
    }

    fn history(&self, from: i64) -> Vec<Event> {
        let mut cursor = Revision { main: from, sub: 0 };
        let mut events = Vec::new();
        loop {
            let mut budget = Budget { records: 2, bytes: 2000 };
            let to = self.state.revision;
            let read = read_events(&self.trees, &self.state, &mut cursor, to, &mut budget, &mut |event| {
                events.push(event.to_event(true)?);
                Ok(())
            });
            match read {
                Ok(Progress::Done) => return events,
                Ok(Progress::More) => {}
                Err(Fault::Absent(run)) => self.trees.bring_in(run),
                Err(fault) => panic!("{fault}"),
            }
        }
    }

    fn entries(&self, tree: TreeId) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut entries = Vec::new();
        let all = (Bound::Unbounded, Bound::Unbounded);
        let visited = self.trees.with_all_pages().visit(tree, all, Direction::Forward, false, &mut |key, value| {
            entries.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        });
        visited.expect("the model has all pages");
        entries
    }

    /// The counters of the state are the sums of the trees.
    fn check_sums(&self) {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let sum = |tree| self.trees.with_all_pages().aggregate(tree, all).expect("the model has all pages");
        let first = Revision { main: self.state.compact_revision.max(0), sub: 0 }.to_key();
        let window = self.trees.with_all_pages().aggregate(LOG, (Bound::Included(&first[..]), Bound::Unbounded));
        let window = window.expect("the model has all pages");
        assert_eq!(self.state.logical_bytes, sum(LIVE).bytes + window.bytes, "logical bytes");
        assert_eq!(self.state.retained_bytes, sum(BESIDE).bytes + sum(VALUE).bytes, "retained bytes");
        let mut hash = self.state.swept_hash;
        for (key, value) in self.entries(LOG) {
            let revision = Revision::from_key(&key).expect("a revision");
            if revision.main > self.state.swept_revision {
                hash = hash.wrapping_add(LogRecord::parse(revision, &value).expect("a record").live_hash_change());
            }
        }
        assert_eq!(hash, sum(LIVE).hash, "the swept hash and the events behind it are the live hash");
    }
}

fn retry<T: TestTrees, R>(trees: &mut T, mut operation: impl FnMut(&mut T) -> Access<R>) -> R {
    loop {
        match operation(trees) {
            Ok(done) => return done,
            Err(Fault::Absent(run)) => trees.bring_in(run),
            Err(fault) => panic!("{fault}"),
        }
    }
}

pub fn request(range: &Range) -> RangeRequest {
    RangeRequest {
        key: range.key.clone().into(),
        range_end: range.range_end.clone().into(),
        limit: range.limit,
        revision: range.revision,
        sort_order: range.sort_order,
        sort_target: range.sort_target,
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision,
        max_mod_revision: range.max_mod_revision,
        min_create_revision: range.min_create_revision,
        max_create_revision: range.max_create_revision,
    }
}

/// The model and three stores; the second sweeps only when it is told to, the third is on the real trees and sweeps with
/// the first.
pub struct Pair {
    pub model: Model,
    pub stores: [Store<PagedTrees>; 2],
    pub real: Store<Pager>,
}

impl Pair {
    pub fn new() -> Pair {
        let paged = || Store::new(PagedTrees::new(ModelTrees::new(&tree_specs())));
        Pair { model: Model::new(), stores: [paged(), paged()], real: Store::new(pager()) }
    }

    pub fn revision(&self) -> i64 {
        self.model.revision
    }

    pub fn run(&mut self, action: &Action) {
        let (expected, command) = match action {
            Action::Put(put) => (self.model.put(put), Command::Put(put.clone())),
            Action::Delete(delete) => (self.model.delete(delete), Command::DeleteRange(delete.clone())),
            Action::Txn(txn) => (self.model.txn(txn), Command::Txn(txn.clone())),
            Action::Compact(hundredths) => {
                let compact = self.model.compact;
                let revision = compact + (self.model.revision - compact) * hundredths / 100;
                (self.model.compact(revision), Command::Compact { revision })
            }
            Action::CompactAt(revision) => (self.model.compact(*revision), Command::Compact { revision: *revision }),
            Action::Revoke(id) => (self.model.revoke(*id), Command::LeaseRevoke { id: *id, expired_renewal: None }),
            Action::Sweep(records) => {
                self.stores[0].sweep(*records);
                self.real.sweep(*records);
                self.real.check_sums();
                return self.stores[0].check_sums();
            }
            Action::SweepOther => {
                self.stores[1].sweep_to_end(1000);
                return self.stores[1].check_sums();
            }
            Action::Grant(id) => {
                self.model.leases.insert(*id);
                self.real.grant(*id);
                return self.stores.iter_mut().for_each(|store| store.grant(*id));
            }
            Action::Restart => {
                for store in &mut self.stores {
                    store.state = State::from_attributes(&store.state.to_attributes()).expect("a state");
                }
                return;
            }
        };
        for store in &mut self.stores {
            let applied = store.apply(&command);
            assert_eq!(applied, expected, "{action:?}");
            assert_eq!(store.state.revision, self.model.revision);
            assert_eq!(store.state.compact_revision, self.model.compact);
            store.check_sums();
        }
        assert_eq!(self.stores[0].state.logical_bytes, self.stores[1].state.logical_bytes);
        assert_eq!(self.real.apply(&command), expected, "on the real trees: {action:?}");
        assert_eq!(self.real.state.logical_bytes, self.stores[0].state.logical_bytes);
    }

    pub fn finish_sweeps(&mut self) {
        self.stores[0].sweep_to_end(2);
        self.stores[1].sweep_to_end(5000);
        self.real.sweep_to_end(2);
        self.real.check_sums();
    }

    /// When both have swept, they are equal byte for byte, and nothing is left that nothing needs.
    pub fn finish(&mut self) {
        self.finish_sweeps();
        check_reads(self);
        for store in &self.stores {
            store.check_sums();
            assert_eq!(store.state.swept_revision, self.model.compact);
            let values: BTreeSet<Revision> =
                store.entries(VALUE).iter().map(|(key, _)| Revision::from_key(key).expect("a revision")).collect();
            assert_eq!(values, self.model.large_values(VALUE_INLINE_BYTES_MAX), "large values");
            let first = Revision { main: self.model.compact.max(0), sub: 0 }.to_key();
            assert!(store.entries(LOG).iter().all(|(key, _)| key[..] >= first[..]), "the log is cut");
            let live = store.entries(LIVE).len();
            let alive = self.model.alive(i64::MAX).len();
            let recent = self.model.events.iter().filter(|event| event.0.main > self.model.compact);
            let deleted: BTreeSet<&Vec<u8>> = recent.filter(|event| event.2.is_none()).map(|event| &event.1).collect();
            assert!(live <= alive + deleted.len(), "tombstones go");
        }
        for tree in [LOG, LIVE, BESIDE, VALUE] {
            assert_eq!(self.stores[0].entries(tree), self.stores[1].entries(tree), "{tree:?}");
            assert_eq!(self.stores[0].entries(tree), self.real.entries(tree), "the real {tree:?}");
        }
        let (left, right) = (&self.stores[0].state, &self.stores[1].state);
        assert_eq!((left.swept_hash, left.retained_bytes), (right.swept_hash, right.retained_bytes));
        assert_eq!(left.quota_bytes(), right.quota_bytes());
    }
}

/// Ranges with many options at all revisions, histories from all revisions, and hashes.
pub fn check_reads(pair: &Pair) {
    let model = &pair.model;
    pair.stores.iter().for_each(|store| store.trees.evict());
    let ranges: [(&[u8], &[u8]); 6] =
        [(b"a", b""), (b"a", b"b"), (b"\0", b"\0"), (b"ab", b"\0"), (b"k", b""), (b"b", b"a")];
    let recent = (model.revision - 12).max(model.compact - 1);
    for revision in (-1..3).chain(recent..model.revision + 2) {
        for (at, (key, range_end)) in ranges.iter().enumerate() {
            let pick = revision.unsigned_abs() as usize * 7 + at;
            let range = Range {
                key: key.to_vec(),
                range_end: range_end.to_vec(),
                revision,
                limit: [0, 1, 2, 0, 3][pick % 5],
                sort_order: [0, 2, 1, 0][pick % 4],
                sort_target: [0, 0, 3, 1, 4, 0, 2][pick % 7],
                keys_only: pick % 3 == 1,
                count_only: pick % 11 == 1,
                min_mod_revision: if pick % 6 == 2 { revision / 2 } else { 0 },
                max_create_revision: if pick % 9 == 2 { revision } else { 0 },
                ..Range::default()
            };
            let plain = Range {
                limit: 1,
                ..Range { key: key.to_vec(), range_end: range_end.to_vec(), revision, ..Range::default() }
            };
            let count = Range { count_only: true, ..plain.clone() };
            for range in [range, plain, count] {
                let expected = model.range(&range);
                for store in &pair.stores {
                    assert_eq!(store.range(&range), expected, "{range:?}");
                }
                assert_eq!(pair.real.range(&range), expected, "on the real trees: {range:?}");
            }
        }
    }
    let from = model.compact.max(0).max(model.revision - 20);
    let history: Vec<Event> = (0..model.events.len())
        .filter(|index| model.events[*index].0.main >= from)
        .map(|index| {
            let mut event = model.event(index);
            if event.revision.main <= model.compact {
                event.prev_kv = None;
            }
            event
        })
        .collect();
    for store in &pair.stores {
        store.trees.evict();
        assert_eq!(store.history(from), history, "history from {from}");
    }
    assert_eq!(pair.real.history(from), history, "history from {from} on the real trees");
    let [left, right] = &pair.stores;
    for revision in from - 1..model.revision + 2 {
        assert_eq!(left.hash(revision), right.hash(revision), "hash at {revision}");
    }
    let all = |store: &Store<PagedTrees>| loop {
        match hash_all(&store.trees, &store.state) {
            Ok(hash) => break hash,
            Err(Fault::Absent(run)) => store.trees.bring_in(run),
            Err(fault) => panic!("{fault}"),
        }
    };
    assert_eq!(all(left), all(right));
}
