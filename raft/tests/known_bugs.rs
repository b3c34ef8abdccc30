//! Bugs that other implementations had, each with its story, message by message. The row numbers are those of the
//! project's table of such bugs.

#[path = "support/member.rs"]
mod member;

use bytes::Bytes;
use member::{
    FOUR, ME, THREE, TWO, accept, append, bodies, committed, configuration, configuration_entry, elect, entry, image,
    member, member_with, settle, step,
};
use ringstone_raft::{Body, Configuration, Index, Message, NodeId, ProposeError, RaftError, ReadState, Role, Term};

/// Row 1 (LogCabin#44, Raft's figure 8): an entry of an earlier term on a majority of disks was committed by counting, and
/// then overwritten by a leader that never had it.
#[test]
fn an_entry_of_an_earlier_term_commits_only_under_one_of_this_term() {
    let mut raft = member(&[1, 2, 3, 4, 5], 2, &[1, 2]);
    elect(&mut raft);
    let _ = settle(&mut raft);
    for id in [TWO, THREE, FOUR] {
        accept(&mut raft, id, 2);
        assert_eq!(committed(&raft), 0, "all that is on a majority is of earlier terms");
    }
    accept(&mut raft, TWO, 3);
    assert_eq!(committed(&raft), 0);
    accept(&mut raft, THREE, 3);
    assert_eq!(committed(&raft), 3);
}

/// Row 2 (etcd#12133, raft-rs#221): a member that was removed by an entry that it had not yet applied campaigned, by its
/// own timeout or because the leader handed over to it, and counted by the old configuration: two leaders in a term.
#[test]
fn a_removed_member_does_not_campaign_whatever_it_has_applied() {
    let entries = vec![configuration_entry(1, 1, &configuration(&[1, 2, 3])), entry(2, 1)];
    let mut raft = member_with(&[1, 2, 3], 1, entries);
    let removal = configuration_entry(3, 1, &configuration(&[2, 3]));
    step(&mut raft, TWO, 1, append((2, 1), 3, vec![removal]));
    let persist = raft.take_actions().persist.expect("the removal");
    let _ = raft.persisted(persist.token);
    assert_eq!(raft.positions().applied.0, Index(0), "nothing is applied");
    step(&mut raft, TWO, 1, Body::TimeoutNow);
    (0..100).for_each(|random| raft.tick(random));
    raft.campaign();
    assert_eq!(raft.role().role, Role::Follower);
    assert_eq!(raft.role().term, Term(1));
    assert!(raft.take_actions().send_now.iter().all(|(to, _)| *to == TWO), "no requests, only an answer to the leader");
}

/// Row 2, its other half: members were counted by the configuration before one that was not yet applied. Also the reason
/// why a removed member may campaign until its removal is committed: here it is the only one that has the entry.
#[test]
fn votes_are_counted_by_the_latest_configuration_in_the_log() {
    let demotion = Configuration::new([TWO], [ME]).expect("valid");
    let mut raft = member_with(&[1, 2], 1, vec![configuration_entry(1, 1, &demotion)]);
    raft.campaign();
    assert_eq!(raft.role().role, Role::PreCandidate, "not committed as far as known");
    step(&mut raft, TWO, 2, Body::PreVoteResponse { granted: true });
    let persist = raft.take_actions().persist.expect("its vote");
    let _ = raft.persisted(persist.token);
    assert_eq!(raft.role().role, Role::Candidate, "its own vote does not count any more");
    step(&mut raft, TWO, 2, Body::VoteResponse { granted: true });
    assert_eq!(raft.role().role, Role::Leader);
    let _ = settle(&mut raft);
    assert_eq!(committed(&raft), 0, "nor does its own disk");
    accept(&mut raft, TWO, 2);
    assert_eq!(committed(&raft), 2);
    let (actions, _) = settle(&mut raft);
    assert!(bodies(&actions[0].send_now, TWO).contains(&&Body::TimeoutNow), "hands over");
    assert_eq!(raft.role().role, Role::Follower);
}

/// Row 2 again: where a change adds a voter, the older configuration alone elects nobody.
#[test]
fn a_voter_that_is_added_is_asked_from_its_entry_on() {
    let mut raft = member_with(&[1], 1, vec![configuration_entry(1, 1, &configuration(&[1, 2]))]);
    raft.campaign();
    assert!(raft.take_actions().persist.is_none(), "not committed as far as known, but in the log");
    assert_eq!(raft.role().role, Role::PreCandidate);
    step(&mut raft, TWO, 2, Body::PreVoteResponse { granted: true });
    let _ = settle(&mut raft);
    assert_eq!(raft.role().role, Role::Candidate);
    step(&mut raft, TWO, 2, Body::VoteResponse { granted: true });
    assert_eq!(raft.role().role, Role::Leader);
}

