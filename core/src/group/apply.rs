//! Applies committed entries: each exactly as every other member does, from the entry and the state alone.

use std::ops::Bound;
use std::sync::atomic::Ordering;

use ringstone_pager::api::{Access, Direction, Fault, ReadTrees as _, WriteTrees as _};
use ringstone_proto::etcdserverpb::{AlarmMember, LeaseGrantResponse, ResponseHeader};
use ringstone_raft::EntryKind;
use rkyv::rancor;

use super::ahead::CACHED_PAGES_A_TURN;
use super::membership::{MemberRefusal, MembershipStop};
use super::{APPLY_ENTRIES_MAX, Answer, Group, GroupError, Reply, SWEEP_RECORDS_MAX};
use crate::command::{ArchivedBootstrap, ArchivedCommand, ArchivedMember, ArchivedTxn};
use crate::entry::{Entry, EntryError, request_and_attempt};
use crate::error::{ApplyFault, Error};
use crate::event::{Event, EventKind};
use crate::eviction;
use crate::lease::state as lease;
use crate::lease::state::{GrantRefusal, LeaseTime};
use crate::mvcc::{self, Progress, Removal};
use crate::trees::{ALARM, LOG, MEMBER};

/// Records that a transaction compares in one turn: 0.14 us each.
const COMPARED_A_TURN: usize = 4096;

type Outcome = Result<Reply, Error>;

/// Why an entry was not applied. Going on without it would make this member differ from the others.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error(transparent)]
    Fault(#[from] ApplyFault),
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error(transparent)]
    Membership(MembershipStop),
    #[error(
        "the cluster has agreed on entries up to kind {agreed}, this program knows kinds up to {known}: upgrade this member"
    )]
    Kinds { agreed: u16, known: u16 },
}

impl From<MembershipStop> for Stop {
    fn from(stop: MembershipStop) -> Stop {
        match stop {
            MembershipStop::Fault(fault) => Stop::Fault(fault),
            stop => Stop::Membership(stop),
        }
    }
}

impl Group {
    /// Applies what is committed, sweeps behind the last compaction, publishes what changed.
    pub(super) fn apply_committed(&mut self) -> Result<(), GroupError> {
        if self.absent.is_some() || self.is_spilling() || self.begin_spill() {
            return Ok(());
        }
        let mut applied = 0;
        let mut taken_in = 0;
        while applied < APPLY_ENTRIES_MAX && taken_in < CACHED_PAGES_A_TURN {
            let Some(entry) = self.committed.pop_front() else { break };
            match self.apply_entry(&entry, applied == 0) {
                Ok(Progress::More) => {
                    self.committed.push_front(entry);
                    // One that waits until no frame is a checkpoint's.
                    self.settle_pages();
                    break;
                }
                Ok(Progress::Done) => {
                    self.absent_in_a_row = 0;
                    self.state.applied_index = entry.index.0;
                    self.state.applied_term = entry.term.0;
                    self.retained.note(entry.weight_bytes());
                    if std::mem::take(&mut self.is_compared) {
                        self.note_sum(entry.index.0, entry.term.0);
                    }
                    applied += 1;
                }
                Err(Stop::Fault(ApplyFault::Absent(run))) => {
                    self.committed.push_front(entry);
                    self.note_absent();
                    if self.pager.bring_in_cached(run).map_err(GroupError::Damaged)? {
                        taken_in += 1;
                        continue;
                    }
                    self.absent = Some(run);
                    self.look_behind(run);
                    break;
                }
                Err(Stop::Fault(ApplyFault::Damaged(damage) | ApplyFault::HalfApplied(Fault::Damaged(damage)))) => {
                    return Err(GroupError::Damaged(damage));
                }
                Err(stop) => {
                    let what = stop.to_string();
                    return Err(GroupError::Entry { index: entry.index.0, term: entry.term.0, what });
                }
            }
        }
        if self.removal.is_some() {
            return Ok(());
        }
        let swept = self.sweep()?;
        if applied > 0 || swept {
            self.publish();
        }
        Ok(())
    }

    /// An entry that needs more pages at once than there is memory for gets them all the same.
    fn note_absent(&mut self) {
        self.absent_in_a_row += 1;
        if self.absent_in_a_row.is_multiple_of(eviction::ABSENT_IN_A_ROW) {
            eviction::keep_pages(&self.shared, self.now);
        }
    }

    fn sweep(&mut self) -> Result<bool, GroupError> {
        if !self.sweep_pending() || self.absent.is_some() {
            return Ok(false);
        }
        self.sweep_began.get_or_insert(self.now);
        let slice = self.sweep_slice();
        // A slice that met an absent page has done what was before it.
        if let Err(Fault::Absent(run)) = slice
            && self.pager.bring_in_cached(run).map_err(GroupError::Damaged)?
        {
            return Ok(true);
        }
        self.present(slice)?;
        Ok(true)
    }

