//! What was asked, what was answered, and a plain model of what must follow from it.

use std::collections::{BTreeMap, BTreeSet};

use ringstone_core::command::{Command, DeleteRange, Op};
use ringstone_core::event::{Event, EventKind, Revision};
use ringstone_core::group::{Answer, Outputs, Reply};
use ringstone_core::mvcc;
use ringstone_proto::mvccpb::KeyValue;

/// An event without what was before it.
pub type Change = (Revision, EventKind, KeyValue);

type Keys = BTreeMap<Vec<u8>, KeyValue>;

#[derive(Clone)]
pub struct Journal {
    /// Request ids are places in here. Those that a crash has taken are cut off.
    pub commands: Vec<Command>,
    /// Those below have had their effect.
    applied_below: usize,
    /// Those below were answered.
    acked_below: usize,
    /// Revision of the store after each of the applied.
    revisions: Vec<i64>,
    /// All that had an effect, expiries among them, in their order.
    pub in_order: Vec<Command>,
    pub keys: Keys,
    pub revision: i64,
    pub history: BTreeMap<i64, Vec<Change>>,
    pub leases: BTreeSet<i64>,
    pub expired: u64,
    compact_acked: i64,
    /// Alarms that the last life began with, and the first command since.
    alarms_before: u32,
    alarms_from: usize,
    /// Answers to other lives' requests are nobody's.
    pub life: u32,
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
        }
    }

    /// What the command would do now; empty where it changes no key.
    fn effect(&self, command: &Command) -> Vec<Change> {
        let mut keys = self.keys.clone();
        let mut changes = Vec::new();
        self.perform(command, &mut keys, &mut changes);
        changes
    }

    fn perform(&self, command: &Command, keys: &mut Keys, changes: &mut Vec<Change>) {
        match command {
            Command::Put(put) => {
                if put.lease != 0 && !self.leases.contains(&put.lease) {
                    return;
                }
                let revision = Revision { main: self.revision + 1, sub: changes.len() as i64 };
                let before = keys.get(&put.key);
                let kv = KeyValue {
                    key: put.key.clone().into(),
                    value: put.value.clone().into(),
                    create_revision: before.map_or(revision.main, |before| before.create_revision),
                    mod_revision: revision.main,
                    version: before.map_or(1, |before| before.version + 1),
                    lease: put.lease,
                };
                keys.insert(put.key.clone(), kv.clone());
                changes.push((revision, EventKind::Put, kv));
            }
            Command::DeleteRange(DeleteRange { key, range_end, .. }) => {
                let gone: Vec<_> = if range_end.is_empty() {
                    keys.keys().filter(|other| *other == key).cloned().collect()
                } else {
                    keys.range(key.clone()..range_end.clone()).map(|(key, _)| key.clone()).collect()
                };
                gone.into_iter().for_each(|key| self.delete(key, keys, changes));
            }
            Command::Txn(txn) => {
                assert!(txn.compare.is_empty(), "not in these histories");
                for op in &txn.success {
                    match op {
                        Op::Put(put) => self.perform(&Command::Put(put.clone()), keys, changes),
                        Op::DeleteRange(delete) => self.perform(&Command::DeleteRange(delete.clone()), keys, changes),
                        other => panic!("not in these histories: {other:?}"),
                    }
                }
            }
            Command::LeaseRevoke { id, .. } => {
                let gone: Vec<_> = keys.iter().filter(|(_, kv)| kv.lease == *id).map(|(key, _)| key.clone()).collect();
                gone.into_iter().for_each(|key| self.delete(key, keys, changes));
            }
            _ => {}
        }
    }

    fn delete(&self, key: Vec<u8>, keys: &mut Keys, changes: &mut Vec<Change>) {
        let revision = Revision { main: self.revision + 1, sub: changes.len() as i64 };
        keys.remove(&key);
        let kv = KeyValue { key: key.into(), mod_revision: revision.main, ..KeyValue::default() };
        changes.push((revision, EventKind::Delete, kv));
    }

    fn commit(&mut self, command: &Command) {
        let mut keys = std::mem::take(&mut self.keys);
        let mut changes = Vec::new();
        self.perform(command, &mut keys, &mut changes);
        self.keys = keys;
        if !changes.is_empty() {
            self.revision += 1;
            self.history.insert(self.revision, changes);
        }
        match command {
            Command::LeaseGrant { id, .. } => {
                self.leases.insert(*id);
            }
            Command::LeaseRevoke { id, .. } => {
                self.leases.remove(id);
            }
            _ => {}
        }
        self.in_order.push(command.clone());
    }

    fn commit_next(&mut self) {
        let command = self.commands[self.applied_below].clone();
        self.commit(&command);
        self.applied_below += 1;
        self.revisions.push(self.revision);
    }

    /// Events that were seen, by main revision and without a hole: those known must be the same, those that are new must
    /// come from the next commands in their order, or from a lease that ended.
    pub fn walk(&mut self, groups: &BTreeMap<i64, Vec<Change>>) {
        for (revision, seen) in groups {
            if *revision <= self.revision {
                assert_eq!(Some(seen), self.history.get(revision), "revision {revision} is not what it was");
                continue;
            }
            assert_eq!(*revision, self.revision + 1, "a hole in the history");
            self.walk_new(seen);
        }
    }

    fn walk_new(&mut self, seen: &Vec<Change>) {
        while let Some(command) = self.commands.get(self.applied_below) {
            let effect = self.effect(command);
            if effect == *seen {
                return self.commit_next();
            }
            if !effect.is_empty() {
                break;
            }
            self.commit_next();
        }
        for id in self.leases.clone() {
            let revoke = Command::LeaseRevoke { id, expired_renewal: None };
            if self.effect(&revoke) == *seen {
                self.expired += 1;
                return self.commit(&revoke);
            }
        }
        let next = self.commands.get(self.applied_below);
        panic!("nobody asked for this: {seen:?}; the next command is number {} {next:?}", self.applied_below);
    }

    /// What the group has told.
    pub fn observe(&mut self, outputs: &Outputs) {
        self.walk(&changes_of(&outputs.events));
        let life = self.life;
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
                let Command::Compact { revision } = self.commands[index] else { panic!("an answer of another kind") };
                self.compact_acked = self.compact_acked.max(revision);
                return;
            }
            Ok(_) => return,
            Err(error) => {
                let before = if index == 0 { 1 } else { self.revisions[index - 1] };
                assert!(self.revisions[index] >= before, "{error}");
                let lost_lease = matches!(&self.commands[index], Command::Put(put) if put.lease != 0);
                assert!(lost_lease, "{:?} is refused: {error}", self.commands[index]);
                return;
            }
        };
        let shown = header.as_ref().expect("an answer has a header").revision;
        assert_eq!(shown, self.revisions[index], "revision of the answer to {:?}", self.commands[index]);
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
    pub fn reborn(&mut self, alarms: u32) {
        self.commands.truncate(self.applied_below);
        self.acked_below = self.applied_below;
        (self.alarms_before, self.alarms_from) = (alarms, self.applied_below);
    }

    pub fn all_answered(&self) -> bool {
        self.acked_below == self.commands.len()
    }

    /// The compaction that is known to be done; -1: none.
    pub fn compacted(&self) -> i64 {
        self.compact_acked
    }

    /// Acknowledged or at least proposed, and never back.
    pub fn check_compaction(&mut self, found: i64) {
        assert!(found >= self.compact_acked, "compaction {} was acknowledged, {found} is there", self.compact_acked);
        let proposed = |command: &Command| matches!(command, Command::Compact { revision } if *revision == found);
        assert!(
            found == self.compact_acked || self.commands.iter().any(proposed),
            "nobody asked for compaction {found}"
        );
        self.compact_acked = found;
    }

    pub fn check_alarms(&self, found: u32) {
        let mut bits = self.alarms_before;
        let mut allowed = BTreeSet::new();
        for (index, command) in self.commands.iter().enumerate().skip(self.alarms_from) {
            if index >= self.applied_below {
                allowed.insert(bits);
            }
            if let Command::Alarm { activate, alarm, .. } = command {
                bits = if *activate { bits | 1 << alarm } else { bits & !(1 << alarm) };
            }
        }
        allowed.insert(bits);
        assert!(allowed.contains(&found), "alarms {found:b}, expected one of {allowed:?}");
    }

    /// All keys as they were at a revision.
    pub fn at(&self, revision: i64) -> Vec<KeyValue> {
        let mut keys = Keys::new();
        for (_, kind, kv) in self.history.range(..=revision).flat_map(|(_, changes)| changes) {
            match kind {
                EventKind::Put => keys.insert(kv.key.to_vec(), kv.clone()),
                EventKind::Delete => keys.remove(&kv.key[..]),
            };
        }
        keys.into_values().collect()
    }
}
