//! What was asked, what was answered, and a plain model of what must follow from it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::rc::Rc;

use ringstone_core::command::{Command, DeleteRange, Op};
use ringstone_core::event::{Event, EventKind, Revision};
use ringstone_core::group::{Answer, KeptAlive, Outputs, Reply};
use ringstone_core::mvcc;
use ringstone_proto::mvccpb::KeyValue;

/// An event without what was before it.
pub type Change = (Revision, EventKind, KeyValue);

type Keys = BTreeMap<Vec<u8>, KeyValue>;
/// What a command has made of some keys; none: deleted.
type Draft = BTreeMap<Vec<u8>, Option<KeyValue>>;

/// The driver writes it, and who stops the driver at an I/O copies it there.
pub type SharedJournal = Rc<RefCell<Journal>>;

/// A copy is cheap: it is made at each point that is tried.
#[derive(Clone)]
pub struct Journal {
    /// Request ids are places in here. Those that a crash has taken are cut off.
    pub commands: Vec<Rc<Command>>,
    /// Those below have had their effect.
    applied_below: usize,
    /// Those below were answered.
    acked_below: usize,
    /// Revision of the store after each of the applied. One that changes no key may have come before or after the leases
    /// that ended meanwhile.
    revisions: Vec<RangeInclusive<i64>>,
    /// Revision of the store after the last of the applied.
    since: i64,
    /// All that had an effect, expiries among them, in their order.
    pub in_order: Vec<Rc<Command>>,
    pub keys: Keys,
    pub revision: i64,
    pub history: BTreeMap<i64, Rc<Vec<Change>>>,
    pub leases: BTreeSet<i64>,
    pub expired: u64,
    compact_acked: i64,
    /// Alarms that the last life began with, and the first command since.
    alarms_before: u16,
    alarms_from: usize,
    /// Answers to other lives' requests are nobody's.
    pub life: u32,
    /// Keep-alives that were answered with a time to live.
    pub kept_alive: u64,
    /// The life has found what it has: what follows is no recovery.
    pub is_open: bool,
    /// Takes no note of anything: the log was written by somebody else.
    is_blind: bool,
}

pub fn changes_of(events: &[Event]) -> BTreeMap<i64, Vec<Change>> {
    let mut groups: BTreeMap<i64, Vec<Change>> = BTreeMap::new();
    for event in events {
        groups.entry(event.revision.main).or_default().push((event.revision, event.kind, event.kv.clone()));
    }
    groups
}

impl Journal {
    pub fn new() -> Journal {
        Journal {
            commands: Vec::new(),
            applied_below: 0,
            acked_below: 0,
            revisions: Vec::new(),
            since: 1,
            in_order: Vec::new(),
            keys: Keys::new(),
            revision: 1,
            history: BTreeMap::new(),
            leases: BTreeSet::new(),
            expired: 0,
            compact_acked: -1,
            alarms_before: 0,
            alarms_from: 0,
            life: 1,
            kept_alive: 0,
            is_open: false,
            is_blind: false,
        }
    }

    pub fn blind() -> Journal {
        Journal { is_blind: true, ..Journal::new() }
    }

    pub fn shared(self) -> SharedJournal {
        Rc::new(RefCell::new(self))
    }

    /// What the command would do now; empty where it changes no key.
    fn effect(&self, command: &Command) -> Vec<Change> {
        let mut changes = Vec::new();
        self.perform(command, &mut Draft::new(), &mut changes);
        changes
    }

    fn get<'a>(&'a self, draft: &'a Draft, key: &[u8]) -> Option<&'a KeyValue> {
        draft.get(key).map_or_else(|| self.keys.get(key), Option::as_ref)
    }

