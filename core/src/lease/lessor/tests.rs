//! A lessor with trees and a log of one entry at a time; then random leaders that stall, are cut off and replaced, held
//! against what clients were told.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ringstone_pager::model::ModelTrees;

use super::*;
use crate::lease::state::{RENEWAL_SLACK_MS, TREE_SPECS};

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A sole voter: what is proposed is applied at once.
struct Node {
    lessor: Lessor,
    trees: ModelTrees,
    now_ms: u64,
    revoked: Vec<i64>,
    renewals: usize,
    clocks: usize,
    tokens: u64,
    answers: BTreeMap<u64, KeepAlive>,
}

impl Node {
    fn new() -> Node {
        let mut lessor = Lessor::new(LeaseTime(0), at(0));
        lessor.leadership(true, at(0));
        lessor.caught_up();
        lessor.proven(at(0));
        let trees = ModelTrees::new(&TREE_SPECS);
        let (revoked, answers) = Default::default();
        Node { lessor, trees, now_ms: 0, revoked, renewals: 0, clocks: 0, tokens: 0, answers }
    }

    fn grant(&mut self, id: i64, ttl_s: i64) {
        let clock = self.lessor.clock(at(self.now_ms));
        state::grant(&mut self.trees, clock, id, ttl_s).expect("no faults").expect("the id is free");
        self.lessor.observed(clock);
        self.lessor.granted(id, clock, ttl_s);
    }

    fn keep_alive(&mut self, id: i64) -> u64 {
        self.tokens += 1;
        let token = KeepAliveToken(self.tokens);
        let answer = self.lessor.keep_alive(&self.trees, at(self.now_ms), token, id).expect("no faults");
        if answer != KeepAlive::Waits {
            self.answers.insert(token.0, answer);
        }
        token.0
    }

    fn take_answers(&mut self) {
        for (token, answer) in self.lessor.take_answers() {
            assert!(self.answers.insert(token.0, answer).is_none(), "one answer for each keep-alive");
        }
    }

    /// Proposes and applies one command.
    fn turn(&mut self) -> bool {
        let now = at(self.now_ms);
        let Some(command) = self.lessor.poll_proposal(&self.trees, now).expect("no faults") else { return false };
        let clock = self.lessor.clock(now);
        self.lessor.observed(clock);
        match command {
            Command::LeaseRenew { ids } => {
                let ttls = state::renew(&mut self.trees, clock, &ids).expect("no faults");
                self.lessor.renewed(&ids, &ttls);
                self.renewals += 1;
            }
            Command::LeaseRevoke { id, expired_renewal } => self.revoke(clock, id, expired_renewal),
            Command::LeaseClock => self.clocks += 1,
            other => panic!("a lessor does not propose {other:?}"),
        }
        self.take_answers();
        true
    }

    fn revoke(&mut self, clock: LeaseTime, id: i64, renewal: Option<u64>) {
        let renewal = renewal.expect("an expiry names its renewal");
        if state::may_expire(&self.trees, clock, id, renewal).expect("no faults") {
            state::revoke_record(&mut self.trees, id).expect("no faults");
            self.revoked.push(id);
            self.lessor.revoked(id);
        } else {
            self.lessor.revoke_refused(id);
        }
    }

    /// Lets time pass in ticks of 100 ms with a proven leadership.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now_ms += 100;
            self.lessor.proven(at(self.now_ms));
            self.lessor.clock(at(self.now_ms));
            while self.turn() {}
        }
    }
}

#[test]
fn a_lease_ends_after_its_ttl_and_the_slack_and_not_before() {
    let mut node = Node::new();
    node.grant(7, 2);
    node.run(2000 + RENEWAL_SLACK_MS - 100);
    assert!(node.revoked.is_empty());
    node.run(100);
    assert_eq!(node.revoked, [7]);
    assert_eq!(node.lessor.keep_alive(&node.trees, at(9000), KeepAliveToken(1), 7), Ok(KeepAlive::Ttl(0)));
}

