//! One member of a group, message by message: what it promises and when, and how it replicates.

#[path = "support/member.rs"]
mod member;

use bytes::Bytes;
use member::{
    FOUR, ME, THREE, TWO, accept, append, bodies, committed, configuration, configuration_entry, elect, entry, image,
    member, settle, step,
};
use ringstone_raft::{
    Body, Config, Configuration, Entry, EntryKind, HardState, Index, Message, NodeId, ProposeError, Raft, RaftError,
    Snapshot, SnapshotMetadata, Stable, Term,
};

// ---- what is promised, and when ----

#[test]
fn a_grant_leaves_after_its_sync_and_a_refusal_at_once() {
    let mut raft = member(&[1, 2, 3], 1, &[1]);
    let request = |last| Body::VoteRequest { last_index: Index(last), last_term: Term(1), forced: false };
    step(&mut raft, TWO, 2, request(1));
    let actions = raft.take_actions();
    assert!(actions.send_now.is_empty(), "the vote is not on disk");
    let persist = actions.persist.expect("term and vote");
    assert_eq!(persist.hard_state, Some(HardState { term: Term(2), vote: Some(TWO) }));

    step(&mut raft, THREE, 2, request(1));
    let refusal = raft.take_actions();
    assert_eq!(bodies(&refusal.send_now, THREE), [&Body::VoteResponse { granted: false }]);
    // Asked again, with nothing new to write: still not before the first sync.
    step(&mut raft, TWO, 2, request(1));
    assert!(raft.take_actions().is_empty());
    let sent = raft.persisted(persist.token).send;
    assert_eq!(bodies(&sent, TWO), [&Body::VoteResponse { granted: true }], "once is enough");
    // And with all on disk at once.
    step(&mut raft, TWO, 2, request(1));
    assert_eq!(bodies(&raft.take_actions().send_now, TWO), [&Body::VoteResponse { granted: true }]);
}

#[test]
fn an_acknowledgement_leaves_after_its_sync() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    step(&mut raft, TWO, 1, append((0, 0), 1, vec![entry(1, 1), entry(2, 1)]));
    let actions = raft.take_actions();
    assert!(actions.send_now.is_empty() && actions.committed.is_empty(), "not on disk");
    let persist = actions.persist.expect("two entries");
    let sent = raft.persisted(persist.token).send;
    assert_eq!(bodies(&sent, TWO), [&Body::AppendAccepted { matched: Index(2) }]);
    assert_eq!(raft.take_actions().committed, [entry(1, 1)]);
}

/// What waits for a disk that stands still does not grow with what comes in: the last acknowledgement says all.
#[test]
fn acknowledgements_that_wait_for_one_sync_are_one() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    step(&mut raft, TWO, 1, append((0, 0), 0, vec![entry(1, 1)]));
    step(&mut raft, TWO, 1, append((1, 1), 0, vec![entry(2, 1)]));
    let first = raft.take_actions().persist.expect("two entries");
    for _ in 0..100 {
        step(&mut raft, TWO, 1, append((1, 1), 0, vec![]));
        assert!(raft.take_actions().is_empty());
    }
    step(&mut raft, TWO, 1, append((2, 1), 0, vec![entry(3, 1)]));
    let second = raft.take_actions().persist.expect("one more");
    for (token, matched) in [(first.token, 2), (second.token, 3)] {
        let sent = raft.persisted(token).send;
        assert_eq!(bodies(&sent, TWO), [&Body::AppendAccepted { matched: Index(matched) }]);
    }
}