    fn sweep_slice(&mut self) -> Access<()> {
        let before = self.log_events()?;
        mvcc::compact_slice(&mut self.pager, &mut self.state, SWEEP_RECORDS_MAX)?;
        let removed = before.saturating_sub(self.log_events()?);
        self.metrics().compacted_events.add(removed);
        if !self.sweep_pending()
            && let Some(began) = self.sweep_began.take()
        {
            // To a tick: what is shorter than one is in the first bucket anyway.
            self.metrics().compaction.record(self.now.saturating_sub(began));
            self.metrics().compaction_last_s.store(self.wall_ms / 1000, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Events that the log's tree holds: a sum over the children of its root.
    fn log_events(&self) -> Access<u64> {
        Ok(self.pager.aggregate(LOG, (Bound::Unbounded, Bound::Unbounded))?.count)
    }

    /// `is_first`: nothing that is not published was applied before it. More: apply it again, next turn.
    fn apply_entry(&mut self, entry: &ringstone_raft::Entry, is_first: bool) -> Result<Progress, Stop> {
        if entry.kind == EntryKind::Configuration {
            self.apply_configuration(entry)?;
            return Ok(Progress::Done);
        }
        // The first entry of a leader's term.
        if entry.payload.is_empty() {
            return Ok(Progress::Done);
        }
        let read = Entry::read(&entry.payload)?;
        self.check_known(&read)?;
        let clock = LeaseTime(read.envelope.lease_clock_ms.max(self.state.lease_clock));
        let Some(outcome) = self.apply_command(clock, read.command, is_first)? else { return Ok(Progress::More) };
        self.state.lease_clock = clock.0;
        if entry.index.0 <= self.replayed_until {
            // Kept by a running member only, as in etcd: not by one that finds the compaction in its log.
            self.state.compaction_hashes.clear();
        }
        self.lessor.observed(clock);
        if read.envelope.proposer == self.shared.identity.member_id {
            let (shard, (request_id, _)) = (read.envelope.shard, request_and_attempt(read.envelope.request_id));
            self.in_flight.end((shard, request_id));
            self.outputs.answers.push(Answer { shard, request_id, outcome });
        }
        Ok(Progress::Done)
    }

    /// This member may know less than its program can decode, where a test plays an older one.
    fn check_known(&self, read: &Entry<'_>) -> Result<(), Stop> {
        let known = self.shared.config.entry_kinds;
        if read.kind > known {
            return Err(EntryError::UnknownKind { found: read.kind }.into());
        }
        match read.command {
            ArchivedCommand::KindsAgreed { kinds } if kinds.to_native() > known => {
                Err(Stop::Kinds { agreed: kinds.to_native(), known })
            }
            _ => Ok(()),
        }
    }

    /// None: a large removal or comparison goes on, or has to wait until what was applied before it is published.
    fn apply_command(
        &mut self,
        clock: LeaseTime,
        command: &ArchivedCommand,
        is_first: bool,
    ) -> Result<Option<Outcome>, ApplyFault> {
        if self.state.cluster_id == 0 && !matches!(command, ArchivedCommand::Bootstrap(_)) {
            return Ok(Some(Err(Error::NotCapable)));
        }
        match command {
            ArchivedCommand::Txn(txn) => self.apply_txn(txn),
            ArchivedCommand::DeleteRange(delete) => self.remove(is_first, || Removal::range(delete)),
            ArchivedCommand::LeaseRevoke { id, expired_renewal } => {
                let renewal = expired_renewal.as_ref().map(|renewal| renewal.to_native());
                self.apply_revoke(clock, id.to_native(), renewal, is_first)
            }
            _ => self.apply_at_once(clock, command).map(Some),
        }
    }

    /// Until its comparisons are done nothing has changed, and nothing else is applied.
    fn apply_txn(&mut self, txn: &ArchivedTxn) -> Result<Option<Outcome>, ApplyFault> {
        let mut comparing = self.comparing.take().unwrap_or_default();
        let result = match comparing.step(&self.pager, txn, &mut COMPARED_A_TURN.clone()) {
            Ok(Progress::Done) => mvcc::apply_compared(&mut self.pager, &mut self.state, txn, &comparing).map(Some),
            Ok(Progress::More) => Ok(None),
            Err(fault) => Err(before(fault)),
        };
        if matches!(result, Ok(None) | Err(ApplyFault::Absent(_))) {
            self.comparing = Some(comparing);
        }
        Ok(result?.map(|applied| {
            self.note_events(applied.events);
            applied.response.map(Reply::Store)
        }))
    }

    fn remove(&mut self, is_first: bool, make: impl FnOnce() -> Removal) -> Result<Option<Outcome>, ApplyFault> {
        let mut removal = self.removal.take().unwrap_or_else(make);
        if !removal.has_begun() {
            self.removal_frames = self.pager.frame_bytes();
        }
        // Between its steps nothing is published, and so nothing settled.
        let may_begin = is_first && !self.pager.is_checkpointing() && !self.pager.is_settling();
        match removal.step(&mut self.pager, &mut self.state, may_begin) {
            Ok(Progress::Done) => {
                let (applied, complete) = removal.finish(&mut self.state);
                self.note_events(applied.events);
                if !complete {
                    self.outputs.events.clear();
                    self.outputs.skipped_to = Some(self.state.revision);
                }
                Ok(Some(applied.response.map(Reply::Store)))
            }
            Ok(Progress::More) => {
                self.removal = Some(removal).filter(Removal::has_begun);
                Ok(None)
            }
            Err(fault) => {
                self.removal = Some(removal).filter(Removal::has_begun);
                Err(fault)
            }
        }
    }

    /// The leaves of a removal under way are being written to the file: nothing may be changed.
    pub(super) fn is_spilling(&self) -> bool {
        self.removal.is_some() && self.pager.is_checkpointing()
    }

    /// However many keys go, memory holds a bounded part of what changes: the rest is written before its state is published,
    /// and a crash leaves it as free pages.
    fn begin_spill(&mut self) -> bool {
        if self.removal.is_none() {
            return false;
        }
        let frames = self.pager.frame_bytes();
        self.removal_frames = self.removal_frames.min(frames);
        let is_due = frames - self.removal_frames > self.dirty_bound() && !self.lacks_space();
        if is_due && self.pager.spill_begin() {
            // What is left then, or less, is where counting begins again.
            self.removal_frames = u64::MAX;
            return true;
        }
        false
    }

    fn apply_at_once(&mut self, clock: LeaseTime, command: &ArchivedCommand) -> Result<Outcome, ApplyFault> {
        if let Some(applied) = mvcc::apply(&mut self.pager, &mut self.state, command)? {
            self.note_events(applied.events);
            return Ok(applied.response.map(Reply::Store));
        }
        match command {
            ArchivedCommand::Bootstrap(bootstrap) => self.apply_bootstrap(bootstrap),
            ArchivedCommand::LeaseGrant { id, ttl_s } => self.apply_grant(clock, id.to_native(), ttl_s.to_native()),
            ArchivedCommand::LeaseRenew { ids } => {
                let ids: Vec<i64> = ids.iter().map(|id| id.to_native()).collect();
                let renewed = lease::renew(&mut self.pager, clock, &ids).map_err(before)?;
                self.lessor.renewed(&ids, &renewed);
                Ok(Ok(Reply::Done))
            }
            ArchivedCommand::LeaseClock => {
                self.is_compared = true;
                Ok(Ok(Reply::Done))
            }
            ArchivedCommand::Alarm { activate, member_id, alarm } => {
                self.apply_alarm(*activate, member_id.to_native(), alarm.to_native())
            }
            ArchivedCommand::MemberAttributes { member_id, name, client_urls } => {
                let urls: Vec<String> = client_urls.iter().map(|url| url.as_str().to_owned()).collect();
                self.apply_attributes(member_id.to_native(), name.as_str(), urls)
            }
            ArchivedCommand::MemberUpdate { id, peer_urls } => {
                let urls = peer_urls.iter().map(|url| url.as_str().to_owned()).collect();
                match self.apply_member_update(id.to_native(), urls) {
                    Ok(reply) => Ok(Ok(reply)),
                    Err(MemberRefusal::Refused(error)) => Ok(Err(error)),
                    Err(MemberRefusal::Fault(fault)) => Err(before(fault)),
                }
            }
            ArchivedCommand::KindsAgreed { kinds } => {
                self.state.kinds_agreed = self.state.kinds_agreed.max(kinds.to_native());
                Ok(Ok(Reply::Done))
            }
            // Contexts of configurations: as entries they change nothing.
            ArchivedCommand::MemberAdd { .. }
            | ArchivedCommand::MemberPromote { .. }
            | ArchivedCommand::MemberRemove { .. } => Ok(Err(Error::NotCapable)),
            _ => Ok(Ok(Reply::Done)),
        }
    }

    /// Only the first one of a log counts.
    fn apply_bootstrap(&mut self, bootstrap: &ArchivedBootstrap) -> Result<Outcome, ApplyFault> {
        if self.state.cluster_id != 0 {
            return Ok(Ok(Reply::Done));
        }
        for member in bootstrap.members.iter() {
            let member = rkyv::deserialize::<crate::command::Member, rancor::Error>(member)
                .expect("a validated member has no part that can't be copied");
            self.put_member(&member).map_err(before)?;
        }
        self.state.hash_key = bootstrap.hash_key;
        self.state.cluster_id = bootstrap.cluster_id.to_native();
        Ok(Ok(Reply::Done))
    }

    pub(super) fn put_member(&mut self, member: &crate::command::Member) -> Result<(), Fault> {
        let bytes = rkyv::to_bytes::<rancor::Error>(member).expect("a member can be encoded");
        self.members_changes += 1;
        self.pager.put(MEMBER, &member.id.to_be_bytes(), &[&bytes])
    }

    fn apply_attributes(&mut self, id: u64, name: &str, client_urls: Vec<String>) -> Result<Outcome, ApplyFault> {
        let found = self.pager.get(MEMBER, &id.to_be_bytes()).map_err(before)?;
        let Some(mut member) = found.and_then(read_member) else {
            return Ok(Err(Error::MemberNotFound));
        };
        name.clone_into(&mut member.name);
        member.client_urls = client_urls;
        self.put_member(&member).map_err(before)?;
        Ok(Ok(Reply::Done))
    }

    fn apply_grant(&mut self, clock: LeaseTime, id: i64, ttl_s: i64) -> Result<Outcome, ApplyFault> {
        let granted = lease::grant(&mut self.pager, clock, id, ttl_s).map_err(before)?;
        Ok(match granted {
            Ok(()) => {
                self.lessor.granted(id, clock, ttl_s);
                let header = Some(ResponseHeader { revision: self.state.revision, ..ResponseHeader::default() });
                Ok(Reply::LeaseGrant(LeaseGrantResponse { header, id, ttl: ttl_s, error: String::new() }))
            }
            Err(GrantRefusal::Exists) => Err(Error::LeaseExists),
            Err(GrantRefusal::TtlOutOfRange) => Err(Error::LeaseTtlTooLarge),
        })
    }

    fn apply_revoke(
        &mut self,
        clock: LeaseTime,
        id: i64,
        renewal: Option<u64>,
        is_first: bool,
    ) -> Result<Option<Outcome>, ApplyFault> {
        if let Some(renewal) = renewal
            && self.removal.is_none()
            && !lease::may_expire(&self.pager, clock, id, renewal).map_err(before)?
        {
            self.lessor.revoke_refused(id);
            return Ok(Some(Ok(Reply::Done)));
        }
        let outcome = self.remove(is_first, || Removal::lease(id))?;
        if outcome.is_some() {
            self.lessor.revoked(id);
            self.metrics().leases_expired.add(u64::from(renewal.is_some()));
        }
        Ok(outcome)
    }

    fn note_events(&mut self, events: Vec<Event>) {
        let put = |event: &&Event| event.kind == EventKind::Put;
        let put_bytes: usize = events.iter().filter(put).map(|event| event.kv.key.len() + event.kv.value.len()).sum();
        self.metrics().events.add(events.len() as u64);
        self.metrics().put_bytes.add(put_bytes as u64);
        self.outputs.events.extend(events);
    }

    fn apply_alarm(&mut self, activate: bool, member_id: u64, alarm: i32) -> Result<Outcome, ApplyFault> {
        let mut key = [0; 12];
        key[..8].copy_from_slice(&member_id.to_be_bytes());
        key[8..].copy_from_slice(&alarm.to_be_bytes());
        let known = (1..=2).contains(&alarm);
        let exists = self.pager.get(ALARM, &key).map_err(before)?.is_some();
        let touched = vec![AlarmMember { member_id, alarm }];
        let answer = match (activate, known, exists) {
            (true, true, false) => {
                self.pager.put(ALARM, &key, &[]).map_err(before)?;
                touched
            }
            (true, true, true) => touched,
            (false, _, true) => {
                self.pager.delete(ALARM, &key).map_err(before)?;
                touched
            }
            _ => Vec::new(),
        };
        self.state.alarms = self.alarm_bits().map_err(before)?;
        Ok(Ok(Reply::Alarm(answer)))
    }

    fn alarm_bits(&self) -> Result<u16, Fault> {
        let mut bits = 0;
        self.pager.visit(ALARM, (Bound::Unbounded, Bound::Unbounded), Direction::Forward, false, &mut |key, _| {
            let alarm = key.get(8..12).and_then(|alarm| alarm.try_into().ok()).map_or(0, u32::from_be_bytes);
            bits |= 1u16.checked_shl(alarm).unwrap_or(0);
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(bits)
    }
}

/// The small trees of leases, members and alarms: a fault met after the first write is met before it on the next call,
/// and each of these functions ends in the same state when it is called again.
fn before(fault: Fault) -> ApplyFault {
    ApplyFault::before(fault)
}

/// A member's record in the tree `MEMBER`.
#[must_use]
pub fn read_member(bytes: &[u8]) -> Option<crate::command::Member> {
    let archived = rkyv::access::<ArchivedMember, rancor::Error>(bytes).ok()?;
    rkyv::deserialize::<crate::command::Member, rancor::Error>(archived).ok()
}
