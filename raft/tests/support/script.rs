//! The language of transcripts: one command a line, what it does printed below it.
//!
//! `1->2` is a message that leaves at once, `1=>2` one that leaves after a sync, `1->2 ... (lost)` one that a cut link eats.
//! Messages wait until `deliver`. A disk syncs at once unless it is `slow`.
//!
//! | command | what it does |
//! |---|---|
//! | `members 1 2 3` `[learner=4] [spare=5] [window=2] [window-bytes=N] [append-bytes=N] [unapplied-bytes=N] [lease] [kinds=2]` | a new group; a spare knows nothing yet |
//! | `founded 1 in 1,2,3 term=3 log=1,1,2` `[vote=2] [image=5/2]` | starts one member from what its disk holds, an entry for each term, with the settings of the last `members` |
//! | `campaign 1`, `tick 1 [N]`, `timeout 1` | the last: ticks until it campaigns |
//! | `propose 1 a b`, `change 1 +4 -2 ~3` | to voter, removed, to learner |
//! | `deliver [1->2 [KIND [N]]]`, `drop [1->2 [KIND [N]]]`, `double 1->2`, `late 1->2` | all until nothing moves, or what waits on one link; all of a link twice; its first behind all others |
//! | `cut 1->2`, `cut 1-2`, `isolate 3`, `heal` | |
//! | `slow 1`, `sync 1 [N]`, `fast 1` | a disk that syncs when told: N batches, or all |
//! | `read 1 7`, `lease 1 [ELAPSED]`, `gap 1` | |
//! | `transfer 1 2`, `resign 1` | |
//! | `forget 1 2` | 1 is told that its leader 2 has ended |
//! | `checkpoint 1`, `image 1 3`, `delivered 1 3`, `failed 1 3`, `unreachable 1 3` | state durable and log compacted; an image of it is sent; reports |
//! | `crash 1 [N]`, `restart 1` | N batches of those on their way reach the disk |
//! | `status 1`, `log 1`, `disk 1`, `messages`, `kinds 1` | |
//! | `quietly COMMAND` | without its output |

use crate::show;
use bytes::Bytes;
use ringstone_raft::{
    Change, Config, Configuration, Entry, EntryKind, HardState, Index, Message, NodeId, Persist, Raft, Replication,
    Role, Snapshot, SnapshotMetadata, Stable, Term,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Clone, Default)]
struct Disk {
    hard_state: HardState,
    base: SnapshotMetadata,
    entries: Vec<Entry>,
}

impl Disk {
    fn write(&mut self, batch: &Persist) {
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        if let Some(snapshot) = &batch.snapshot {
            self.base = snapshot.metadata.clone();
            self.entries.clear();
        }
        if let Some(first) = batch.truncate_from {
            self.entries.retain(|entry| entry.index < first);
        }
        self.entries.extend(batch.entries.iter().cloned());
    }
}

struct Node {
    raft: Option<Raft>,
    config: Config,
    disk: Disk,
    is_slow: bool,
    writing: VecDeque<Persist>,
}

#[derive(Default)]
pub struct Script {
    /// Of the last `members`.
    settings: Option<Config>,
    nodes: BTreeMap<NodeId, Node>,
    messages: VecDeque<(NodeId, NodeId, Message)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// What any member applied: they must agree.
    history: BTreeMap<Index, Entry>,
    leaders: BTreeMap<Term, NodeId>,
    out: Vec<String>,
}

