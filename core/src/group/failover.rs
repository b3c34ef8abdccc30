//! A leader that must be replaced before an election timeout has passed: its process has ended or is to end, or its disk does not
//! answer.
//!
//! All three only bring an election forward that raft would hold anyway; who wins it, and whether anybody does, raft decides.
//!
//! **A process that has ended** ([`Group::report_lost`]). All followers learn of it within moments, and if all stood for election
//! at once they would split the votes. So they take turns by their ids: the first stands at once, and with each tick it is
//! somebody's turn again, until somebody leads or an election timeout is over.
//!
//! **A disk that does not answer.** Such a leader goes on sending heartbeats, so nobody else would stand, while what its own
//! clients have asked for waits. It hands over to the follower that has most of its log, as an operator would: no proposal is
//! taken until that one has all and leads. (To stop at once would leave appends on their way, and a successor without them
//! gets no votes: seen under load.) If it still leads a while later, it does stop at once. Time is counted in ticks that have passed without the end of any request: a process that
//! was stopped itself, or was short of CPU, does not blame its disk.
//!
//! **A process that is to end** ([`Group::resign`]). It hands over as well, to the follower that can lead soonest, and waits for
//! it: no write is lost, refused or doubtful, and those of its own clients go on by way of the new leader. A follower that does not
//! lead after half an election timeout is given up for the next best; after two election timeouts the leader just stops.

use std::sync::atomic::Ordering;

use ringstone_pager::api::PageRun;
use ringstone_raft::{NodeId, Role};

use super::{Answer, Group, NOBODY, Proposal};
use crate::error::Error;

/// Part of an election timeout after which the disk of a leader has not answered for too long, in quarters: a stall of one
/// whole timeout is acted on before it ends.
const PATIENCE_QUARTERS: u32 = 3;
/// Part of an election timeout, in the same quarters, that the hand-over may take.
const HAND_OVER_QUARTERS: u32 = 2;
/// Election timeouts after which a member whose disk does not answer refuses what needs its log, instead of letting it wait.
const REFUSES_AFTER: u32 = 5;

/// Election timeouts that the hand-over of a process that is to end may take.
const RESIGNATION_ELECTIONS: u32 = 2;

/// This member leads, and is to end.
#[derive(Debug, Default)]
pub(super) struct Resigning {
    ticks: u32,
    /// Ticks since the last of `asked` was asked.
    waited: u32,
    asked: Vec<NodeId>,
}

/// A leader is missed.
#[derive(Debug)]
pub(super) struct Vacancy {
    /// In which it led: another one has its own elections.
    term: u64,
    /// This member's turn, of so many.
    turn: u32,
    turns: u32,
    ticks: u32,
}

/// How long the disk has been silent.
#[derive(Debug, Default)]
pub(super) struct DiskWatch {
    /// Ticks of the request of the log that has waited longest, without the end of any other.
    log_ticks: u32,
    /// A request of the log has ended since the last tick.
    log_moved: bool,
    /// The page that apply waited for at the last tick, and for how many.
    page: Option<PageRun>,
    page_ticks: u32,
    /// The operator was told.
    told: bool,
}

impl DiskWatch {
    pub(super) fn log_moved(&mut self) {
        self.log_moved = true;
    }

    fn tick(&mut self, log_waits: bool, page: Option<PageRun>) {
        let is_silent = log_waits && !std::mem::take(&mut self.log_moved);
        self.log_ticks = if is_silent { self.log_ticks.saturating_add(1) } else { 0 };
        let is_same = page.is_some() && page == self.page;
        self.page_ticks = if is_same { self.page_ticks.saturating_add(1) } else { 0 };
        self.page = page;
    }

    fn silent_ticks(&self) -> u32 {
        self.log_ticks.max(self.page_ticks)
    }
}

impl Group {
    fn election_ticks(&self) -> u32 {
        super::open::election_ticks(&self.shared)
    }