/// Row 3 (etcd#7331): a new leader answered a read by its commit, which was behind what the last leader had acknowledged.
#[test]
fn a_new_leader_answers_reads_only_after_a_commit_of_its_own_term() {
    let mut raft = member(&[1, 2, 3], 1, &[1]);
    elect(&mut raft);
    raft.read_index(1).expect("leads");
    step(&mut raft, TWO, 2, Body::ReadRequest { incarnation: 5, context: 9 });
    let _ = settle(&mut raft);
    for round in 0..3 {
        step(&mut raft, TWO, 2, Body::HeartbeatResponse { round, kinds_known: 0 });
    }
    let (actions, _) = settle(&mut raft);
    assert!(actions.iter().all(|actions| actions.reads.is_empty()), "a quorum hears it, but nothing is committed");
    accept(&mut raft, TWO, 2);
    let (actions, _) = settle(&mut raft);
    assert!(actions.iter().all(|actions| actions.reads.is_empty()), "committed, but the round has only begun");
    step(&mut raft, TWO, 2, Body::HeartbeatResponse { round: 1, kinds_known: 0 });
    let actions = raft.take_actions();
    assert_eq!(actions.reads, [ReadState { context: 1, index: Index(2) }]);
    let answer = Body::ReadResponse { incarnation: 5, context: 9, index: Index(2) };
    assert_eq!(bodies(&actions.send_now, TWO), [&answer]);
}

/// Row 4 (etcd#20418): a retry reused the id of the first request, and a late answer to the first one, from a leader that
/// had been replaced, was taken for the answer to the second: a stale read.
#[test]
fn a_late_answer_is_never_taken_for_one_to_a_later_question() {
    let mut raft = member(&[1, 2, 3], 1, &[1]);
    step(&mut raft, TWO, 1, Body::Heartbeat { committed: Index(1), round: 0 });
    raft.read_index(7).expect("knows a leader");
    let request = Body::ReadRequest { incarnation: 77, context: 7 };
    assert!(bodies(&raft.take_actions().send_now, TWO).contains(&&request));

    // The leader changes: the read is given up, and its context is gone for ever.
    step(&mut raft, THREE, 2, Body::Heartbeat { committed: Index(1), round: 0 });
    assert_eq!(raft.take_actions().reads_aborted, [7]);
    assert_eq!(raft.read_index(7), Err(ProposeError::ContextReused(7)));
    raft.read_index(8).expect("a new context");
    for (incarnation, context) in [(77, 7), (76, 8)] {
        let late = Body::ReadResponse { incarnation, context, index: Index(1) };
        step(&mut raft, THREE, 2, late);
    }
    assert!(raft.take_actions().reads.is_empty(), "an answer to the first try, and one to the process before this");
    step(&mut raft, THREE, 2, Body::ReadResponse { incarnation: 77, context: 8, index: Index(1) });
    assert_eq!(raft.take_actions().reads, [ReadState { context: 8, index: Index(1) }]);
}

/// Row 4 on the leader: a confirmation proves leadership only for reads that came in before its round went out, and only
/// in its own term.
#[test]
fn a_confirmation_counts_for_its_round_and_term_only() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    let _ = settle(&mut raft);
    accept(&mut raft, TWO, 1);
    raft.read_index(1).expect("leads");
    let _ = settle(&mut raft);
    raft.read_index(2).expect("leads");
    let _ = settle(&mut raft);
    step(&mut raft, TWO, 2, Body::HeartbeatResponse { round: 1, kinds_known: 0 });
    assert_eq!(raft.take_actions().reads, [ReadState { context: 1, index: Index(1) }], "2 is of round 2");
    raft.read_index(3).expect("leads");

    step(&mut raft, THREE, 3, Body::VoteRequest { last_index: Index(9), last_term: Term(2), forced: true });
    let (actions, _) = settle(&mut raft);
    assert_eq!(actions[0].reads_aborted, [3, 2]);
    elect(&mut raft);
    let _ = settle(&mut raft);
    accept(&mut raft, TWO, 2);
    raft.read_index(4).expect("leads");
    let _ = settle(&mut raft);
    // Term 2's round 2 arrives now.
    step(&mut raft, TWO, 2, Body::HeartbeatResponse { round: 2, kinds_known: 0 });
    assert!(raft.take_actions().reads.is_empty());
}

