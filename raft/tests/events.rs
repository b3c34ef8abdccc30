//! One event, exact output: every input and every message, of an old, the own and a newer term, to a member in every role.
//! `events.txt` holds what each asks for, one line an event; `RINGSTONE_TRANSCRIPTS=write` writes it anew, to be read in the
//! diff. How lines read: `support/script.rs`; `-` is nothing at all.
//!
//! The member is 1 of {1 2 3} in term 3 (before its campaign: 2), its log 1/1, 2/2, all committed and applied. As a leader it
//! has 3/3, too, and the others have it.

#[path = "support/show.rs"]
mod show;

use bytes::Bytes;
use ringstone_raft::{
    Body, Config, Configuration, Entry, EntryKind, HardState, Index, Message, NodeId, ProposeError, Raft, RaftError,
    Role, Snapshot, SnapshotMetadata, Stable, Term,
};
use std::fmt::Write;
use std::path::Path;

const ROLES: [&str; 6] = ["learner", "follower", "alone", "pre-candidate", "candidate", "leader"];
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);

fn step(raft: &mut Raft, from: NodeId, term: u64, body: Body) -> Result<(), RaftError> {
    raft.step(from, Message { term: Term(term), body })
}

/// Everything that the member asks for until it asks for nothing more, its disk and its state being quick.
fn drain(raft: &mut Raft) -> Vec<String> {
    let (id, mut lines) = (raft.id(), Vec::new());
    loop {
        let actions = raft.take_actions();
        if actions.is_empty() {
            return lines;
        }
        lines.extend(actions.became.map(|now| show::became(id, now)));
        lines.extend(actions.send_now.iter().map(|(to, message)| format!("{id}->{to} {}", show::message(message))));
        lines.extend(actions.snapshots_wanted.iter().map(|to| format!("wants an image for {to}")));
        lines.extend(actions.reads.iter().map(|read| format!("read {} at {}", read.context, read.index)));
        lines.extend(actions.reads_aborted.iter().map(|context| format!("gives read {context} up")));
        if let Some(last) = actions.committed.last() {
            lines.push(format!("applies {}", show::entries(&actions.committed)));
            raft.applied(last.index);
        }
        if let Some(persist) = actions.persist {
            lines.push(format!("writes {}", show::persist(&persist)));
            let sent = raft.persisted(persist.token).send;
            lines.extend(sent.iter().map(|(to, message)| format!("{id}=>{to} {}", show::message(message))));
        }
    }
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { term: Term(term), index: Index(index), kind: EntryKind::Normal, payload: Bytes::from_static(b"x") }
}

fn three() -> Configuration {
    Configuration::new([1, 2, 3].map(NodeId), []).expect("valid")
}

fn made(role: &str) -> Raft {
    let configuration = match role {
        "learner" => Configuration::new([TWO, THREE], [NodeId(1)]).expect("valid"),
        _ => three(),
    };
    let stable = Stable {
        hard_state: HardState { term: Term(2), vote: None },
        snapshot: SnapshotMetadata { configuration, ..Default::default() },
        entries: vec![entry(1, 1), entry(2, 2)],
        applied: Index(2),
    };
    let mut raft = Raft::new(Config::new(NodeId(1), 7), stable).expect("valid");
    let depth = ROLES.iter().position(|known| *known == role).expect("a role");
    let correct = "a correct message";
    if depth <= 1 {
        step(&mut raft, TWO, 2, Body::Heartbeat { committed: Index(2), round: 0 }).expect(correct);
    }
    if depth >= 3 {
        raft.campaign();
    }
    if depth >= 4 {
        step(&mut raft, TWO, 3, Body::PreVoteResponse { granted: true }).expect(correct);
        drain(&mut raft);
    }
    if depth >= 5 {
        step(&mut raft, TWO, 3, Body::VoteResponse { granted: true }).expect(correct);
        drain(&mut raft);
        step(&mut raft, TWO, 3, Body::AppendAccepted { matched: Index(3) }).expect(correct);
        step(&mut raft, THREE, 3, Body::AppendAccepted { matched: Index(3) }).expect(correct);
    }
    drain(&mut raft);
    let expected = [Role::Follower, Role::Follower, Role::Follower, Role::PreCandidate, Role::Candidate, Role::Leader];
    assert_eq!(raft.role().role, expected[depth]);
    raft
}

