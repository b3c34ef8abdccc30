//! One member of a group, with the others played by the test.

use bytes::Bytes;
use ringstone_raft::{
    Actions, Body, Config, Configuration, Entry, EntryKind, HardState, Index, Message, NodeId, Raft, Role, Snapshot,
    SnapshotMetadata, Stable, Term,
};

pub const ME: NodeId = NodeId(1);
pub const TWO: NodeId = NodeId(2);
pub const THREE: NodeId = NodeId(3);
pub const FOUR: NodeId = NodeId(4);

pub fn configuration(voters: &[u64]) -> Configuration {
    Configuration::new(voters.iter().map(|id| NodeId(*id)), []).expect("valid")
}

pub fn entry(index: u64, term: u64) -> Entry {
    let payload = Bytes::from(format!("{index} of term {term}"));
    Entry { term: Term(term), index: Index(index), kind: EntryKind::Normal, payload }
}

pub fn configuration_entry(index: u64, term: u64, configuration: &Configuration) -> Entry {
    Entry { kind: EntryKind::Configuration, payload: configuration.encode(b""), ..entry(index, term) }
}

/// A member whose disk holds entries with these terms, from index 1 on.
pub fn member(voters: &[u64], term: u64, terms: &[u64]) -> Raft {
    let entries = terms.iter().zip(1..).map(|(term, index)| entry(index, *term)).collect();
    member_with(voters, term, entries)
}

pub fn member_with(voters: &[u64], term: u64, entries: Vec<Entry>) -> Raft {
    let snapshot = SnapshotMetadata { configuration: configuration(voters), ..Default::default() };
    let hard_state = HardState { term: Term(term), vote: None };
    Raft::new(Config::new(ME, 77), Stable { hard_state, snapshot, entries, ..Default::default() }).expect("valid")
}

pub fn step(raft: &mut Raft, from: NodeId, term: u64, body: Body) {
    raft.step(from, Message { term: Term(term), body }).expect("a correct message");
}

/// Lets the disk finish everything; returns the actions of all rounds, and what was sent after syncs.
pub fn settle(raft: &mut Raft) -> (Vec<Actions>, Vec<(NodeId, Message)>) {
    let (mut all, mut sent) = (Vec::new(), Vec::new());
    loop {
        let mut actions = raft.take_actions();
        if actions.is_empty() {
            return (all, sent);
        }
        if let Some(persist) = actions.persist.take() {
            sent.extend(raft.persisted(persist.token).send);
        }
        all.push(actions);
    }
}

/// Wins the next election by the votes of the others; its first entry is not yet handed to the disk.
pub fn elect(raft: &mut Raft) {
    let term = raft.role().term.next().0;
    let others: Vec<NodeId> = raft.configuration().members().into_iter().filter(|id| *id != ME).collect();
    raft.campaign();
    for id in &others {
        step(raft, *id, term, Body::PreVoteResponse { granted: true });
    }
    let persist = raft.take_actions().persist.expect("its vote");
    let _ = raft.persisted(persist.token);
    for id in &others {
        step(raft, *id, term, Body::VoteResponse { granted: true });
    }
    assert_eq!(raft.role().role, Role::Leader);
}

pub fn accept(raft: &mut Raft, from: NodeId, matched: u64) {
    let term = raft.role().term.0;
    step(raft, from, term, Body::AppendAccepted { matched: Index(matched) });
}

pub fn committed(raft: &Raft) -> u64 {
    raft.positions().committed.0.0
}

pub fn append(previous: (u64, u64), committed: u64, entries: Vec<Entry>) -> Body {
    let (previous_index, previous_term) = (Index(previous.0), Term(previous.1));
    Body::Append { previous_index, previous_term, committed: Index(committed), entries }
}

pub fn bodies(sent: &[(NodeId, Message)], to: NodeId) -> Vec<&Body> {
    sent.iter().filter(|(receiver, _)| *receiver == to).map(|(_, message)| &message.body).collect()
}

pub fn image(index: u64, term: u64, voters: &[u64]) -> Snapshot {
    let metadata = SnapshotMetadata { index: Index(index), term: Term(term), configuration: configuration(voters) };
    Snapshot { metadata, handle: Bytes::from_static(b"image") }
}