    /// The connection to a member was lost: what was on its way is sent again. Where it led, it is not waited for: of a
    /// connection that only the network has cut, the others know better, and do not vote.
    pub fn report_lost(&mut self, member: NodeId) {
        self.raft.report_unreachable(member);
        let role = self.raft.role();
        if role.role != Role::Follower || role.leader != Some(member) || self.is_installing() {
            return;
        }
        self.raft.forget_leader(member);
        let id = self.raft.id();
        let mut voters: Vec<NodeId> = self.raft.configuration().voters().to_vec();
        voters.retain(|voter| *voter != member);
        voters.sort_unstable();
        let Some(turn) = voters.iter().position(|voter| *voter == id) else { return };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.vacancy = Some(Vacancy { term: role.term.0, turn: count(turn), turns: count(voters.len()), ticks: 0 });
        tracing::info!(
            leader = format!("{:x}", member.0),
            turn,
            "the connection to the leader is lost: an election is due"
        );
        if turn == 0 {
            self.raft.campaign();
        }
    }

    /// A tick's part: stands for election when it is this member's turn.
    pub(super) fn take_turn(&mut self) {
        let limit = self.election_ticks();
        let Some(vacancy) = &mut self.vacancy else { return };
        let role = self.raft.role();
        let is_open = role.leader.is_none() && role.term.0 == vacancy.term && role.role != Role::Candidate;
        if !is_open || vacancy.ticks >= limit {
            self.vacancy = None;
            return;
        }
        let is_own_turn = vacancy.ticks % vacancy.turns == vacancy.turn;
        vacancy.ticks += 1;
        if is_own_turn {
            self.raft.campaign();
        }
    }

    /// The process is to end: leadership is handed over in time, if this member has it. Nothing that is on its way is lost.
    pub fn resign(&mut self) {
        if self.raft.role().role == Role::Leader && self.resigning.is_none() && !self.is_sole() {
            self.resigning = Some(Resigning::default());
            self.ask_successor();
        }
    }

    /// True while leadership is being handed over because the process is to end: it does not end yet.
    #[must_use]
    pub fn is_resigning(&self) -> bool {
        self.resigning.is_some() && self.raft.role().role == Role::Leader
    }

    /// The next best is asked to lead. Nobody is left: this member stops leading.
    fn ask_successor(&mut self) {
        let Some(resigning) = &mut self.resigning else { return };
        self.raft.abandon_transfer();
        match self.raft.best_successor(&resigning.asked) {
            Some(successor) => {
                tracing::info!(
                    successor = format!("{:x}", successor.0),
                    "handing leadership over, as this member is to end"
                );
                resigning.waited = 0;
                resigning.asked.push(successor);
                // An error: the membership has just changed. The next one is asked in time.
                let _ = self.raft.transfer_leadership(successor);
            }
            None => {
                self.resigning = None;
                self.raft.resign();
            }
        }
    }

    /// A tick's part: is the hand-over done, or somebody else's turn, or time up?
    pub(super) fn drive_resignation(&mut self) {
        let election = self.election_ticks();
        let leads = self.raft.role().role == Role::Leader;
        let Some(resigning) = &mut self.resigning else { return };
        resigning.ticks += 1;
        resigning.waited += 1;
        if !leads {
            self.resigning = None;
        } else if resigning.ticks >= RESIGNATION_ELECTIONS * election {
            tracing::warn!("leadership could not be handed over in time: this member stops leading");
            self.resigning = None;
            self.raft.resign();
        } else if resigning.waited >= (election * HAND_OVER_QUARTERS).div_ceil(4) {
            self.ask_successor();
        }
    }

