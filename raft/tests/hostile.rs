//! Messages that no correct member sends, by chance: whatever comes in, a member answers with an error or goes on. Nothing
//! is checked of what it then believes: with peers that lie there is no agreement to check.

#[path = "support/random.rs"]
mod random;

use bytes::Bytes;
use random::Random;
use ringstone_raft::{
    Body, Config, Configuration, Entry, EntryKind, Index, Message, NodeId, Raft, Role, Snapshot, SnapshotMetadata,
    Stable, Term,
};
use std::collections::VecDeque;

fn number(random: &mut Random) -> u64 {
    match random.below(20) {
        0 => random.next(),
        1 => u64::MAX - random.below(3),
        2 => (1 << 62) - random.below(2),
        _ => random.below(12),
    }
}

fn index(random: &mut Random) -> Index {
    Index(number(random))
}

fn term(random: &mut Random) -> Term {
    Term(number(random))
}

fn entries(random: &mut Random, previous: Index) -> Vec<Entry> {
    let mut next = previous.0.wrapping_add(u64::from(!random.chance(50)));
    let mut entry_term = random.below(6);
    let mut entries = Vec::new();
    for _ in 0..random.below(5) {
        let payload = match random.chance(200) {
            true => configuration(random).encode(b""),
            false => Bytes::from_static(&[1, 1, 0]),
        };
        let kind = if random.chance(150) { EntryKind::Configuration } else { EntryKind::Normal };
        entries.push(Entry { term: Term(entry_term), index: Index(next), kind, payload });
        next = next.wrapping_add(1);
        entry_term += random.below(2);
    }
    entries
}

fn configuration(random: &mut Random) -> Configuration {
    let (voters, learners) = (1 + random.below(4), random.below(2));
    Configuration::new((1..=voters).map(NodeId), (7..7 + learners).map(NodeId)).expect("valid")
}

fn body(random: &mut Random) -> Body {
    match random.below(15) {
        0 => Body::PreVoteRequest { last_index: index(random), last_term: term(random) },
        1 => Body::PreVoteResponse { granted: random.chance(700) },
        2 => Body::VoteRequest { last_index: index(random), last_term: term(random), forced: random.chance(500) },
        3 => Body::VoteResponse { granted: random.chance(700) },
        4..=6 => {
            let previous_index = index(random);
            let entries = entries(random, previous_index);
            Body::Append { previous_index, previous_term: term(random), committed: index(random), entries }
        }
        7 => Body::AppendAccepted { matched: index(random) },
        8 => Body::AppendRejected { rejected: index(random), hint_index: index(random), hint_term: term(random) },
        9 => Body::Heartbeat { committed: Index(random.below(4)), round: number(random) },
        10 => Body::HeartbeatResponse { round: number(random), kinds_known: 0 },
        11 => Body::ReadRequest { incarnation: number(random), context: number(random) },
        12 => Body::TimeoutNow,
        13 => Body::Commit { index: index(random), entry_term: term(random), committed: index(random) },
        _ => {
            let configuration = if random.chance(100) { Configuration::default() } else { configuration(random) };
            let metadata = SnapshotMetadata { index: index(random), term: term(random), configuration };
            Body::Snapshot(Snapshot { metadata, handle: Bytes::new() })
        }
    }
}

/// What was reached.
#[derive(Default)]
struct Reached {
    taken: u64,
    leaderships: u64,
    images: u64,
    applied: u64,
}

fn run(seed: u64, reached: &mut Reached) {
    let mut random = Random::new(seed);
    let snapshot = SnapshotMetadata { configuration: configuration(&mut random), ..Default::default() };
    let mut config = Config::new(NodeId(1), 1);
    config.lease_reads = random.chance(500);
    let mut raft = Raft::new(config, Stable { snapshot, ..Default::default() }).expect("valid");
    let mut writing = VecDeque::new();
    for context in 0..400 {
        match random.below(16) {
            14 => drop(raft.lease_read(random.below(3) as u32)),
            15 if random.chance(100) => raft.resign(),
            15 => raft.clock_gap(),
            0 => raft.tick(random.next()),
            1 => drop(raft.propose([Bytes::from_static(b"x")])),
            2 => drop(raft.read_index(context)),
            3 => drop(raft.propose_configuration(&configuration(&mut random), b"")),
            4 | 5 => raft.campaign(),
            6 => drop(raft.transfer_leadership(NodeId(random.below(5)))),
            _ => {
                let term =
                    if random.chance(900) { Term(raft.role().term.0 + random.below(2)) } else { term(&mut random) };
                let message = Message { term, body: body(&mut random) };
                // Even where the error is one after which a caller stops.
                reached.taken += u64::from(raft.step(NodeId(random.below(5)), message).is_ok());
            }
        }
        let actions = raft.take_actions();
        reached.leaderships += u64::from(actions.became.is_some_and(|became| became.role == Role::Leader));
        reached.images += u64::from(actions.persist.as_ref().is_some_and(|persist| persist.snapshot.is_some()));
        reached.applied += actions.committed.len() as u64;
        writing.extend(actions.persist);
        if let Some(last) = actions.committed.last() {
            raft.applied(last.index);
            raft.compact(Index(last.index.0 - random.below(2)));
        }
        for to in actions.snapshots_wanted {
            let metadata = raft.metadata_at(raft.positions().applied.0).unwrap_or_default();
            raft.send_snapshot(to, Snapshot { metadata, handle: Bytes::new() });
            match random.below(3) {
                0 => raft.report_snapshot_delivered(to),
                1 => raft.report_snapshot_failed(to),
                _ => raft.report_unreachable(to),
            }
        }
        while random.chance(400) {
            let Some(persist) = writing.pop_front() else { break };
            drop(raft.persisted(persist.token));
        }
    }
}

#[test]
fn no_message_ends_the_process() {
    let mut reached = Reached::default();
    (0..3000).for_each(|seed| run(seed, &mut reached));
    let Reached { taken, leaderships, images, applied } = reached;
    println!("{taken} messages, {leaderships} leaderships, {images} images, {applied} entries");
    assert!(taken > 20_000 && leaderships > 500 && images > 500 && applied > 500, "most runs end at once");
}