/// What a caller can do: some of it is refused at times.
enum Input {
    Does(fn(&mut Raft)),
    Asks(fn(&mut Raft) -> Result<(), ProposeError>),
}

fn inputs() -> Vec<(&'static str, Input)> {
    use Input::{Asks, Does};
    vec![
        ("tick", Does(|raft| raft.tick(0))),
        ("tick 10 times", Does(|raft| (0..10).for_each(|_| raft.tick(0)))),
        ("tick 19 times", Does(|raft| (0..19).for_each(|_| raft.tick(0)))),
        ("campaign", Does(|raft| raft.campaign())),
        ("propose x y", Asks(|raft| raft.propose([Bytes::from_static(b"x"), Bytes::from_static(b"y")]).map(drop))),
        ("propose nothing", Asks(|raft| raft.propose([]).map(drop))),
        ("propose an empty payload", Asks(|raft| raft.propose([Bytes::new()]).map(drop))),
        (
            "propose_configuration {1 2 3 +4}",
            Asks(|raft| {
                let target = Configuration::new([1, 2, 3].map(NodeId), [NodeId(4)]).expect("valid");
                raft.propose_configuration(&target, b"").map(drop)
            }),
        ),
        (
            "propose_configuration {2 3}",
            Asks(|raft| {
                raft.propose_configuration(&Configuration::new([TWO, THREE], []).expect("valid"), b"").map(drop)
            }),
        ),
        (
            "propose_configuration {1 4 5}",
            Asks(|raft| {
                raft.propose_configuration(&Configuration::new([1, 4, 5].map(NodeId), []).expect("valid"), b"")
                    .map(drop)
            }),
        ),
        ("propose_configuration {}", Asks(|raft| raft.propose_configuration(&Configuration::default(), b"").map(drop))),
        ("read_index 5", Asks(|raft| raft.read_index(5))),
        ("read_index 5, again", Asks(|raft| raft.read_index(5).and_then(|()| raft.read_index(5)))),
        ("transfer_leadership 2", Asks(|raft| raft.transfer_leadership(TWO))),
        ("transfer_leadership 1", Asks(|raft| raft.transfer_leadership(NodeId(1)))),
        ("transfer_leadership 9", Asks(|raft| raft.transfer_leadership(NodeId(9)))),
        (
            "transfer_leadership 2, propose",
            Asks(|raft| {
                raft.transfer_leadership(TWO).and_then(|()| raft.propose([Bytes::from_static(b"x")]).map(drop))
            }),
        ),
        ("resign", Does(|raft| raft.resign())),
        ("lease_read", Asks(|raft| raft.lease_read(0).map(drop))),
        ("clock_gap", Does(|raft| raft.clock_gap())),
        ("applied 2", Does(|raft| raft.applied(Index(2)))),
        ("compact 2", Does(|raft| raft.compact(Index(2)))),
        (
            "send_snapshot 2",
            Does(|raft| {
                let metadata = raft.metadata_at(Index(2)).expect("in the log");
                raft.send_snapshot(TWO, Snapshot { metadata, handle: Bytes::new() });
            }),
        ),
        ("report_snapshot_delivered 2", Does(|raft| raft.report_snapshot_delivered(TWO))),
        ("report_snapshot_failed 2", Does(|raft| raft.report_snapshot_failed(TWO))),
        ("forget_leader 2", Does(|raft| raft.forget_leader(TWO))),
        ("forget_leader 3", Does(|raft| raft.forget_leader(THREE))),
        ("report_unreachable 2", Does(|raft| raft.report_unreachable(TWO))),
    ]
}

