//! A group of one voter, input by input: what is asked for, and what must wait for the disk.

use bytes::Bytes;
use ringstone_raft::{
    Body, Config, Configuration, EntryKind, HardState, Index, Message, NodeId, ProposeError, Raft, ReadState, Role,
    SnapshotMetadata, Stable, Term,
};

const ME: NodeId = NodeId(1);

fn new_group() -> Stable {
    let configuration = Configuration::new([ME], []).expect("one voter");
    Stable { snapshot: SnapshotMetadata { configuration, ..Default::default() }, ..Default::default() }
}

fn leader() -> Raft {
    let mut raft = Raft::new(Config::new(ME, 1), new_group()).expect("valid");
    raft.campaign();
    for _ in 0..2 {
        let persist = raft.take_actions().persist.expect("term, then the first entry");
        assert!(raft.persisted(persist.token).send.is_empty());
    }
    let committed = raft.take_actions().committed;
    assert_eq!(committed.len(), 1);
    raft.applied(Index(1));
    raft
}

#[test]
fn the_new_term_is_on_disk_before_it_leads_and_each_entry_before_it_is_committed() {
    let mut raft = Raft::new(Config::new(ME, 1), new_group()).expect("valid");
    assert!(raft.take_actions().is_empty());
    raft.campaign();

    let actions = raft.take_actions();
    let persist = actions.persist.expect("its own vote");
    assert_eq!(persist.hard_state, Some(HardState { term: Term(1), vote: Some(ME) }));
    assert_eq!(actions.became.expect("news").role, Role::Candidate);
    assert_eq!(raft.propose([Bytes::from_static(b"early")]), Err(ProposeError::NotLeader { leader: None }));

    let _ = raft.persisted(persist.token);
    let actions = raft.take_actions();
    assert_eq!(actions.became.expect("news").role, Role::Leader);
    let persist = actions.persist.expect("the first entry of the term");
    assert_eq!((persist.hard_state, persist.entries.len()), (None, 1));
    let (configuration, context) = Configuration::decode(&persist.entries[0].payload).expect("the founders");
    assert_eq!((configuration.voters(), context.len()), (&[ME][..], 0));

    let _ = raft.persisted(persist.token);
    let actions = raft.take_actions();
    assert_eq!(actions.committed.iter().map(|entry| entry.index).collect::<Vec<_>>(), [Index(1)]);
    assert!(raft.take_actions().is_empty());
}

/// Row 5 (etcd#14370): a single member answered a write before its own WAL sync, and a crash lost it.
#[test]
fn a_sole_voter_commits_only_what_its_own_disk_has() {
    let mut raft = leader();
    assert_eq!(raft.propose([Bytes::from_static(b"a"), Bytes::from_static(b"b")]), Ok(Index(2)));
    let first = raft.take_actions();
    assert!(first.committed.is_empty(), "not synced");
    assert_eq!(raft.propose([Bytes::from_static(b"c")]), Ok(Index(4)));
    let second = raft.take_actions();
    assert!(second.committed.is_empty(), "not synced");

    let _ = raft.persisted(first.persist.expect("a and b").token);
    let payloads: Vec<Bytes> = raft.take_actions().committed.into_iter().map(|entry| entry.payload).collect();
    assert_eq!(payloads, ["a", "b"], "c is still on its way");
    let _ = raft.persisted(second.persist.expect("c").token);
    assert_eq!(raft.take_actions().committed[0].payload, "c");
}