    fn perform(&self, command: &Command, draft: &mut Draft, changes: &mut Vec<Change>) {
        match command {
            Command::Put(put) => {
                if put.lease != 0 && !self.leases.contains(&put.lease) {
                    return;
                }
                let revision = Revision { main: self.revision + 1, sub: changes.len() as i64 };
                let before = self.get(draft, &put.key);
                let kv = KeyValue {
                    key: put.key.clone().into(),
                    value: put.value.clone().into(),
                    create_revision: before.map_or(revision.main, |before| before.create_revision),
                    mod_revision: revision.main,
                    version: before.map_or(1, |before| before.version + 1),
                    lease: put.lease,
                };
                draft.insert(put.key.clone(), Some(kv.clone()));
                changes.push((revision, EventKind::Put, kv));
            }
            Command::DeleteRange(DeleteRange { key, range_end, .. }) => {
                let mut gone = BTreeSet::from([key.clone()]);
                if !range_end.is_empty() {
                    gone.extend(self.keys.range(key.clone()..range_end.clone()).map(|(key, _)| key.clone()));
                    gone.extend(draft.range(key.clone()..range_end.clone()).map(|(key, _)| key.clone()));
                }
                gone.into_iter().for_each(|key| self.delete(key, draft, changes));
            }
            Command::Txn(txn) => {
                assert!(txn.compare.is_empty(), "not in these histories");
                for op in &txn.success {
                    match op {
                        Op::Put(put) => self.perform(&Command::Put(put.clone()), draft, changes),
                        Op::DeleteRange(delete) => self.perform(&Command::DeleteRange(delete.clone()), draft, changes),
                        other => panic!("not in these histories: {other:?}"),
                    }
                }
            }
            Command::LeaseRevoke { id, .. } => {
                let gone = self.keys.iter().filter(|(_, kv)| kv.lease == *id);
                let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
                gone.into_iter().for_each(|key| self.delete(key, draft, changes));
            }
            _ => {}
        }
    }

    fn delete(&self, key: Vec<u8>, draft: &mut Draft, changes: &mut Vec<Change>) {
        if self.get(draft, &key).is_none() {
            return;
        }
        let revision = Revision { main: self.revision + 1, sub: changes.len() as i64 };
        draft.insert(key.clone(), None);
        let kv = KeyValue { key: key.into(), mod_revision: revision.main, ..KeyValue::default() };
        changes.push((revision, EventKind::Delete, kv));
    }

    fn commit(&mut self, command: &Rc<Command>) {
        let (mut draft, mut changes) = (Draft::new(), Vec::new());
        self.perform(command, &mut draft, &mut changes);
        for (key, kv) in draft {
            match kv {
                Some(kv) => self.keys.insert(key, kv),
                None => self.keys.remove(&key),
            };
        }
        if !changes.is_empty() {
            self.revision += 1;
            self.history.insert(self.revision, Rc::new(changes));
        }
        match &**command {
            Command::LeaseGrant { id, .. } => {
                self.leases.insert(*id);
            }
            Command::LeaseRevoke { id, .. } => {
                self.leases.remove(id);
            }
            _ => {}
        }
        self.in_order.push(Rc::clone(command));
    }

    fn commit_next(&mut self) {
        let command = self.commands[self.applied_below].clone();
        let before = self.revision;
        self.commit(&command);
        self.applied_below += 1;
        let earliest = if self.revision == before { self.since } else { self.revision };
        self.revisions.push(earliest..=self.revision);
        self.since = earliest;
    }

    /// Events that were seen, by main revision and without a hole: those known must be the same, those that are new must
    /// come from the next commands in their order, or from a lease that ended.
    pub fn walk(&mut self, groups: &BTreeMap<i64, Vec<Change>>) {
        for (revision, seen) in groups {
            if *revision <= self.revision {
                assert_eq!(
                    Some(seen),
                    self.history.get(revision).map(|known| &**known),
                    "revision {revision} is not what it was"
                );
                continue;
            }
            assert_eq!(*revision, self.revision + 1, "a hole in the history");
            self.walk_new(seen);
        }
    }

    /// The next command that changes a key. Leases that are granted on the way to it count.
    fn next_with_effect(&mut self) -> Option<usize> {
        (self.applied_below..self.commands.len()).find(|index| {
            let command = Rc::clone(&self.commands[*index]);
            if let Command::LeaseGrant { id, .. } = &*command {
                self.leases.insert(*id);
            }
            !self.effect(&command).is_empty()
        })
    }

    fn walk_new(&mut self, seen: &Vec<Change>) {
        let next = self.next_with_effect();
        if let Some(next) = next.filter(|next| self.effect(&self.commands[*next]) == *seen) {
            return (self.applied_below..=next).for_each(|_| self.commit_next());
        }
        for id in self.leases.clone() {
            let revoke = Rc::new(Command::LeaseRevoke { id, expired_renewal: None });
            if self.effect(&revoke) == *seen {
                self.expired += 1;
                return self.commit(&revoke);
            }
        }
        let next = next.map(|next| &self.commands[next]);
        panic!("nobody asked for this: {seen:?}; the next command is number {} {next:?}", self.applied_below);
    }

