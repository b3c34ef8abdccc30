//! What the leader alone can do or tell, asked for through any member: keep-alives, the lease clock, changes of the members.
//!
//! ```text
//!  ask ──> this member leads ──> done here                          ──> KeptAlive, ClockTold, Answer
//!   ^  ├─> another one leads ──> Outputs::forward ~~> told_* or forward_refused
//!   |  └─> nobody leads, or the one that was asked does not any more ──┐
//!   └── who leads has changed, or a tick has passed <── unled.rs <─────┘
//! ```
//!
//! As in etcd whoever leads next is asked where nothing can have come of it, and keep-alives and the clock's time also where
//! it is not known: twice does no harm. A change that was on its way to a leader of the past may come about, as a write may.

use std::time::Duration;

use bytes::Bytes;
use ringstone_raft::{NodeId, Role};

use super::in_flight::{Again, Held};
use super::unled::Errand;
use super::{Answer, Forward, Group, GroupError, KeptAlive, MemberChange, Proposal, Reply};
use crate::entry::{Draft, request_and_attempt, request_of_attempt};
use crate::error::Error;

/// A shard and its request id, without the attempt.
pub(super) type Whom = (u32, u64);

/// What only a leader can do or tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// This lease is kept alive: [`KeptAlive`].
    KeepAlive(i64),
    /// What is the time on the lease clock? [`ClockTold`].
    LeaseClock,
    /// The members change: [`Answer`].
    Change(MemberChange),
}

/// What is forwarded to a leader.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// For [`Group::propose_forwarded`] there: an entry with a checksum, but without the clocks of its leader.
    Proposal(Bytes),
    /// Anything else.
    Ask(Ask),
}

/// The answer to [`Ask::LeaseClock`].
#[derive(Debug)]
pub struct ClockTold {
    /// The shard that waits.
    pub shard: u32,
    /// Its request id.
    pub request_id: u64,
    /// Milliseconds.
    pub outcome: Result<u64, Error>,
}

/// One of a shard's.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) whom: Whom,
    attempt: u8,
    pub(super) ask: Ask,
}

impl Ask {
    /// What it takes beside itself, in bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Ask::KeepAlive(_) | Ask::LeaseClock | Ask::Change(MemberChange::Promote(_) | MemberChange::Remove(_)) => 0,
            Ask::Change(MemberChange::Add(member)) => {
                member.name.len() + member.peer_urls.iter().chain(&member.client_urls).map(String::len).sum::<usize>()
            }
        }
    }
}

impl Call {
    pub(super) fn may_be_repeated(&self) -> bool {
        matches!(self, Call::Ask(Ask::KeepAlive(_) | Ask::LeaseClock))
    }

    pub(super) fn is_proposal(&self) -> bool {
        matches!(self, Call::Proposal(_))
    }

    /// To be made once more, behind this attempt. None: that was the last.
    fn next_attempt(self, whom: Whom, attempt: u8) -> Option<Errand> {
        let next = if self.may_be_repeated() { Some(attempt.wrapping_add(1)) } else { attempt.checked_add(1) };
        match self {
            Call::Proposal(payload) => {
                let draft = Draft::of_sealed(&payload).ok()?.next_attempt()?;
                Some(Errand::Proposal(Proposal { draft, shard: whom.0, request_id: whom.1 }))
            }
            Call::Ask(ask) => Some(Errand::Ask(Asking { whom, attempt: next?, ask })),
        }
    }
}

/// The one that was asked does not lead, or was not reached: nothing has come of it, and another one may do it.
fn is_unled(error: &Error) -> bool {
    matches!(error, Error::NoLeader | Error::NotLeader | Error::LeaderChanged | Error::NotPrimaryLessor)
}

impl Group {
    /// A shard asks for what only the leader can do or tell: answered in one of the next [`Group::take_outputs`]. Without a
    /// leader it waits for one, until [`request_timeout`](crate::config::ServerConfig::request_timeout) has passed and the
    /// shard has told its caller so.
    ///
    /// # Errors
    /// [`GroupError::Damaged`].
    pub fn ask(&mut self, now: Duration, shard: u32, request_id: u64, ask: Ask) -> Result<(), GroupError> {
        self.now = now;
        self.ask_since(now, Asking { whom: (shard, request_id), attempt: 0, ask })
    }

    /// `since` is when the caller began to wait.
    pub(super) fn ask_since(&mut self, since: Duration, asking: Asking) -> Result<(), GroupError> {
        let leader = self.forward_to();
        let leads = match asking.ask {
            Ask::Change(_) => self.may_propose(),
            Ask::KeepAlive(_) | Ask::LeaseClock => self.raft.role().role == Role::Leader,
        };
        if leader.is_none() && !leads {
            self.wait_for_leader(since, Errand::Ask(asking));
            return Ok(());
        }
        let Asking { whom, attempt, ask } = asking;
        // A sole voter answers all.
        if !self.is_sole() {
            let again = Again { since, call: Call::Ask(ask.clone()) };
            self.in_flight.begin(self.now, self.raft.role().term.0, whom, attempt, Some(again));
        }
        if let Some(leader) = leader {
            let whom = (whom.0, request_of_attempt(whom.1, attempt));
            self.outputs.forward.push(Forward { leader, whom, call: Call::Ask(ask) });
            return Ok(());
        }
        match ask {
            Ask::KeepAlive(id) => self.keep_alive(self.now, whom.0, whom.1, id),
            Ask::LeaseClock => {
                self.clock_told(whom, Ok(self.lease_clock_ms()));
                Ok(())
            }
            Ask::Change(change) => self.change_members(self.now, &change, whom.0, whom.1),
        }
    }