#[test]
fn keep_alives_are_answered_at_once_while_covered_and_cost_one_entry_a_second() {
    let mut node = Node::new();
    node.grant(7, 5);
    let mut waited = 0;
    for _ in 0..1000 {
        let token = node.keep_alive(7);
        if !node.answers.contains_key(&token) {
            waited += 1;
            node.run(100);
        }
        assert_eq!(node.answers.get(&token), Some(&KeepAlive::Ttl(5)));
        node.now_ms += 10;
        node.lessor.proven(at(node.now_ms));
        node.lessor.clock(at(node.now_ms));
    }
    assert!(node.revoked.is_empty());
    assert!((8..=10).contains(&waited), "{waited} of 1000 keep-alives in 10 s waited for the log");
    assert_eq!(node.renewals, waited);
}

#[test]
fn batches_are_paced_and_carry_all_that_wait() {
    let mut node = Node::new();
    for id in 1..=50 {
        node.grant(id, 5);
    }
    node.run(2000);
    let first = node.keep_alive(1);
    assert!(node.turn());
    assert!(node.answers.contains_key(&first), "an idle lessor's first batch does not wait");
    let others: Vec<u64> = (2..=50).map(|id| node.keep_alive(id)).collect();
    assert!(!node.turn(), "the next one waits 100 ms");
    node.run(100);
    assert!(others.iter().all(|token| node.answers.get(token) == Some(&KeepAlive::Ttl(5))));
    assert_eq!(node.renewals, 2);
}

#[test]
fn a_keep_alive_past_the_deadline_waits_for_the_end() {
    let mut node = Node::new();
    node.grant(7, 2);
    node.now_ms = 2900;
    // The clock has not moved over the gap but for one step: a stalled leader must not end it.
    node.lessor.proven(at(node.now_ms));
    assert_eq!(node.lessor.clock(at(node.now_ms)), LeaseTime(STEP_MS_MAX));
    for _ in 0..25 {
        node.now_ms += 100;
        node.lessor.proven(at(node.now_ms));
        node.lessor.clock(at(node.now_ms));
    }
    let token = node.keep_alive(7);
    assert!(!node.answers.contains_key(&token));
    assert!(node.turn());
    assert_eq!((node.answers.get(&token), &node.revoked[..]), (Some(&KeepAlive::Ttl(0)), &[7][..]));
}

#[test]
fn a_renewal_that_waits_comes_before_the_expiry() {
    let mut node = Node::new();
    node.grant(7, 2);
    node.run(2900);
    node.keep_alive(7);
    for _ in 0..5 {
        node.now_ms += 99;
        node.lessor.proven(at(node.now_ms));
        node.lessor.clock(at(node.now_ms));
    }
    while node.turn() {}
    assert!(node.revoked.is_empty());
    assert_eq!(node.answers.len(), 1);
    node.run(2900);
    assert!(node.revoked.is_empty());
    node.run(200);
    assert_eq!(node.revoked, [7]);
}

/// etcd#15247: a leader that was stopped for long wakes up and revokes all leases.
#[test]
fn nothing_ends_in_a_leader_that_nobody_proves() {
    let mut node = Node::new();
    node.grant(7, 2);
    for _ in 0..1000 {
        node.now_ms += 100;
        node.lessor.clock(at(node.now_ms));
        assert!(!node.turn(), "nothing is proposed");
    }
    assert_eq!(node.lessor.time(), LeaseTime(400), "the proof holds for half a second");
    let token = node.keep_alive(7);
    assert!(!node.answers.contains_key(&token), "and no keep-alive is vouched for without the log");
    node.lessor.leadership(false, at(node.now_ms));
    node.take_answers();
    assert_eq!(node.answers.get(&token), Some(&KeepAlive::NotLeader));
}

#[test]
fn the_clock_is_logged_once_a_second_only_while_there_are_leases() {
    let mut node = Node::new();
    node.run(10_000);
    assert_eq!(node.clocks, 0);
    node.grant(7, 3600);
    node.run(10_000);
    assert!((9..=10).contains(&node.clocks), "{} times in ten seconds", node.clocks);
}

#[test]
fn what_is_lost_on_its_way_is_proposed_again() {
    let mut node = Node::new();
    node.grant(7, 2);
    node.grant(8, 60);
    node.run(2900);
    let token = node.keep_alive(8);
    node.now_ms += 100;
    node.lessor.proven(at(node.now_ms));
    let mut lost = Vec::new();
    while let Some(command) = node.lessor.poll_proposal(&node.trees, at(node.now_ms)).expect("no faults") {
        lost.push(command);
    }
    assert!(lost.contains(&Command::LeaseRenew { ids: vec![8] }));
    assert!(lost.contains(&Command::LeaseRevoke { id: 7, expired_renewal: Some(1) }));
    node.run(2900);
    assert!(node.revoked.is_empty() && !node.answers.contains_key(&token));
    node.run(3200);
    assert_eq!((&node.revoked[..], node.answers.get(&token)), (&[7][..], Some(&KeepAlive::Ttl(60))));
}