/// Row 5 (etcd#14370) with more than one member: the leader counted itself before its own sync.
#[test]
fn the_leader_counts_itself_only_after_its_own_sync() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    let persist = raft.take_actions().persist.expect("the first entry");
    accept(&mut raft, TWO, 1);
    assert_eq!(committed(&raft), 0, "one disk of three");
    let _ = raft.persisted(persist.token);
    assert_eq!(committed(&raft), 1);
}

#[test]
fn a_majority_of_followers_commits_but_apply_waits_for_the_own_disk() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    let persist = raft.take_actions().persist.expect("the first entry");
    accept(&mut raft, TWO, 1);
    accept(&mut raft, THREE, 1);
    assert_eq!(committed(&raft), 1);
    assert!(raft.take_actions().committed.is_empty());
    let _ = raft.persisted(persist.token);
    assert_eq!(raft.take_actions().committed.len(), 1);
}

/// Row 6 (etcd#11510, tikv#6344): the configuration of an image was applied later than the image, so memory and disk had
/// different members. Row 9 (etcd#22442): an installed image left entries behind it in the log.
#[test]
fn an_image_brings_its_configuration_at_once_and_empties_the_log() {
    let mut raft = member(&[1, 2, 3], 2, &[1, 1, 1, 1, 2, 2, 2]);
    step(&mut raft, TWO, 3, Body::Snapshot(image(5, 3, &[1, 2])));
    assert_eq!(raft.configuration(), &configuration(&[1, 2]));
    let actions = raft.take_actions();
    assert!(actions.send_now.is_empty(), "the acknowledgement waits");
    let persist = actions.persist.expect("the image");
    assert_eq!(persist.snapshot, Some(image(5, 3, &[1, 2])));
    assert_eq!((persist.truncate_from, persist.entries.len()), (None, 0), "the image itself voids every entry");
    assert_eq!(raft.positions().proposed.0, Index(5), "6 and 7 were of another history");

    // The log goes on while the image is installed; nothing is handed out before.
    step(&mut raft, TWO, 3, append((5, 3), 6, vec![entry(6, 3)]));
    let behind = raft.take_actions();
    assert!(behind.committed.is_empty());
    let sent = raft.persisted(persist.token).send;
    assert_eq!(bodies(&sent, TWO), [&Body::AppendAccepted { matched: Index(5) }]);
    assert_eq!(raft.positions().applied.0, Index(5));
    let _ = raft.persisted(behind.persist.expect("the entry behind").token);
    assert_eq!(raft.take_actions().committed, [entry(6, 3)]);
}

#[test]
fn an_image_of_what_is_here_already_changes_nothing() {
    let mut raft = member(&[1, 2, 3], 1, &[1, 1, 1]);
    step(&mut raft, TWO, 1, Body::Snapshot(image(2, 1, &[1, 2, 3])));
    let actions = raft.take_actions();
    assert!(actions.persist.is_none());
    assert_eq!(bodies(&actions.send_now, TWO), [&Body::AppendAccepted { matched: Index(2) }]);
    assert_eq!((committed(&raft), raft.positions().proposed.0), (2, Index(3)), "the tail stays");
    step(&mut raft, TWO, 1, Body::Snapshot(image(1, 1, &[1])));
    assert_eq!(raft.configuration(), &configuration(&[1, 2, 3]), "an old one");
}

/// Row 7 (etcd#12136, camunda#60086): a joint configuration was never left after its leader had gone, or was committed by
/// the new half alone.
#[test]
fn the_next_leader_leaves_a_joint_configuration_that_both_halves_committed() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    let _ = settle(&mut raft);
    accept(&mut raft, TWO, 1);
    let target = configuration(&[1, 4, 5]);
    assert_eq!(raft.propose_configuration(&target, b"ctx"), Ok(Index(2)));
    assert_eq!(raft.propose_configuration(&target, b"ctx"), Err(ProposeError::ConfigurationPending));
    assert!(raft.configuration().is_joint());
    let _ = settle(&mut raft);
    accept(&mut raft, FOUR, 2);
    accept(&mut raft, NodeId(5), 2);
    assert_eq!(committed(&raft), 1, "all of the new half, one of the old");
    let joint = configuration_entry(2, 2, raft.configuration());

    // Another leader's log holds the joint entry, not known to be committed.
    let founders = configuration_entry(1, 2, &configuration(&[1, 2, 3]));
    let mut next = member_with(&[1, 2, 3], 2, vec![founders, joint]);
    elect(&mut next);
    let _ = settle(&mut next);
    accept(&mut next, FOUR, 3);
    assert!(next.configuration().is_joint());
    accept(&mut next, TWO, 3);
    assert_eq!(committed(&next), 3);
    assert_eq!(next.configuration(), &target, "the entry that leaves it is in the log");
    let _ = settle(&mut next);
    accept(&mut next, FOUR, 4);
    assert_eq!(committed(&next), 4);
}