#[test]
fn vote_requests_leave_after_the_sync_of_vote_and_log() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    step(&mut raft, TWO, 1, append((0, 0), 0, vec![entry(1, 1)]));
    let log = raft.take_actions().persist.expect("an entry");
    raft.campaign();
    step(&mut raft, THREE, 2, Body::PreVoteResponse { granted: true });
    let actions = raft.take_actions();
    assert!(actions.send_now.iter().all(|(_, message)| !matches!(message.body, Body::VoteRequest { .. })));
    let _ = raft.persisted(log.token);
    let sent = raft.persisted(actions.persist.expect("vote").token).send;
    let request = Body::VoteRequest { last_index: Index(1), last_term: Term(1), forced: false };
    assert_eq!(bodies(&sent, TWO), [&request]);
}

#[test]
fn the_leader_sends_while_its_own_disk_writes() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    let _ = settle(&mut raft);
    accept(&mut raft, TWO, 1);
    let _ = settle(&mut raft);
    raft.propose([Bytes::from_static(b"a")]).expect("leads");
    let actions = raft.take_actions();
    assert!(actions.persist.is_some());
    assert!(matches!(bodies(&actions.send_now, TWO)[..], [Body::Append { entries, .. }] if entries.len() == 1));
}

// ---- replication ----

#[test]
fn a_conflict_is_found_in_one_round_trip_a_term() {
    // Follower: terms 1 1 1 2 2 2 2; leader: 1 1 1 3 3 3 and its own first entry of term 4.
    let mut follower = member(&[1, 2, 3], 3, &[1, 1, 1, 2, 2, 2, 2]);
    step(&mut follower, TWO, 4, append((6, 3), 0, vec![entry(7, 4)]));
    let rejection = Body::AppendRejected { rejected: Index(6), hint_index: Index(6), hint_term: Term(2) };
    assert!(bodies(&follower.take_actions().send_now, TWO).contains(&&rejection));

    let mut leader = member(&[1, 2, 3], 3, &[1, 1, 1, 3, 3, 3]);
    elect(&mut leader);
    let _ = settle(&mut leader);
    step(&mut leader, TWO, 4, rejection);
    let actions = leader.take_actions();
    let Body::Append { previous_index, entries, .. } = bodies(&actions.send_now, TWO)[0] else { panic!("an append") };
    assert_eq!((*previous_index, entries.len()), (Index(3), 4), "past all of term 2 at once");

    step(&mut follower, TWO, 4, append((3, 1), 0, entries.clone()));
    let persist = follower.take_actions().persist.expect("four entries");
    assert_eq!((persist.truncate_from, persist.entries.len()), (Some(Index(4)), 4));
}

#[test]
fn appends_stop_at_the_window_and_go_on_with_acknowledgements() {
    let mut config = Config::new(ME, 1);
    config.appends_in_flight_max = 2;
    config.append_bytes_max = 1;
    let snapshot = SnapshotMetadata { configuration: configuration(&[1, 2]), ..Default::default() };
    let mut raft = Raft::new(config, Stable { snapshot, ..Default::default() }).expect("valid");
    elect(&mut raft);
    let _ = settle(&mut raft);
    accept(&mut raft, TWO, 1);
    let _ = settle(&mut raft);
    raft.propose((0..5).map(|_| Bytes::from_static(b"x"))).expect("leads");
    let appended = |raft: &mut Raft| {
        let (actions, _) = settle(raft);
        let sent = actions.into_iter().flat_map(|actions| actions.send_now);
        let last_of = |(_, message): (NodeId, Message)| match message.body {
            Body::Append { entries, .. } => entries.last().map(|entry| entry.index.0),
            _ => None,
        };
        sent.filter_map(last_of).collect::<Vec<_>>()
    };
    assert_eq!(appended(&mut raft), [2, 3]);
    assert_eq!(appended(&mut raft), [0u64; 0]);
    accept(&mut raft, TWO, 2);
    assert_eq!(appended(&mut raft), [4]);
    accept(&mut raft, TWO, 4);
    assert_eq!(appended(&mut raft), [5, 6]);
}

