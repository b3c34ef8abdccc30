//! Linearizable reads without a log entry (thesis 6.4). The rules are at the top of `reads.rs`.

use super::Raft;
use crate::reads::Reader;
use crate::{Body, Index, Message, NodeId, ProposeError, ReadState, Role};

impl Raft {
    /// Asks up to where the state must have applied for a linearizable read that starts now. A follower asks its leader.
    /// The answer comes in [`Actions::reads`](crate::Actions::reads), or the context in `reads_aborted`. Contexts must
    /// grow: a retry takes a new one. A sole voter is answered with the next `take_actions`.
    pub fn read_index(&mut self, context: u64) -> Result<(), ProposeError> {
        if self.reads.is_full() {
            return Err(ProposeError::Busy);
        }
        let leader = match (self.role, self.leader) {
            (Role::Leader, _) => None,
            (_, Some(leader)) => Some(leader),
            (_, None) => return Err(ProposeError::NotLeader { leader: None }),
        };
        if !self.reads.claim_context(context) {
            return Err(ProposeError::ContextReused(context));
        }
        match leader {
            None => self.reads.queue(Reader::Local { context }),
            Some(leader) => {
                self.reads.forward(context);
                self.send(leader, Body::ReadRequest { incarnation: self.config.incarnation, context });
            }
        }
        Ok(())
    }

    /// One round for all reads that came in since the last one. Before the first commit of the term they wait: the commit
    /// known here may be behind what the last leader acknowledged.
    pub(super) fn maybe_start_read_round(&mut self) {
        let committed = self.log.committed();
        if self.role == Role::Leader && self.has_committed_in_term() && self.reads.maybe_start_round(committed) {
            self.broadcast_heartbeat();
            self.maybe_confirm_reads();
        }
    }

    /// Whether the commit known here is at least what any earlier leader acknowledged.
    pub(super) fn has_committed_in_term(&self) -> bool {
        self.log.term_at(self.log.committed()) == Some(self.hard_state.term)
    }

    /// The latest round that a quorum has confirmed.
    pub(super) fn confirmed_round(&self) -> u64 {
        let own_round = self.reads.round();
        let round_of = |id: NodeId| match id == self.config.id {
            true => own_round,
            false => self.progress.get(&id).map_or(0, |progress| progress.round),
        };
        self.log.configuration().quorum_value(round_of)
    }

    pub(super) fn maybe_confirm_reads(&mut self) {
        if !self.reads.has_rounds() {
            return;
        }
        let confirmed = self.confirmed_round();
        let term = self.hard_state.term;
        let (ready, send_now) = (&mut self.reads_ready, &mut self.send_now);
        self.reads.confirmed(confirmed, |reader, index| match reader {
            Reader::Local { context } => ready.push(ReadState { context, index }),
            Reader::Remote { from, incarnation, context } => {
                let body = Body::ReadResponse { incarnation, context, index };
                send_now.push((from, Message { term, body }));
            }
        });
    }

    /// Where it is not the leader or too many wait, the asker gives up by itself. The question is also a confirmation, by its
    /// asker: with it and this member a quorum of three needs no round.
    pub(super) fn handle_read_request(&mut self, from: NodeId, incarnation: u64, context: u64) {
        if self.role != Role::Leader || self.reads.is_full() {
            return;
        }
        if self.log.configuration().is_quorum(|id| id == self.config.id || id == from) && self.has_committed_in_term() {
            let index = self.log.committed();
            self.send(from, Body::ReadResponse { incarnation, context, index });
        } else {
            self.reads.queue(Reader::Remote { from, incarnation, context });
        }
    }

    pub(super) fn handle_read_response(&mut self, incarnation: u64, context: u64, index: Index) {
        if incarnation == self.config.incarnation && self.reads.take_forwarded(context) {
            self.reads_ready.push(ReadState { context, index });
        }
    }
}