    /// A tick's part: a leader whose disk does not answer gives its office away, once, and says so.
    pub(super) fn watch_disk(&mut self) {
        self.disk_watch.tick(self.log.awaits_completion(), self.absent);
        let silent = self.disk_watch.silent_ticks();
        let patience = (self.election_ticks() * PATIENCE_QUARTERS).div_ceil(4).max(2);
        let ms =
            u64::from(silent) * u64::try_from(self.shared.config.heartbeat_interval.as_millis()).unwrap_or(u64::MAX);
        self.shared.disk_silent_ms.store(if silent < patience { 0 } else { ms }, Ordering::Relaxed);
        if silent < patience {
            if std::mem::take(&mut self.disk_watch.told) {
                tracing::warn!("the disk answers again");
            }
            return;
        }
        let leads = self.raft.role().role == Role::Leader;
        let successor = if leads { self.raft.best_successor(&[]) } else { None };
        let can_give = successor.is_some();
        if !std::mem::replace(&mut self.disk_watch.told, true) {
            self.shared.disk_stalls.fetch_add(1, Ordering::Relaxed);
            self.shared.leaderships_given_away.fetch_add(u64::from(can_give), Ordering::Relaxed);
            self.tell_stall(ms, leads, can_give);
        }
        let Some(successor) = successor else { return };
        if silent < patience + (self.election_ticks() * HAND_OVER_QUARTERS).div_ceil(4) {
            // An error: it is under way. If nothing comes of it, the next step does.
            let _ = self.raft.transfer_leadership(successor);
        } else {
            tracing::warn!("leadership could not be handed over in time: this member stops leading");
            self.raft.resign();
        }
    }

    fn tell_stall(&self, ms: u64, leads: bool, can_give: bool) {
        let config = &self.shared.config;
        let log = config.wal_dir.clone().unwrap_or_else(|| config.data_dir.join("wal"));
        let is_log = self.disk_watch.log_ticks >= self.disk_watch.page_ticks;
        let (what, place) = if is_log {
            ("a write or sync of the log", log)
        } else {
            ("a read of the page file", config.data_dir.clone())
        };
        let then = match (leads, can_give) {
            (_, true) => "this member gives its leadership away, and acknowledges nothing until the disk answers",
            (true, false) => "writes wait until it answers, as there is no other voter",
            (false, _) => "this member acknowledges nothing until it answers; the others go on",
        };
        tracing::warn!(folder = %place.display(), waits_ms = ms, "the disk does not answer {what}: {then}");
    }

    /// True while what needs the log is refused: its disk has not answered for so long that nobody should wait for it here.
    pub(super) fn refuses(&self) -> bool {
        self.disk_watch.silent_ticks() > self.election_ticks().saturating_mul(REFUSES_AFTER)
    }

    /// Answers proposals that are not taken because the disk is silent; their outcome is known: nothing.
    pub(super) fn refuse(&mut self, proposals: Vec<Proposal>) {
        let whom = proposals.iter().filter(|proposal| proposal.shard != NOBODY);
        self.outputs.answers.extend(whom.map(|proposal| Answer {
            shard: proposal.shard,
            request_id: proposal.request_id,
            outcome: Err(Error::Timeout),
        }));
        self.shared.proposals_failed.fetch_add(proposals.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_silent_only_while_nothing_ends() {
        let run = |first| PageRun { first, pages: 1 };
        let mut watch = DiskWatch::default();
        for ticks in 1..=3 {
            watch.tick(true, None);
            assert_eq!(watch.silent_ticks(), ticks);
        }
        watch.log_moved();
        watch.tick(true, None);
        assert_eq!(watch.silent_ticks(), 0, "one has ended, the next is under way");
        watch.tick(true, None);
        watch.tick(false, None);
        assert_eq!(watch.silent_ticks(), 0, "nothing waits");
        for ticks in 0..3 {
            watch.tick(false, Some(run(7)));
            assert_eq!(watch.silent_ticks(), ticks);
        }
        watch.tick(false, Some(run(8)));
        assert_eq!(watch.silent_ticks(), 0, "another page");
    }
}