/// Every body, with what makes a difference in it. Entries are of the message's term.
fn bodies(term: u64) -> Vec<Body> {
    let append = |previous: (u64, u64), committed, entries: Vec<Entry>| Body::Append {
        previous_index: Index(previous.0),
        previous_term: Term(previous.1),
        committed: Index(committed),
        entries,
    };
    let request =
        |last: (u64, u64), forced| Body::VoteRequest { last_index: Index(last.0), last_term: Term(last.1), forced };
    let image = |index, term| {
        let metadata = SnapshotMetadata { index: Index(index), term: Term(term), configuration: three() };
        Body::Snapshot(Snapshot { metadata, handle: Bytes::new() })
    };
    vec![
        Body::PreVoteRequest { last_index: Index(3), last_term: Term(3) },
        Body::PreVoteRequest { last_index: Index(9), last_term: Term(1) },
        Body::PreVoteResponse { granted: true },
        Body::PreVoteResponse { granted: false },
        request((3, 3), false),
        request((9, 1), false),
        request((3, 3), true),
        Body::VoteResponse { granted: true },
        Body::VoteResponse { granted: false },
        append((2, 2), 2, vec![entry(3, term)]),
        append((2, 2), 3, vec![entry(3, term), entry(4, term)]),
        append((0, 0), 0, vec![]),
        append((5, term), 5, vec![entry(6, term)]),
        append((1, 1), 1, vec![entry(2, term)]),
        Body::AppendAccepted { matched: Index(2) },
        Body::AppendAccepted { matched: Index(99) },
        Body::AppendRejected { rejected: Index(3), hint_index: Index(1), hint_term: Term(1) },
        Body::Commit { index: Index(2), entry_term: Term(2), committed: Index(2) },
        Body::Commit { index: Index(3), entry_term: Term(term), committed: Index(9) },
        Body::Heartbeat { committed: Index(2), round: 4 },
        Body::Heartbeat { committed: Index(9), round: 4 },
        Body::HeartbeatResponse { round: 0, kinds_known: 1 },
        Body::NewerTerm,
        Body::ReadRequest { incarnation: 9, context: 6 },
        Body::ReadResponse { incarnation: 7, context: 5, index: Index(2) },
        Body::TimeoutNow,
        image(2, 2),
        image(5, 2),
    ]
}

fn line(out: &mut String, role: &str, event: &str, outcome: Result<(), String>, raft: &mut Raft) {
    let mut lines: Vec<String> = outcome.err().into_iter().collect();
    lines.extend(drain(raft));
    let lines = if lines.is_empty() { "-".to_string() } else { lines.join("; ") };
    writeln!(out, "{role}, {event}: {lines}").expect("a string takes all");
}

fn all() -> String {
    let mut out = String::new();
    for role in ROLES {
        for (name, input) in inputs() {
            let mut raft = made(role);
            let outcome = match input {
                Input::Does(input) => {
                    input(&mut raft);
                    Ok(())
                }
                Input::Asks(input) => input(&mut raft).map_err(|error| format!("refused: {error}")),
            };
            line(&mut out, role, name, outcome, &mut raft);
        }
        let own = made(role).role().term.0;
        for (index, body) in (own - 1..=own + 1).flat_map(|term| bodies(term).into_iter().map(move |body| (term, body)))
        {
            let mut raft = made(role);
            let message = Message { term: Term(index), body };
            let event = format!("2->1 {}", show::message(&message));
            let outcome = raft.step(TWO, message).map_err(|error| match error.is_fatal() {
                true => format!("fatal: {error}"),
                false => format!("dropped: {error}"),
            });
            line(&mut out, role, &event, outcome, &mut raft);
        }
    }
    out
}

#[test]
fn every_event_asks_for_exactly_this() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/events.txt");
    let now = all();
    if std::env::var("RINGSTONE_TRANSCRIPTS").is_ok_and(|what| what == "write") {
        std::fs::write(&file, &now).expect("writable");
    }
    let before = std::fs::read_to_string(&file).expect("readable");
    for (before, now) in before.lines().zip(now.lines()) {
        assert_eq!(before, now);
    }
    assert_eq!(before.lines().count(), now.lines().count());
}