    /// What the group has told.
    pub fn observe(&mut self, outputs: &Outputs) {
        if self.is_blind {
            return;
        }
        self.walk(&changes_of(&outputs.events));
        let life = self.life;
        let kept = |kept: &&KeptAlive| kept.shard == life && kept.outcome.as_ref().is_ok_and(|ttl_s| *ttl_s > 0);
        self.kept_alive += outputs.kept_alive.iter().filter(kept).count() as u64;
        for answer in outputs.answers.iter().filter(|answer| answer.shard == life) {
            self.answered(answer);
        }
    }

    fn answered(&mut self, answer: &Answer) {
        let index = answer.request_id as usize;
        assert_eq!(index, self.acked_below, "answers come in the order of the requests");
        self.acked_below += 1;
        self.catch_up_with_acks();
        let header = match &answer.outcome {
            Ok(Reply::Store(mvcc::Answer::Put(put))) => &put.header,
            Ok(Reply::Store(mvcc::Answer::DeleteRange(delete))) => &delete.header,
            Ok(Reply::Store(mvcc::Answer::Txn(txn))) => &txn.header,
            Ok(Reply::Store(mvcc::Answer::Compact(_))) => {
                let Command::Compact { revision } = *self.commands[index] else { panic!("an answer of another kind") };
                self.compact_acked = self.compact_acked.max(revision);
                return;
            }
            Ok(_) => return,
            Err(error) => {
                let lost_lease = matches!(&*self.commands[index], Command::Put(put) if put.lease != 0);
                assert!(lost_lease, "{:?} is refused: {error}", self.commands[index]);
                return;
            }
        };
        let shown = header.as_ref().expect("an answer has a header").revision;
        let expected = &self.revisions[index];
        assert!(expected.contains(&shown), "{shown} instead of {expected:?} in answer to {:?}", self.commands[index]);
    }

    /// An answered command that has had no effect yet must be one without any.
    pub fn catch_up_with_acks(&mut self) {
        while self.applied_below < self.acked_below {
            let command = &self.commands[self.applied_below];
            assert_eq!(self.effect(command), vec![], "answered, and lost: {command:?}");
            self.commit_next();
        }
    }

    /// A new life has found what it has: what did not get into the log never will.
    pub fn reborn(&mut self, alarms: u16) {
        self.commands.truncate(self.applied_below);
        self.acked_below = self.applied_below;
        (self.alarms_before, self.alarms_from) = (alarms, self.applied_below);
        self.is_open = true;
    }

    pub fn all_answered(&self) -> bool {
        self.acked_below == self.commands.len()
    }

    pub fn answered_count(&self) -> usize {
        self.acked_below
    }

    pub fn unanswered(&self) -> usize {
        self.commands.len() - self.acked_below
    }

    /// The compaction that is known to be done; -1: none.
    pub fn compacted(&self) -> i64 {
        self.compact_acked
    }

    /// Acknowledged or at least proposed, and never back.
    pub fn check_compaction(&mut self, found: i64) {
        assert!(found >= self.compact_acked, "compaction {} was acknowledged, {found} is there", self.compact_acked);
        let proposed =
            |command: &Rc<Command>| matches!(&**command, Command::Compact { revision } if *revision == found);
        assert!(
            found == self.compact_acked || self.commands.iter().any(proposed),
            "nobody asked for compaction {found}"
        );
        self.compact_acked = found;
    }

    pub fn check_alarms(&self, found: u16) {
        let mut bits = self.alarms_before;
        let mut allowed = BTreeSet::new();
        for (index, command) in self.commands.iter().enumerate().skip(self.alarms_from) {
            if index >= self.applied_below {
                allowed.insert(bits);
            }
            if let Command::Alarm { activate, alarm, .. } = &**command {
                bits = if *activate { bits | 1 << alarm } else { bits & !(1 << alarm) };
            }
        }
        allowed.insert(bits);
        assert!(allowed.contains(&found), "alarms {found:b}, expected one of {allowed:?}");
    }

    /// All keys as they were at a revision.
    pub fn at(&self, revision: i64) -> Vec<KeyValue> {
        let mut keys = Keys::new();
        for (_, kind, kv) in self.history.range(..=revision).flat_map(|(_, changes)| changes.iter()) {
            match kind {
                EventKind::Put => keys.insert(kv.key.to_vec(), kv.clone()),
                EventKind::Delete => keys.remove(&kv.key[..]),
            };
        }
        keys.into_values().collect()
    }
}