    /// The leader, another member, says to a keep-alive ([`Forward::whom`]) which TTL was granted, in seconds; below 0: it
    /// can't tell.
    pub fn told_kept_alive(&mut self, whom: (u32, u64), ttl_s: i64) {
        if ttl_s < 0 {
            return self.forward_refused(whom, Error::NotPrimaryLessor);
        }
        self.kept((whom.0, request_and_attempt(whom.1).0), Ok(ttl_s));
    }

    /// As [`Group::told_kept_alive`]: the time on its lease clock.
    pub fn told_clock(&mut self, whom: (u32, u64), ms: i64) {
        match u64::try_from(ms) {
            Ok(ms) => self.clock_told((whom.0, request_and_attempt(whom.1).0), Ok(ms)),
            Err(_) => self.forward_refused(whom, Error::LeaderChanged),
        }
    }

    /// As [`Group::told_kept_alive`]: what came of a change.
    pub fn told_changed(&mut self, whom: (u32, u64), outcome: Result<(), Error>) {
        if let Err(error) = outcome {
            return self.forward_refused(whom, error);
        }
        let (shard, request_id) = (whom.0, request_and_attempt(whom.1).0);
        if self.in_flight.end((shard, request_id)) {
            self.outputs.answers.push(Answer { shard, request_id, outcome: Ok(Reply::Done) });
        }
    }

    /// A member is connected anew: what was on its way to it may be lost.
    pub fn note_connected(&mut self, member: NodeId) {
        if self.forward_to() == Some(member) {
            let lost = self.in_flight.take_repeatable();
            lost.into_iter().for_each(|(whom, held)| self.call_refused(whom, held, Error::NoLeader));
            self.unled.look_again();
        }
    }

    /// The leader has not taken what was forwarded ([`Forward::whom`]), or it never came there: nothing will come of that
    /// attempt. Where another leader may take it, it waits for that one; else its caller learns so at once.
    pub fn forward_refused(&mut self, whom: (u32, u64), error: Error) {
        let (request_id, attempt) = request_and_attempt(whom.1);
        let whom = (whom.0, request_id);
        if let Some(held) = self.in_flight.refuse(whom, attempt) {
            self.call_refused(whom, held, error);
        }
    }

    pub(super) fn call_refused(&mut self, whom: Whom, held: Held, error: Error) {
        let Held { attempt, again } = held;
        let ask = match &again {
            Some(Again { call: Call::Ask(ask), .. }) => Some(ask.clone()),
            _ => None,
        };
        if is_unled(&error)
            && let Some(Again { since, call }) = again
            && let Some(errand) = call.next_attempt(whom, attempt)
        {
            return self.wait_for_leader(since, errand);
        }
        match ask {
            Some(ask) => self.ask_failed(whom, &ask, error),
            None => self.proposal_failed(whom, error),
        }
    }

    pub(super) fn ask_failed(&mut self, (shard, request_id): Whom, ask: &Ask, error: Error) {
        let outputs = &mut self.outputs;
        match ask {
            Ask::KeepAlive(_) => outputs.kept_alive.push(KeptAlive { shard, request_id, outcome: Err(error) }),
            Ask::LeaseClock => outputs.clocks.push(ClockTold { shard, request_id, outcome: Err(error) }),
            Ask::Change(_) => outputs.answers.push(Answer { shard, request_id, outcome: Err(error) }),
        }
    }

    /// What came of a keep-alive. A shard's own that this leader can't answer any more waits for the next one.
    pub(super) fn kept(&mut self, whom: Whom, outcome: Result<i64, Error>) {
        match (self.in_flight.take(whom), &outcome) {
            (Some(held), Err(Error::NotPrimaryLessor)) => self.call_refused(whom, held, Error::NotPrimaryLessor),
            _ => self.outputs.kept_alive.push(KeptAlive { shard: whom.0, request_id: whom.1, outcome }),
        }
    }

    /// This leader does not propose a change.
    pub(super) fn change_failed(&mut self, whom: Whom, error: Error) {
        match self.in_flight.take(whom) {
            Some(held) => self.call_refused(whom, held, error),
            None => self.outputs.answers.push(Answer { shard: whom.0, request_id: whom.1, outcome: Err(error) }),
        }
    }

    fn clock_told(&mut self, whom: Whom, outcome: Result<u64, Error>) {
        self.in_flight.end(whom);
        self.outputs.clocks.push(ClockTold { shard: whom.0, request_id: whom.1, outcome });
    }
}