/// As etcd's users do it: the second member is added, then started. The change itself needs no more than the first one's disk;
/// what comes behind it needs both.
#[test]
fn a_second_voter_is_added_before_it_has_begun() {
    let other = NodeId(2);
    let mut raft = leader();
    raft.propose([Bytes::from_static(b"before")]).expect("leads");
    let two = Configuration::new([ME, other], []).expect("two voters");
    assert_eq!(raft.propose_configuration(&two, b""), Ok(Index(3)));
    raft.propose([Bytes::from_static(b"behind")]).expect("leads");
    let actions = raft.take_actions();
    assert!(actions.committed.is_empty(), "not synced");
    let _ = raft.persisted(actions.persist.expect("three entries").token);
    let committed: Vec<Index> = raft.take_actions().committed.into_iter().map(|entry| entry.index).collect();
    assert_eq!(committed, [Index(2), Index(3)]);
    raft.applied(Index(3));
    let accepted = Message { term: Term(1), body: Body::AppendAccepted { matched: Index(4) } };
    raft.step(other, accepted).expect("of a member");
    assert_eq!(raft.take_actions().committed[0].index, Index(4));

    // A third one: two of three, as ever.
    let three = Configuration::new([ME, other, NodeId(3)], []).expect("three voters");
    raft.applied(Index(4));
    assert_eq!(raft.propose_configuration(&three, b""), Ok(Index(5)));
    let persist = raft.take_actions().persist.expect("the change");
    let _ = raft.persisted(persist.token);
    assert!(raft.take_actions().committed.is_empty(), "one of three");
}

#[test]
#[should_panic(expected = "in their order")]
fn batches_are_acknowledged_in_their_order() {
    let mut raft = leader();
    raft.propose([Bytes::from_static(b"a")]).expect("leads");
    let _first = raft.take_actions();
    raft.propose([Bytes::from_static(b"b")]).expect("leads");
    let second = raft.take_actions().persist.expect("b");
    let _ = raft.persisted(second.token);
}

#[test]
fn a_read_is_answered_at_once_but_not_before_the_first_commit_of_the_term() {
    let mut raft = Raft::new(Config::new(ME, 1), new_group()).expect("valid");
    assert_eq!(raft.read_index(1), Err(ProposeError::NotLeader { leader: None }));
    raft.campaign();
    let vote = raft.take_actions().persist.expect("vote");
    let _ = raft.persisted(vote.token);
    raft.read_index(2).expect("leads");
    let actions = raft.take_actions();
    assert!(actions.reads.is_empty(), "nothing of this term is committed");
    let _ = raft.persisted(actions.persist.expect("first entry").token);
    assert_eq!(raft.take_actions().reads, [ReadState { context: 2, index: Index(1) }]);
    raft.read_index(3).expect("leads");
    assert_eq!(raft.take_actions().reads, [ReadState { context: 3, index: Index(1) }]);
    assert_eq!(raft.read_index(3), Err(ProposeError::ContextReused(3)));
}

#[test]
fn a_restart_hands_out_what_the_state_has_not_applied() {
    let mut raft = leader();
    raft.propose([Bytes::from_static(b"a"), Bytes::from_static(b"b")]).expect("leads");
    let persist = raft.take_actions().persist.expect("a and b");
    let entries = persist.entries.clone();
    let _ = raft.persisted(persist.token);
    let snapshot = raft.metadata_at(Index(1)).expect("in the log");

    let hard_state = HardState { term: Term(1), vote: Some(ME) };
    let stable = Stable { hard_state, snapshot, entries, applied: Index(2) };
    let mut raft = Raft::new(Config::new(ME, 2), stable).expect("valid");
    raft.campaign();
    for _ in 0..2 {
        let actions = raft.take_actions();
        assert!(actions.committed.is_empty());
        let _ = raft.persisted(actions.persist.expect("term, then the first entry").token);
    }
    let committed = raft.take_actions().committed;
    assert_eq!(committed.iter().map(|entry| (entry.index.0, entry.term.0)).collect::<Vec<_>>(), [(3, 1), (4, 2)]);
}

#[test]
fn bad_batches_change_nothing() {
    let mut raft = leader();
    assert_eq!(raft.propose([]), Err(ProposeError::Empty));
    assert_eq!(raft.propose([Bytes::from_static(b"a"), Bytes::new()]), Err(ProposeError::Empty));
    assert!(raft.take_actions().is_empty());
    assert_eq!(raft.propose([Bytes::from_static(b"a")]), Ok(Index(2)));
}