#[test]
fn a_member_behind_the_compacted_log_gets_an_image_once_it_is_heard_from() {
    let mut raft = member(&[1, 2, 3], 1, &[1, 1]);
    elect(&mut raft);
    let _ = settle(&mut raft);
    accept(&mut raft, TWO, 3);
    let _ = settle(&mut raft);
    raft.applied(Index(3));
    raft.compact(Index(3));
    let reject = Body::AppendRejected { rejected: Index(2), hint_index: Index(0), hint_term: Term(0) };
    step(&mut raft, THREE, 2, reject);
    assert_eq!(raft.take_actions().snapshots_wanted, [THREE]);
    assert!(raft.take_actions().is_empty(), "asked once");
    raft.send_snapshot(THREE, image(3, 2, &[1, 2, 3]));
    assert!(matches!(bodies(&raft.take_actions().send_now, THREE)[..], [Body::Snapshot(_)]));
    raft.report_snapshot_failed(THREE);
    assert!(raft.take_actions().is_empty(), "waits for a sign of life");
    step(&mut raft, THREE, 2, Body::HeartbeatResponse { round: 0, kinds_known: 0 });
    assert_eq!(raft.take_actions().snapshots_wanted, [THREE]);
    raft.send_snapshot(THREE, image(3, 2, &[1, 2, 3]));
    let _ = raft.take_actions();
    accept(&mut raft, THREE, 3);
    raft.propose([Bytes::from_static(b"a")]).expect("leads");
    let actions = raft.take_actions();
    assert!(matches!(bodies(&actions.send_now, THREE)[..], [Body::Append { entries, .. }] if entries.len() == 1));
}

/// A member that lost its log had acknowledged entries that this leader has not committed yet. Counted all the same, they
/// would be agreed on by two members of which one has nothing of them.
#[test]
fn what_a_member_acknowledged_before_it_lost_its_log_counts_no_longer() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    let _ = settle(&mut raft);
    accept(&mut raft, THREE, 1);
    assert_eq!(committed(&raft), 1);
    raft.propose([Bytes::from_static(b"a")]).expect("leads");
    let persist = raft.take_actions().persist.expect("an entry");
    accept(&mut raft, TWO, 2);
    assert_eq!(committed(&raft), 1, "the leader's own disk has not got it yet");
    assert!(!raft.forget(FOUR), "no member");
    assert!(raft.forget(TWO));
    // One that was on its way when its sender ended.
    accept(&mut raft, TWO, 2);
    let _ = raft.persisted(persist.token);
    let _ = raft.take_actions();
    assert_eq!(committed(&raft), 1, "one member has it for certain");
    accept(&mut raft, TWO, 2);
    assert_eq!(committed(&raft), 1);
    // It has been given a state, and its log goes on behind it.
    raft.trust(TWO);
    step(&mut raft, TWO, 2, Body::HeartbeatResponse { round: 0, kinds_known: 0 });
    assert!(!bodies(&raft.take_actions().send_now, TWO).is_empty(), "it is asked where its log ends");
    accept(&mut raft, TWO, 2);
    assert_eq!(committed(&raft), 2);
    // Who does not lead has nothing to forget.
    let mut follower = member(&[1, 2, 3], 1, &[1]);
    assert!(!follower.forget(TWO));
}

#[test]
fn leadership_goes_to_a_voter_that_has_everything() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    let _ = settle(&mut raft);
    assert_eq!(raft.transfer_leadership(FOUR), Err(ProposeError::NotVoter(FOUR)));
    raft.transfer_leadership(TWO).expect("a voter");
    assert_eq!(raft.propose([Bytes::from_static(b"a")]), Err(ProposeError::Transferring { to: TWO }));
    assert!(!bodies(&raft.take_actions().send_now, TWO).contains(&&Body::TimeoutNow), "it lacks an entry");
    accept(&mut raft, TWO, 1);
    assert!(bodies(&raft.take_actions().send_now, TWO).contains(&&Body::TimeoutNow));
    accept(&mut raft, THREE, 1);
    for _ in 0..10 {
        raft.tick(0);
    }
    raft.propose([Bytes::from_static(b"a")]).expect("given up after an election timeout");
}