#[test]
fn a_hundred_thousand_end_together_in_bounded_slices() {
    let mut node = Node::new();
    for id in 1..=100_000 {
        node.grant(id, 2);
    }
    node.run(2900);
    assert!(node.revoked.is_empty());
    node.now_ms += 100;
    node.lessor.proven(at(node.now_ms));
    node.lessor.clock(at(node.now_ms));
    let mut rounds = 0;
    loop {
        // A batch of the log: everything that the lessor has, then all of it is applied.
        let mut batch = Vec::new();
        while let Some(command) = node.lessor.poll_proposal(&node.trees, at(node.now_ms)).expect("no faults") {
            batch.push(command);
        }
        if batch.is_empty() {
            break;
        }
        // 512 expiries and the clock.
        assert!(batch.len() <= 513, "{} in one batch", batch.len());
        let clock = node.lessor.clock(at(node.now_ms));
        for command in batch {
            let Command::LeaseRevoke { id, expired_renewal } = command else { continue };
            node.revoke(clock, id, expired_renewal);
        }
        rounds += 1;
    }
    assert_eq!(node.revoked.len(), 100_000);
    assert!(rounds <= 100_000 / 512 + 2, "{rounds} batches of the log");
}

#[test]
fn minimum_ttl_and_ids() {
    assert_eq!(effective_ttl_s(-1, 2), Some(2));
    assert_eq!(effective_ttl_s(0, 2), Some(2));
    assert_eq!(effective_ttl_s(60, 2), Some(60));
    assert_eq!(effective_ttl_s(TTL_S_MAX, 2), Some(TTL_S_MAX));
    assert_eq!(effective_ttl_s(TTL_S_MAX + 1, 2), None);
    assert_eq!((id_from_random(0), id_from_random(u64::MAX)), (1, i64::MAX));
}

/// One of two members that take turns as leaders. Each sees the log as far as it has applied it.
struct Member {
    lessor: Lessor,
    trees: ModelTrees,
    applied: usize,
}

struct Cluster {
    members: [Member; 2],
    leader: usize,
    /// Committed entries with their clocks.
    log: Vec<(LeaseTime, Command)>,
    judged: usize,
    now_ms: u64,
    /// For each lease, until when its holder was told that it lives.
    promised_ms: BTreeMap<i64, u64>,
    ttls: BTreeMap<i64, i64>,
    asked: BTreeMap<u64, (i64, u64)>,
    tokens: u64,
    /// For each lease: its last renewal that the log has, by the time of the test, and how long the clock has not run.
    latest_end_ms: BTreeMap<i64, u64>,
    outage_ms: u64,
}

#[derive(Clone, Debug)]
enum Event {
    Run {
        ms: u64,
    },
    Grant {
        id: i64,
        ttl_s: i64,
    },
    KeepAlive {
        id: i64,
        old: bool,
    },
    /// The leader process stands still.
    Stall {
        ms: u64,
    },
    /// Its quorum is gone, but it does not know.
    CutOff {
        ms: u64,
    },
    /// The other member leads now; the old one may go on believing that it does.
    Change {
        after_ms: u64,
        old_knows: bool,
    },
    Restart {
        after_ms: u64,
    },
}

fn any_event() -> impl Strategy<Value = Event> {
    let id = || 1..4_i64;
    prop_oneof![
        6 => (1..3000_u64).prop_map(|ms| Event::Run { ms }),
        3 => (id(), 1..5_i64).prop_map(|(id, ttl_s)| Event::Grant { id, ttl_s }),
        8 => (id(), any::<bool>()).prop_map(|(id, old)| Event::KeepAlive { id, old }),
        1 => (1..9000_u64).prop_map(|ms| Event::Stall { ms }),
        1 => (1..4000_u64).prop_map(|ms| Event::CutOff { ms }),
        2 => (1000..4000_u64, any::<bool>()).prop_map(|(after_ms, old_knows)| Event::Change { after_ms, old_knows }),
        1 => (0..4000_u64).prop_map(|after_ms| Event::Restart { after_ms }),
    ]
}