fn id(word: &str) -> NodeId {
    NodeId(word.parse().unwrap_or_else(|_| panic!("not a member: {word}")))
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

fn ids(words: &str) -> Vec<NodeId> {
    words.split(',').map(id).collect()
}

fn link(word: &str) -> (NodeId, NodeId) {
    let (from, to) = word.split_once("->").unwrap_or_else(|| panic!("not a link: {word}"));
    (id(from), id(to))
}

impl Script {
    /// The output of one command.
    pub fn run(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "quietly" => {
                self.command(&words[1..]);
                self.out.clear();
            }
            _ => self.command(&words),
        }
        std::mem::take(&mut self.out)
    }

    fn command(&mut self, words: &[&str]) {
        let (name, rest) = (words[0], &words[1..]);
        match name {
            "members" => self.members(rest),
            "founded" => self.founded(rest),
            "deliver" => match rest {
                [] => self.deliver_all(),
                _ => self.deliver(rest),
            },
            "drop" => drop(self.take_messages(rest)),
            "double" => {
                let wanted = link(rest[0]);
                let again: Vec<_> =
                    self.messages.iter().filter(|(from, to, _)| (*from, *to) == wanted).cloned().collect();
                self.messages.extend(again);
            }
            "late" => {
                let wanted = link(rest[0]);
                let first = self.messages.iter().position(|(from, to, _)| (*from, *to) == wanted);
                let message = self.messages.remove(first.expect("something waits there")).expect("found");
                self.messages.push_back(message);
            }
            "messages" => {
                let lines = self.messages.iter().map(|(from, to, message)| line_of(*from, "->", *to, message));
                self.out.extend(lines);
            }
            "cut" if rest[0].contains("->") => drop(self.cut.insert(link(rest[0]))),
            "cut" => {
                let (one, other) = rest[0].split_once('-').expect("1-2");
                self.cut.extend([(id(one), id(other)), (id(other), id(one))]);
            }
            "isolate" => {
                let alone = id(rest[0]);
                let others: Vec<NodeId> = self.nodes.keys().copied().filter(|other| *other != alone).collect();
                self.cut.extend(others.into_iter().flat_map(|other| [(alone, other), (other, alone)]));
            }
            "heal" => self.cut.clear(),
            _ => self.command_to(id(rest[0]), name, &rest[1..]),
        }
    }

    fn command_to(&mut self, to: NodeId, name: &str, rest: &[&str]) {
        match name {
            "slow" => self.node(to).is_slow = true,
            "fast" => {
                self.node(to).is_slow = false;
                self.sync(to, u64::MAX);
            }
            "sync" => self.sync(to, rest.first().map_or(u64::MAX, |count| number(count))),
            "crash" => self.crash(to, rest.first().map_or(0, |count| number(count))),
            "restart" => self.start(to),
            "checkpoint" => self.checkpoint(to),
            "timeout" => self.timeout(to),
            "image" => {
                let base = self.node(to).disk.base.clone();
                let snapshot = Snapshot { metadata: base, handle: Bytes::new() };
                self.raft(to).send_snapshot(id(rest[0]), snapshot);
            }
            "status" => {
                let lines = match &self.node(to).raft {
                    Some(raft) => status(raft),
                    None => vec![format!("{to} is down")],
                };
                self.out.extend(lines);
            }
            "log" => {
                let raft = self.raft(to);
                let (first, last) = (raft.status().compacted.next(), raft.positions().proposed.0);
                let term = |index| raft.metadata_at(Index(index)).expect("in the log").term;
                let terms: Vec<String> = (first.0..=last.0).map(|index| term(index).to_string()).collect();
                let line = format!("{to}: terms from {first} on: {}", terms.join(" "));
                self.out.push(line);
            }
            "disk" => {
                let disk = &self.node(to).disk;
                let vote = disk.hard_state.vote.map_or("nobody".to_string(), |vote| vote.to_string());
                let base = format!("base {}/{}", disk.base.index, disk.base.term);
                let entries = show::entries(&disk.entries);
                let line = format!("{to}: term {} vote {vote}, {base}, [{entries}]", disk.hard_state.term);
                self.out.push(line);
            }
            "kinds" => {
                let known = self.raft(to).kinds_known_by_all();
                self.out.push(known.map_or("not all have said".to_string(), |kinds| format!("all know kind {kinds}")));
            }
            "lease" => {
                let answer = self.raft(to).lease_read(rest.first().map_or(0, |ticks| number(ticks) as u32));
                self.out.push(match answer {
                    Ok(Some(index)) => format!("{to} answers reads at {index}"),
                    Ok(None) => format!("{to} has no lease"),
                    Err(error) => format!("refused: {error}"),
                });
            }
            _ => self.input(to, name, rest),
        }
        self.act(to);
    }

    fn input(&mut self, to: NodeId, name: &str, rest: &[&str]) {
        let payload = |word: &&str| Bytes::copy_from_slice(word.as_bytes());
        let raft = self.raft(to);
        let outcome = match name {
            "campaign" => {
                raft.campaign();
                Ok(())
            }
            "tick" => {
                for _ in 0..rest.first().map_or(1, |count| number(count)) {
                    self.raft(to).tick(0);
                    self.act(to);
                }
                return;
            }
            "propose" => raft.propose(rest.iter().map(payload)).map(drop),
            "change" => {
                let changes: Vec<Change> = rest.iter().map(|word| change(word)).collect();
                match raft.configuration().changed(&changes) {
                    Some(target) => raft.propose_configuration(&target, b"").map(drop),
                    None => Err(ringstone_raft::ProposeError::InvalidConfiguration),
                }
            }
            "read" => raft.read_index(number(rest[0])),
            "gap" => {
                raft.clock_gap();
                Ok(())
            }
            "transfer" => raft.transfer_leadership(id(rest[0])),
            "resign" => {
                raft.resign();
                Ok(())
            }
            "delivered" => {
                raft.report_snapshot_delivered(id(rest[0]));
                Ok(())
            }
            "failed" => {
                raft.report_snapshot_failed(id(rest[0]));
                Ok(())
            }
            "forget" => {
                raft.forget_leader(id(rest[0]));
                Ok(())
            }
            "unreachable" => {
                raft.report_unreachable(id(rest[0]));
                Ok(())
            }
            unknown => panic!("no such command: {unknown}"),
        };
        if let Err(error) = outcome {
            self.out.push(format!("refused: {error}"));
        }
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("no member {id}"))
    }

    fn raft(&mut self, id: NodeId) -> &mut Raft {
        self.node(id).raft.as_mut().unwrap_or_else(|| panic!("{id} is down"))
    }

    /// A group of its own: what was before is gone.
    fn members(&mut self, words: &[&str]) {
        *self = Script::default();
        let (mut voters, mut learners, mut spares) = (Vec::new(), Vec::new(), Vec::new());
        let mut config = Config::new(NodeId(0), 1);
        for word in words {
            match word.split_once('=') {
                None if *word == "lease" => config.lease_reads = true,
                None => voters.push(id(word)),
                Some(("learner", list)) => learners = ids(list),
                Some(("spare", list)) => spares = ids(list),
                Some(("window", count)) => config.appends_in_flight_max = number(count) as usize,
                Some(("window-bytes", bytes)) => config.bytes_in_flight_max = number(bytes) as usize,
                Some(("append-bytes", bytes)) => config.append_bytes_max = number(bytes) as usize,
                Some(("unapplied-bytes", bytes)) => config.unapplied_bytes_max = number(bytes) as usize,
                Some(("kinds", kinds)) => config.kinds_known = number(kinds) as u32,
                Some((unknown, _)) => panic!("no such setting: {unknown}"),
            }
        }
        self.settings = Some(config.clone());
        let configuration = Configuration::new(voters.clone(), learners.clone()).expect("valid");
        for id in voters.into_iter().chain(learners) {
            let base = SnapshotMetadata { configuration: configuration.clone(), ..Default::default() };
            self.add(id, config.clone(), Disk { base, ..Disk::default() });
        }
        spares.into_iter().for_each(|id| self.add(id, config.clone(), Disk::default()));
    }

    fn founded(&mut self, words: &[&str]) {
        let me = id(words[0]);
        assert_eq!(words[1], "in");
        let configuration = Configuration::new(ids(words[2]), []).expect("valid");
        let mut disk = Disk { base: SnapshotMetadata { configuration, ..Default::default() }, ..Disk::default() };
        let mut terms = "";
        for word in &words[3..] {
            match word.split_once('=') {
                Some(("term", term)) => disk.hard_state.term = Term(number(term)),
                Some(("vote", vote)) => disk.hard_state.vote = Some(id(vote)),
                Some(("log", list)) => terms = list,
                Some(("image", place)) => {
                    let (index, term) = place.split_once('/').expect("index/term");
                    (disk.base.index, disk.base.term) = (Index(number(index)), Term(number(term)));
                }
                _ => panic!("no such part: {word}"),
            }
        }
        for term in terms.split(',').filter(|term| !term.is_empty()) {
            let index = disk.entries.last().map_or(disk.base.index, |entry| entry.index).next();
            let payload = Bytes::from(format!("{index}of{term}"));
            disk.entries.push(Entry { term: Term(number(term)), index, kind: EntryKind::Normal, payload });
        }
        let settings = self.settings.clone().unwrap_or_else(|| Config::new(me, 1));
        self.add(me, settings, disk);
    }

    fn add(&mut self, id: NodeId, config: Config, disk: Disk) {
        let config = Config { id, ..config };
        self.nodes.insert(id, Node { raft: None, config, disk, is_slow: false, writing: VecDeque::new() });
        self.start(id);
    }

    fn start(&mut self, id: NodeId) {
        let node = self.node(id);
        assert!(node.raft.is_none(), "{id} is up");
        let disk = node.disk.clone();
        let applied = disk.base.index;
        let stable = Stable { hard_state: disk.hard_state, snapshot: disk.base, entries: disk.entries, applied };
        node.config.incarnation += 1;
        node.raft = Some(Raft::new(node.config.clone(), stable).expect("what the disk holds fits together"));
        self.act(id);
    }

    fn crash(&mut self, id: NodeId, reached: u64) {
        let node = self.node(id);
        node.raft = None;
        for batch in std::mem::take(&mut node.writing).into_iter().take(reached as usize) {
            node.disk.write(&batch);
        }
    }

    /// The state at the last applied entry becomes durable, and the log up to it is let go.
    fn checkpoint(&mut self, id: NodeId) {
        let raft = self.raft(id);
        let applied = raft.positions().applied.0;
        let metadata = raft.metadata_at(applied).expect("applied");
        raft.compact(applied);
        let disk = &mut self.node(id).disk;
        disk.entries.retain(|entry| entry.index > applied);
        disk.base = metadata;
    }

    fn timeout(&mut self, id: NodeId) {
        let start = self.out.len();
        for ticks in 1..=40 {
            self.raft(id).tick(0);
            self.act(id);
            let asks = |line: &String| line.contains(" is candidate ") || line.contains(" pre-vote? ");
            if self.out[start..].iter().any(asks) {
                let whether = if (10..20).contains(&ticks) { "in time" } else { "after other than 10 to 19 ticks" };
                self.out.insert(start, format!("{id} times out {whether}"));
                return;
            }
        }
        self.out.push(format!("{id} does not campaign"));
    }

    fn sync(&mut self, id: NodeId, count: u64) {
        for _ in 0..count {
            let node = self.node(id);
            let Some(batch) = node.writing.pop_front() else { return };
            node.disk.write(&batch);
            let after = self.raft(id).persisted(batch.token);
            after.send.into_iter().for_each(|(to, message)| self.send(id, "=>", to, message));
            self.act(id);
        }
    }

    fn send(&mut self, from: NodeId, arrow: &str, to: NodeId, message: Message) {
        let is_lost = self.cut.contains(&(from, to)) || !self.nodes.contains_key(&to);
        let line = line_of(from, arrow, to, &message);
        self.out.push(if is_lost { line + " (lost)" } else { line });
        if !is_lost {
            self.messages.push_back((from, to, message));
        }
    }

    /// Takes what waits: all of it, on a link, or of a kind on a link.
    fn take_messages(&mut self, words: &[&str]) -> Vec<(NodeId, NodeId, Message)> {
        let mut left = words.get(2).map_or(u64::MAX, |count| number(count));
        let mut is_wanted = |(from, to, message): &(NodeId, NodeId, Message)| {
            left > 0
                && words.first().is_none_or(|word| link(word) == (*from, *to))
                && words.get(1).is_none_or(|kind| *kind == show::kind(&message.body))
                && {
                    left -= 1;
                    true
                }
        };
        let (wanted, others): (Vec<_>, Vec<_>) = self.messages.drain(..).partition(|message| is_wanted(message));
        self.messages = others.into();
        wanted
    }

    fn deliver(&mut self, words: &[&str]) {
        let wanted = self.take_messages(words);
        assert!(!wanted.is_empty(), "nothing waits there");
        wanted.into_iter().for_each(|(from, to, message)| self.take(from, to, message));
    }

    fn deliver_all(&mut self) {
        for _ in 0..1000 {
            let Some((from, to, message)) = self.messages.pop_front() else { return };
            self.take(from, to, message);
        }
        panic!("messages without end");
    }

    fn take(&mut self, from: NodeId, to: NodeId, message: Message) {
        let kind = show::kind(&message.body);
        let Some(raft) = self.node(to).raft.as_mut() else {
            self.out.push(format!("{to} is down: {kind} of {from} is lost"));
            return;
        };
        let outcome = raft.step(from, message);
        self.out.push(format!("{to} takes {kind} of {from}"));
        if let Err(error) = outcome {
            self.out.push(format!("error: {error}"));
        }
        self.act(to);
    }

    /// Does what a member asks for.
    fn act(&mut self, id: NodeId) {
        loop {
            let Some(raft) = self.node(id).raft.as_mut() else { return };
            let actions = raft.take_actions();
            if actions.is_empty() {
                return;
            }
            if let Some(now) = actions.became {
                if now.role == Role::Leader {
                    let other = self.leaders.insert(now.term, id);
                    assert!(other.is_none_or(|other| other == id), "two leaders in term {}", now.term);
                }
                self.out.push(show::became(id, now));
            }
            actions.send_now.into_iter().for_each(|(to, message)| self.send(id, "->", to, message));
            for to in actions.snapshots_wanted {
                self.out.push(format!("{id} wants an image for {to}"));
            }
            if let Some(batch) = actions.persist {
                self.out.push(format!("{id} writes {}", show::persist(&batch)));
                self.node(id).writing.push_back(batch);
            }
            for read in actions.reads {
                self.out.push(format!("{id} answers read {} at {}", read.context, read.index));
            }
            for context in actions.reads_aborted {
                self.out.push(format!("{id} gives read {context} up"));
            }
            self.apply(id, &actions.committed);
            if !self.node(id).is_slow {
                self.sync(id, u64::MAX);
            }
        }
    }

    fn apply(&mut self, id: NodeId, entries: &[Entry]) {
        let Some(last) = entries.last() else { return };
        self.out.push(format!("{id} applies {}", show::entries(entries)));
        for entry in entries {
            let agreed = self.history.entry(entry.index).or_insert_with(|| entry.clone());
            assert_eq!(agreed, entry, "{id} applies another entry");
        }
        self.raft(id).applied(last.index);
    }
}