#[test]
fn bad_messages_are_refused_and_change_nothing() {
    let mut raft = member(&[1, 2, 3], 1, &[1]);
    let broken_configuration =
        Entry { kind: EntryKind::Configuration, payload: Bytes::from_static(b"\x07"), ..entry(2, 1) };
    let absurd = Body::Heartbeat { committed: Index(u64::MAX), round: 0 };
    let stale_image =
        Snapshot { metadata: SnapshotMetadata { index: Index(5), ..Default::default() }, ..image(5, 1, &[1]) };
    for (term, body, what) in [
        (1, append((1, 1), 0, vec![entry(3, 1)]), "a hole"),
        (1, append((1, 1), 0, vec![entry(2, 9)]), "an entry of a later term than the message"),
        (1, append((1, 1), 0, vec![broken_configuration]), "a configuration that does not decode"),
        (1, append((u64::MAX, 1), 0, vec![entry(0, 1)]), "an index that overflows"),
        (u64::MAX, Body::TimeoutNow, "a term that overflows"),
        (1, absurd, "an absurd commit"),
        (1, Body::Snapshot(stale_image), "an image without members"),
    ] {
        let outcome = raft.step(TWO, Message { term: Term(term), body });
        assert!(matches!(outcome, Err(RaftError::Malformed { from: TWO, .. })), "{what}: {outcome:?}");
        assert!(raft.take_actions().is_empty(), "{what}");
    }
    let own = raft.step(ME, Message { term: Term(1), body: Body::TimeoutNow });
    assert!(own.is_err_and(|error| !error.is_fatal()));
}

#[test]
fn a_second_leader_in_the_own_term_is_fatal() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    let outcome = raft.step(TWO, Message { term: Term(2), body: Body::Heartbeat { committed: Index(0), round: 0 } });
    assert_eq!(outcome, Err(RaftError::TwoLeaders { from: TWO, term: Term(2) }));
}

#[test]
fn a_learner_gets_the_log_and_counts_for_nothing() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    let _ = settle(&mut raft);
    accept(&mut raft, TWO, 1);
    let with_learner = Configuration::new([ME, TWO, THREE], [FOUR]).expect("valid");
    raft.propose_configuration(&with_learner, b"").expect("settled");
    let (actions, _) = settle(&mut raft);
    assert!(!bodies(&actions[0].send_now, FOUR).is_empty());
    accept(&mut raft, FOUR, 2);
    assert_eq!(committed(&raft), 1);
    accept(&mut raft, THREE, 2);
    assert_eq!(committed(&raft), 2);
}

/// A question is its asker's word that it follows: with the leader's own that is a quorum of three, and none of five. A
/// learner's word counts for nothing.
#[test]
fn a_question_confirms_the_leader_where_its_asker_completes_a_quorum() {
    let answers_at_once = |raft: &mut Raft, asker: NodeId| {
        let _ = settle(raft);
        step(raft, asker, 2, Body::ReadRequest { incarnation: 5, context: 9 });
        let (actions, _) = settle(raft);
        let said = bodies(&actions[0].send_now, asker);
        said.contains(&&Body::ReadResponse { incarnation: 5, context: 9, index: Index(committed(raft)) })
    };
    let mut of_three = member(&[1, 2, 3], 1, &[]);
    elect(&mut of_three);
    let _ = settle(&mut of_three);
    accept(&mut of_three, TWO, 1);
    assert!(answers_at_once(&mut of_three, THREE));
    let with_learner = Configuration::new([ME, TWO, THREE], [FOUR]).expect("valid");
    of_three.propose_configuration(&with_learner, b"").expect("settled");
    assert!(!answers_at_once(&mut of_three, FOUR));

    let mut of_five = member(&[1, 2, 3, 4, 5], 1, &[]);
    elect(&mut of_five);
    let _ = settle(&mut of_five);
    accept(&mut of_five, TWO, 1);
    accept(&mut of_five, THREE, 1);
    assert!(!answers_at_once(&mut of_five, TWO));
}