impl Cluster {
    fn new() -> Cluster {
        let member =
            || Member { lessor: Lessor::new(LeaseTime(0), at(0)), trees: ModelTrees::new(&TREE_SPECS), applied: 0 };
        let mut cluster = Cluster {
            members: [member(), member()],
            leader: 0,
            log: Vec::new(),
            judged: 0,
            now_ms: 0,
            promised_ms: BTreeMap::new(),
            ttls: BTreeMap::new(),
            asked: BTreeMap::new(),
            tokens: 0,
            latest_end_ms: BTreeMap::new(),
            outage_ms: 0,
        };
        cluster.lead(0);
        cluster
    }

    fn lead(&mut self, who: usize) {
        self.leader = who;
        self.members[who].lessor.leadership(true, at(self.now_ms));
        // The first entry of the term: everything committed is applied before it.
        self.apply(who);
        self.members[who].lessor.caught_up();
        self.members[who].lessor.proven(at(self.now_ms));
        self.take_answers(who);
    }

    fn apply(&mut self, who: usize) {
        while self.members[who].applied < self.log.len() {
            let member = &mut self.members[who];
            let (clock, command) = self.log[member.applied].clone();
            // What a lease's end means is looked at once, by the leader that committed it.
            let first = member.applied == self.judged;
            member.applied += 1;
            self.judged = self.judged.max(member.applied);
            member.lessor.observed(clock);
            match command {
                Command::LeaseGrant { id, ttl_s } => {
                    let granted = state::grant(&mut member.trees, clock, id, ttl_s).expect("no faults");
                    assert_eq!(granted, Ok(()), "the test grants only free ids");
                    member.lessor.granted(id, clock, ttl_s);
                }
                Command::LeaseRenew { ids } => {
                    let ttls = state::renew(&mut member.trees, clock, &ids).expect("no faults");
                    member.lessor.renewed(&ids, &ttls);
                }
                Command::LeaseRevoke { id, expired_renewal } => {
                    let renewal = expired_renewal.expect("an expiry names its renewal");
                    if state::may_expire(&member.trees, clock, id, renewal).expect("no faults") {
                        state::revoke_record(&mut member.trees, id).expect("no faults");
                        member.lessor.revoked(id);
                        if first {
                            let promised = self.promised_ms.remove(&id).unwrap_or_default();
                            assert!(promised <= self.now_ms, "lease {id} ended {} ms early", promised - self.now_ms);
                            self.latest_end_ms.remove(&id);
                        }
                    } else {
                        member.lessor.revoke_refused(id);
                    }
                }
                _ => {}
            }
        }
    }

    fn commit(&mut self, command: Command) {
        let who = self.leader;
        let clock = self.members[who].lessor.clock(at(self.now_ms));
        let newest = self.log.last().map_or(LeaseTime(0), |(clock, _)| *clock);
        if let Command::LeaseRenew { ids } = &command {
            for id in ids {
                if state::exists(&self.members[who].trees, *id).expect("no faults") {
                    self.note_renewal(*id);
                }
            }
        }
        self.log.push((clock.max(newest), command));
        self.apply(who);
        self.take_answers(who);
    }

    fn note_renewal(&mut self, id: i64) {
        if let Some(ttl_s) = self.ttls.get(&id) {
            self.latest_end_ms.insert(id, self.now_ms + *ttl_s as u64 * 1000 + RENEWAL_SLACK_MS);
        }
    }

    fn take_answers(&mut self, who: usize) {
        for (token, answer) in self.members[who].lessor.take_answers() {
            self.answered(token.0, answer);
        }
    }

    fn answered(&mut self, token: u64, answer: KeepAlive) {
        let (id, asked_ms) = self.asked.remove(&token).expect("one answer for each keep-alive");
        if let KeepAlive::Ttl(ttl_s @ 1..) = answer {
            let promised = self.promised_ms.entry(id).or_default();
            *promised = (*promised).max(asked_ms + ttl_s as u64 * 1000);
        }
    }