#[test]
fn limits_hold_back_proposals_and_hand_out() {
    let mut config = Config::new(ME, 1);
    config.uncommitted_bytes_max = 100;
    config.unapplied_bytes_max = 100;
    let mut raft = Raft::new(config, new_group()).expect("valid");
    raft.campaign();
    for _ in 0..2 {
        let persist = raft.take_actions().persist.expect("term, then the first entry");
        let _ = raft.persisted(persist.token);
    }
    let payload = Bytes::from(vec![7; 90]);
    raft.propose([payload.clone(), payload.clone(), payload.clone()]).expect("below the limit when it began");
    assert_eq!(raft.propose([payload.clone()]), Err(ProposeError::Busy));
    let persist = raft.take_actions().persist.expect("three");
    let _ = raft.persisted(persist.token);
    raft.propose([payload]).expect("committed");
    assert_eq!(raft.take_actions().committed.len(), 1, "the second entry: 32 + 122 bytes wait");
    assert_eq!(raft.take_actions().committed.len(), 0);
    raft.applied(Index(2));
    assert_eq!(raft.take_actions().committed.len(), 1);
}

#[test]
fn compaction_keeps_the_configuration_and_the_term() {
    let mut raft = leader();
    let configuration = Configuration::new([ME], [NodeId(2)]).expect("valid");
    let index = raft.propose_configuration(&configuration, b"url").expect("settled");
    raft.propose([Bytes::from_static(b"a")]).expect("leads");
    let persist = raft.take_actions().persist.expect("two entries");
    assert_eq!(persist.entries[0].kind, EntryKind::Configuration);
    assert_eq!(Configuration::decode(&persist.entries[0].payload).expect("ours").1, "url");
    let _ = raft.persisted(persist.token);
    assert_eq!(raft.take_actions().committed.len(), 2);
    raft.applied(Index(3));
    assert_eq!(raft.metadata_at(Index(1)).expect("in the log").configuration.learners(), []);
    raft.compact(Index(3));
    assert_eq!(raft.metadata_at(index), None, "compacted");
    let expected = SnapshotMetadata { index: Index(3), term: Term(1), configuration };
    assert_eq!(raft.metadata_at(Index(3)), Some(expected));
}

#[test]
fn stored_state_that_does_not_fit_is_refused() {
    let entry = |index, term| ringstone_raft::Entry {
        term: Term(term),
        index: Index(index),
        kind: EntryKind::Normal,
        payload: Bytes::from_static(b"x"),
    };
    let hard_state = HardState { term: Term(2), vote: None };
    for (entries, applied, what) in [
        (vec![entry(1, 1), entry(3, 1)], 0, "hole"),
        (vec![entry(1, 2), entry(2, 1)], 0, "terms fall"),
        (vec![entry(1, 3)], 0, "term was lost"),
        (vec![entry(1, 1)], 2, "applied more than there is"),
    ] {
        let stable = Stable { hard_state, entries, applied: Index(applied), ..new_group() };
        assert!(Raft::new(Config::new(ME, 1), stable).is_err(), "{what}");
    }
}

/// With a disk slower than the election timeout each timeout began a new term, and no vote was ever in time.
#[test]
fn a_slow_disk_does_not_restart_the_election() {
    let mut raft = Raft::new(Config::new(ME, 1), new_group()).expect("valid");
    raft.campaign();
    let persist = raft.take_actions().persist.expect("its vote");
    (0..100).for_each(|random| raft.tick(random));
    raft.campaign();
    assert!(raft.take_actions().is_empty());
    let _ = raft.persisted(persist.token);
    assert_eq!((raft.role().role, raft.role().term), (Role::Leader, Term(1)));
}

#[test]
fn a_leader_that_resigns_refuses_at_once() {
    let mut raft = leader();
    raft.resign();
    assert_eq!(raft.propose([Bytes::from_static(b"a")]), Err(ProposeError::NotLeader { leader: None }));
    assert_eq!(raft.take_actions().became.expect("news").role, Role::Follower);
}