/// News of a commit say nothing where the entries that they are about are not here, or are others.
#[test]
fn news_of_a_commit_count_for_the_log_that_they_name() {
    let mut raft = member(&[1, 2, 3], 1, &[1, 1]);
    let news = |index, entry_term, committed| Body::Commit {
        index: Index(index),
        entry_term: Term(entry_term),
        committed: Index(committed),
    };
    step(&mut raft, TWO, 2, news(3, 2, 3));
    assert_eq!(committed(&raft), 0, "not here yet");
    step(&mut raft, TWO, 2, news(2, 2, 2));
    assert_eq!(committed(&raft), 0, "another entry");
    step(&mut raft, TWO, 2, news(2, 1, 9));
    assert_eq!(committed(&raft), 2, "no further than what is the same");
    assert!(settle(&mut raft).0.iter().all(|actions| actions.send_now.is_empty()), "nothing is answered");
}

#[test]
fn a_new_leader_changes_no_members_before_a_commit_of_its_own_term() {
    // Found in single-server changes of the Raft thesis in 2015: without this, two leaders' changes may not overlap.
    let mut raft = member(&[1, 2, 3], 1, &[1]);
    elect(&mut raft);
    let target = configuration(&[1, 2, 3, 4]);
    assert_eq!(raft.propose_configuration(&target, b""), Err(ProposeError::ConfigurationPending));
    let _ = settle(&mut raft);
    accept(&mut raft, TWO, 2);
    assert_eq!(raft.propose_configuration(&target, b""), Ok(Index(3)));
}

#[test]
fn a_configuration_goes_away_with_its_entry() {
    let mut raft = member(&[1, 2, 3], 1, &[1]);
    let larger = configuration(&[1, 2, 3, 4]);
    step(&mut raft, TWO, 1, append((1, 1), 0, vec![configuration_entry(2, 1, &larger)]));
    assert_eq!(raft.configuration(), &larger);
    step(&mut raft, THREE, 2, append((1, 1), 0, vec![entry(2, 2)]));
    assert_eq!(raft.configuration(), &configuration(&[1, 2, 3]));
}

/// A follower's log may go on behind what an append has compared: there it may be of another history.
#[test]
fn a_follower_commits_only_what_was_compared() {
    let mut raft = member(&[1, 2, 3], 2, &[1, 1, 2]);
    step(&mut raft, TWO, 3, append((1, 1), 3, vec![entry(2, 1)]));
    assert_eq!(committed(&raft), 2);
    step(&mut raft, TWO, 3, append((1, 1), 3, vec![]));
    assert_eq!(committed(&raft), 2);
}

#[test]
fn a_lost_append_is_noticed_without_a_new_proposal() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    let _ = settle(&mut raft);
    accept(&mut raft, TWO, 1);
    let _ = settle(&mut raft);
    raft.propose([Bytes::from_static(b"a")]).expect("leads");
    let _lost = settle(&mut raft);
    assert!(raft.take_actions().is_empty());
    step(&mut raft, TWO, 2, Body::HeartbeatResponse { round: 0, kinds_known: 0 });
    let actions = raft.take_actions();
    let probe = append((2, 2), 1, vec![]);
    assert_eq!(bodies(&actions.send_now, TWO), [&probe]);
    let rejection = Body::AppendRejected { rejected: Index(2), hint_index: Index(1), hint_term: Term(2) };
    step(&mut raft, TWO, 2, rejection);
    let actions = raft.take_actions();
    assert!(matches!(bodies(&actions.send_now, TWO)[..], [Body::Append { entries, .. }] if entries.len() == 1));
}