    /// Ticks of up to 100 ms, and a commit of all that the leader proposes.
    fn run(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            self.now_ms = end_ms.min(self.now_ms + 100);
            let who = self.leader;
            self.members[who].lessor.proven(at(self.now_ms));
            self.members[who].lessor.clock(at(self.now_ms));
            while let Some(command) = {
                let member = &mut self.members[who];
                member.lessor.poll_proposal(&member.trees, at(self.now_ms)).expect("no faults")
            } {
                self.commit(command);
            }
            for (id, end_ms) in &self.latest_end_ms {
                // What a clock that is logged once a second may lose at each change, and a tick.
                let latest_ms = end_ms + self.outage_ms + 200;
                assert!(self.now_ms <= latest_ms, "lease {id} is {} ms late", self.now_ms - latest_ms);
            }
        }
    }

    fn keep_alive(&mut self, who: usize, id: i64) {
        self.tokens += 1;
        self.asked.insert(self.tokens, (id, self.now_ms));
        let (now, token) = (at(self.now_ms), KeepAliveToken(self.tokens));
        let member = &mut self.members[who];
        let answer = member.lessor.keep_alive(&member.trees, now, token, id).expect("no faults");
        if answer != KeepAlive::Waits {
            self.answered(self.tokens, answer);
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Run { ms } => self.run(ms),
            Event::Grant { id, ttl_s } => {
                if !state::exists(&self.members[self.leader].trees, id).expect("no faults") {
                    self.ttls.insert(id, ttl_s);
                    self.note_renewal(id);
                    self.promised_ms.insert(id, self.now_ms + ttl_s as u64 * 1000);
                    self.commit(Command::LeaseGrant { id, ttl_s });
                }
            }
            Event::KeepAlive { id, old } => self.keep_alive(if old { 1 - self.leader } else { self.leader }, id),
            Event::Stall { ms } => {
                self.now_ms += ms;
                self.outage_ms += ms;
            }
            Event::CutOff { ms } => {
                // Ticks and keep-alives go on; nothing is proven, nothing commits (retried after 3 s).
                for _ in 0..ms / 100 {
                    self.now_ms += 100;
                    let member = &mut self.members[self.leader];
                    member.lessor.clock(at(self.now_ms));
                    let _ = member.lessor.poll_proposal(&member.trees, at(self.now_ms)).expect("no faults");
                }
                // A proposal that was lost is made again after three seconds.
                self.outage_ms += ms + 3100;
            }
            Event::Change { after_ms, old_knows } => {
                let old = self.leader;
                for _ in 0..after_ms / 100 {
                    self.now_ms += 100;
                    self.members[old].lessor.clock(at(self.now_ms));
                    self.keep_alive(old, 1);
                }
                self.outage_ms += after_ms + CLOCK_LOGGED_MS + 200;
                if old_knows {
                    self.members[old].lessor.leadership(false, at(self.now_ms));
                    self.take_answers(old);
                }
                self.lead(1 - old);
            }
            Event::Restart { after_ms } => {
                self.now_ms += after_ms;
                self.outage_ms += after_ms + CLOCK_LOGGED_MS + 200;
                let who = self.leader;
                // The connections are gone with the process.
                self.asked.clear();
                let clock = self.log.last().map_or(LeaseTime(0), |(clock, _)| *clock);
                self.apply(who);
                self.members[who].lessor = Lessor::new(clock, at(self.now_ms));
                self.members[1 - who].lessor.leadership(false, at(self.now_ms));
                let _ = self.members[1 - who].lessor.take_answers();
                self.lead(who);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    /// No lease ends before the point that its holder was told, and none lives longer than its TTL, the slack and the
    /// outages, whoever leads, stalls or is cut off.
    #[test]
    fn no_lease_ends_early_or_late(events in proptest::collection::vec(any_event(), 1..60)) {
        let mut cluster = Cluster::new();
        for event in events {
            cluster.step(event);
        }
        cluster.run(20_000 + cluster.outage_ms);
        prop_assert!(cluster.promised_ms.is_empty(), "all leases are gone");
    }
}

/// Found by the random test: an expiry that was lost shortly after the last look for such was only seen by the look after
/// the next, nearly six seconds later. Looks are a tick apart since.
#[test]
fn a_lost_expiry_is_proposed_again_after_three_seconds() {
    let mut cluster = Cluster::new();
    let events =
        [Event::Run { ms: 1054 }, Event::Grant { id: 1, ttl_s: 1 }, Event::Run { ms: 1746 }, Event::CutOff { ms: 300 }];
    for event in events {
        cluster.step(event);
    }
    cluster.run(20_000);
    assert!(cluster.promised_ms.is_empty(), "the lease is gone");
}