/// Row 8 (CCF#5674): a leader that stepped down rolled its log back to what it believed to be committed.
#[test]
fn stepping_down_cuts_nothing_and_what_is_committed_is_never_cut() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    raft.propose([Bytes::from_static(b"a")]).expect("leads");
    let _ = settle(&mut raft);
    accept(&mut raft, TWO, 1);
    step(&mut raft, TWO, 3, Body::Heartbeat { committed: Index(0), round: 0 });
    assert_eq!(raft.role().role, Role::Follower);
    assert_eq!(raft.positions().proposed.0, Index(2));
    let conflict = append((0, 0), 0, vec![entry(1, 3)]);
    let outcome = raft.step(TWO, Message { term: Term(3), body: conflict });
    assert_eq!(outcome, Err(RaftError::CommittedConflict { from: TWO, index: Index(1) }));
    assert!(outcome.is_err_and(|error| error.is_fatal()));
    assert_eq!(raft.positions().proposed.0, Index(2));
}

/// Row 9's cousin: an entry is cut while its first write is on its way, and comes back with the same index and term. The
/// first write's end must not vouch for the second.
#[test]
fn an_entry_that_comes_back_waits_for_its_own_write() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    step(&mut raft, TWO, 2, append((0, 0), 0, vec![entry(1, 2)]));
    let first = raft.take_actions().persist.expect("1 of term 2");
    step(&mut raft, THREE, 3, append((0, 0), 0, vec![entry(1, 3)]));
    let second = raft.take_actions().persist.expect("1 of term 3");
    assert_eq!(second.truncate_from, Some(Index(1)));
    step(&mut raft, TWO, 4, append((0, 0), 0, vec![entry(1, 2), entry(2, 4)]));
    let third = raft.take_actions().persist.expect("1 of term 2 again");
    assert_eq!((third.truncate_from, third.entries.len()), (Some(Index(1)), 2));
    for (token, persisted) in [(first.token, 0), (second.token, 0), (third.token, 2)] {
        let _ = raft.persisted(token);
        assert_eq!(raft.positions().persisted.0, Index(persisted));
    }
}

/// Row 10's part here: a member whose disk has lost what it acknowledged must say so and not vote on.
#[test]
fn a_member_that_lost_acknowledged_entries_is_told_so() {
    let mut raft = member(&[1, 2, 3], 1, &[1]);
    let outcome = raft.step(TWO, Message { term: Term(1), body: Body::Heartbeat { committed: Index(4), round: 0 } });
    assert_eq!(outcome, Err(RaftError::LostEntries { expected: Index(4), last: Index(1) }));
}

/// Row 21: a member that hears nobody must not end a leader that the others hear; yet one that is at a later term already
/// must be heard again.
#[test]
fn whoever_hears_a_leader_grants_nothing_to_others() {
    let mut raft = member(&[1, 2, 3], 1, &[1]);
    step(&mut raft, TWO, 1, Body::Heartbeat { committed: Index(1), round: 0 });
    let _ = settle(&mut raft);
    let (last_index, last_term) = (Index(5), Term(1));
    step(&mut raft, THREE, 2, Body::PreVoteRequest { last_index, last_term });
    step(&mut raft, THREE, 2, Body::VoteRequest { last_index, last_term, forced: false });
    assert!(raft.take_actions().is_empty());
    assert_eq!(raft.role().term, Term(1));
    step(&mut raft, THREE, 2, Body::VoteRequest { last_index, last_term, forced: true });
    assert_eq!(raft.role().term, Term(2), "the leader itself asked for this one");

    step(&mut raft, TWO, 1, Body::Heartbeat { committed: Index(1), round: 0 });
    let (actions, _) = settle(&mut raft);
    assert!(bodies(&actions[0].send_now, TWO).contains(&&Body::NewerTerm));
}

#[test]
fn a_leader_without_a_quorum_steps_down_within_an_election_timeout() {
    let mut raft = member(&[1, 2, 3], 1, &[]);
    elect(&mut raft);
    (0..9).for_each(|random| raft.tick(random));
    assert_eq!(raft.role().role, Role::Leader);
    raft.tick(0);
    assert_eq!(raft.role().role, Role::Follower);
    assert_eq!(raft.role().term, Term(2), "in its own term");
}