#[test]
fn a_lost_connection_is_noticed_at_once() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    let _ = settle(&mut raft);
    accept(&mut raft, TWO, 1);
    raft.propose([Bytes::from_static(b"a")]).expect("leads");
    let _lost = settle(&mut raft);
    raft.report_unreachable(TWO);
    let actions = raft.take_actions();
    assert!(matches!(bodies(&actions.send_now, TWO)[..], [Body::Append { entries, .. }] if entries.len() == 1));
}

#[test]
fn the_log_is_wanted_from_where_the_furthest_behind_is_and_from_an_image_on_its_way() {
    let mut raft = member(&[1, 2, 3], 1, &[1, 1]);
    assert_eq!(raft.wanted_by_others(), None, "it does not lead");
    elect(&mut raft);
    let _ = settle(&mut raft);
    assert_eq!(raft.wanted_by_others(), None, "nobody was heard from");
    accept(&mut raft, TWO, 3);
    assert_eq!(raft.wanted_by_others(), Some(Index(3)));
    let _ = settle(&mut raft);
    raft.applied(Index(3));
    raft.compact(Index(2));
    let reject = |index| Body::AppendRejected { rejected: Index(index), hint_index: Index(0), hint_term: Term(0) };
    step(&mut raft, THREE, 2, reject(2));
    assert_eq!(raft.wanted_by_others(), Some(Index(0)), "all of it, though some is gone");
    assert_eq!(raft.take_actions().snapshots_wanted, [THREE]);
    assert_eq!(raft.wanted_by_others(), Some(Index(3)), "an image is being made of what there is then");
    raft.send_snapshot(THREE, image(2, 1, &[1, 2, 3]));
    assert_eq!(raft.wanted_by_others(), Some(Index(2)), "what is behind the image must be there when it lands");
    assert!(!raft.is_caught_up(THREE) && raft.is_caught_up(TWO));
}

/// The acknowledgement of an image may be lost: its delivery is enough to go on behind it.
#[test]
fn appends_go_on_behind_an_image_that_was_delivered() {
    let mut raft = member(&[1, 2, 3], 1, &[1, 1]);
    elect(&mut raft);
    let _ = settle(&mut raft);
    accept(&mut raft, TWO, 3);
    let _ = settle(&mut raft);
    raft.applied(Index(3));
    raft.compact(Index(3));
    step(&mut raft, THREE, 2, Body::AppendRejected { rejected: Index(2), hint_index: Index(0), hint_term: Term(0) });
    assert_eq!(raft.take_actions().snapshots_wanted, [THREE]);
    raft.send_snapshot(THREE, image(3, 2, &[1, 2, 3]));
    let _ = raft.take_actions();
    raft.report_snapshot_delivered(THREE);
    assert_eq!(bodies(&raft.take_actions().send_now, THREE), [&append((3, 2), 3, vec![])]);
}

#[test]
fn a_vote_goes_to_a_log_that_is_at_least_as_long() {
    // (last index, last term) of the candidate, against two entries of terms 1 and 2.
    for (last_index, last_term, is_granted) in [(2, 2, true), (3, 2, true), (1, 3, true), (1, 2, false), (9, 1, false)]
    {
        let mut raft = member(&[1, 2, 3], 3, &[1, 2]);
        let (last_index, last_term) = (Index(last_index), Term(last_term));
        step(&mut raft, TWO, 4, Body::PreVoteRequest { last_index, last_term });
        let (actions, _) = settle(&mut raft);
        assert_eq!(bodies(&actions[0].send_now, TWO), [&Body::PreVoteResponse { granted: is_granted }]);
        step(&mut raft, TWO, 4, Body::VoteRequest { last_index, last_term, forced: false });
        let (mut actions, after_sync) = settle(&mut raft);
        let sent = if is_granted { after_sync } else { actions.remove(0).send_now };
        assert_eq!(bodies(&sent, TWO), [&Body::VoteResponse { granted: is_granted }], "{last_index} {last_term}");
    }
}