fn line_of(from: NodeId, arrow: &str, to: NodeId, message: &Message) -> String {
    format!("{from}{arrow}{to} {}", show::message(message))
}

fn change(word: &str) -> Change {
    let (sign, member) = word.split_at(1);
    match sign {
        "+" => Change::Voter(id(member)),
        "~" => Change::Learner(id(member)),
        "-" => Change::Remove(id(member)),
        _ => panic!("not a change: {word}"),
    }
}

fn status(raft: &Raft) -> Vec<String> {
    let status = raft.status();
    let positions = status.positions;
    let mut lines = vec![format!(
        "{}: {} last {} persisted {} committed {} applied {} compacted {}",
        show::became(raft.id(), status.role),
        show::configuration(&status.configuration),
        positions.proposed.0,
        positions.persisted.0,
        positions.committed.0,
        positions.applied.0,
        status.compacted,
    )];
    for member in status.members {
        let replication = match member.replication {
            Replication::Probe => "probe",
            Replication::Pipeline => "pipeline",
            Replication::Image => "image",
        };
        lines.push(format!(
            "  {} {replication} matched {} next {} in flight {} ({} bytes){}{}",
            member.id,
            member.matched,
            member.next,
            member.appends_in_flight,
            member.bytes_in_flight,
            if member.is_active { "" } else { ", silent" },
            if raft.is_caught_up(member.id) { ", caught up" } else { "" },
        ));
    }
    lines
}
