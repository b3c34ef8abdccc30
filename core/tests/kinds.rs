//! Members that know different kinds of entries run together (core/src/group/kinds.rs): three groups on simulated disks, whose
//! messages arrive at once. Faults on the way are the simulator's (core/tests/cluster).

#[path = "group/support/settings.rs"]
mod settings;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ringstone_core::command::{Bootstrap, Command, Member, Put};
use ringstone_core::config::ServerConfig;
use ringstone_core::entry::{Draft, Envelope, KIND_MAX, KIND_NEXT};
use ringstone_core::error::Error;
use ringstone_core::group::{self, Answer, Call, ForwardError, Group, GroupError, OpenError, Proposal, Reply, Storage};
use ringstone_core::identity::Identity;
use ringstone_core::shared::Shared;
use ringstone_pager::disk::SimDisk as SimPages;
use ringstone_pager::layout::PAGE_BYTES;
use ringstone_raft::{Configuration, Message, NodeId, Role};
use ringstone_wal::disk::Disk as _;
use ringstone_wal::disk::sim::SimDisk as SimLog;

use settings::{TICK, settings};

const IDS: [u64; 3] = [1, 2, 3];

fn member(id: u64) -> Member {
    Member {
        id,
        name: String::new(),
        peer_urls: vec![format!("http://10.0.0.{id}:2380")],
        client_urls: vec![],
        is_learner: false,
    }
}

fn identity(id: u64) -> Identity {
    Identity { cluster_id: 0xc1, member_id: id, file_id: [id as u8; 16] }
}

struct Node {
    id: u64,
    pages: SimPages,
    log: SimLog,
    group: Option<Group>,
}

impl Node {
    fn new(id: u64) -> Node {
        let (pages, mut log) = (SimPages::new(), SimLog::new(id));
        let storage = Storage {
            page_disk: &mut pages.clone(),
            pages: Arc::new(pages.clone()),
            log_disk: &mut log,
            log_options: group::log_options(&identity(id)),
        };
        group::create_files_with(storage, &identity(id)).expect("the disks work");
        Node { id, pages, log, group: None }
    }

    fn open(&mut self, kinds: u16, now: Duration) -> Result<(), OpenError> {
        self.pages = self.pages.fork();
        self.log = self.log.after_kill();
        let config = ServerConfig { entry_kinds: kinds, ..settings(format!("m{}", self.id)) };
        let shared = Arc::new(Shared::new(config, identity(self.id)));
        let storage = Storage {
            page_disk: &mut self.pages.clone(),
            pages: Arc::new(self.pages.clone()),
            log_disk: &mut self.log,
            log_options: group::log_options(&identity(self.id)),
        };
        let founders = Configuration::new(IDS.map(NodeId), []).expect("three voters");
        let mut group = group::open_member(shared, storage, founders, self.id, now)?;
        let bootstrap = Bootstrap { cluster_id: 0xc1, hash_key: [7; 16], members: IDS.map(member).to_vec() };
        let name = format!("m{}", self.id);
        let attributes = Command::MemberAttributes { member_id: self.id, name, client_urls: vec![] };
        group.say_first(Command::Bootstrap(bootstrap), attributes);
        self.group = Some(group);
        Ok(())
    }

    /// Until its disks have nothing to do.
    fn settle(&mut self) -> Result<(), GroupError> {
        let Some(group) = &mut self.group else { return Ok(()) };
        loop {
            group.turn()?;
            let mut moved = false;
            while let Some((token, io)) = group.poll_log_io() {
                self.log.submit(token, io);
                moved = true;
            }
            self.log.flush().map_err(ringstone_wal::WalError::from)?;
            while let Some(completion) = self.log.poll_completion() {
                group.log_completed(completion)?;
                moved = true;
            }
            if let Some(run) = group.absent() {
                let (offset, bytes) = (run.first * PAGE_BYTES as u64, run.pages as usize * PAGE_BYTES);
                let purpose = ringstone_pager::disk::IoPurpose::ReadPage;
                let read = ringstone_pager::disk::Io::Read { offset, bytes, purpose };
                ringstone_pager::disk::run(&mut self.pages, read).expect("the disk works");
                group.brought_in(run)?;
                moved = true;
            }
            if !moved {
                return Ok(());
            }
        }
    }
}

struct Cluster {
    nodes: Vec<Node>,
    now: Duration,
    mail: VecDeque<(NodeId, NodeId, Message)>,
    answers: Vec<Answer>,
    /// What leaders said to forwarded proposals.
    refused: Vec<ForwardError>,
    failed: Vec<(u64, GroupError)>,
    next: u64,
}

impl Cluster {
    fn new(kinds: [u16; 3]) -> Cluster {
        let nodes = IDS.map(Node::new).into();
        let mut cluster = Cluster {
            nodes,
            now: Duration::from_secs(100),
            mail: VecDeque::new(),
            answers: vec![],
            refused: vec![],
            failed: vec![],
            next: 0,
        };
        for (id, kinds) in IDS.into_iter().zip(kinds) {
            cluster.restart(id, kinds).expect("it opens");
        }
        cluster
    }

    fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    fn restart(&mut self, id: u64, kinds: u16) -> Result<(), OpenError> {
        let now = self.now;
        self.node(id).group = None;
        self.node(id).open(kinds, now)
    }

    fn pump(&mut self) {
        loop {
            let mut moved = false;
            let mut forwards = Vec::new();
            for node in &mut self.nodes {
                if let Err(error) = node.settle() {
                    node.group = None;
                    self.failed.push((node.id, error));
                }
                let Some(group) = &mut node.group else { continue };
                let outputs = group.take_outputs();
                self.mail.extend(outputs.send.into_iter().map(|(to, message)| (NodeId(node.id), to, message)));
                forwards.extend(outputs.forward);
                self.answers.extend(outputs.answers.into_iter().filter(|answer| answer.shard == 0));
            }
            let now = self.now;
            for forward in forwards {
                let NodeId(leader) = forward.leader;
                if let Some(group) = &mut self.node(leader).group
                    && let Call::Proposal(payload) = &forward.call
                    && let Err(error) = group.propose_forwarded(now, payload)
                {
                    self.refused.push(error);
                }
                moved = true;
            }
            while let Some((from, to, message)) = self.mail.pop_front() {
                moved = true;
                if let Some(group) = &mut self.node(to.0).group {
                    group.step(now, from, message).expect("raft goes on");
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        let now = self.now;
        for node in &mut self.nodes {
            if let Some(group) = &mut node.group {
                group.tick(now, 0, now.as_millis() as u64 * 31 + node.id * 7);
            }
        }
        self.pump();
    }

    /// Ticks until it is so.
    fn until(&mut self, what: &str, is_so: impl Fn(&Cluster) -> bool) {
        for _ in 0..200 {
            if is_so(self) {
                return;
            }
            self.tick();
        }
        panic!("{what}: not within 20 s");
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.nodes.iter().filter_map(|node| node.group.as_ref())
    }

    fn leader(&self) -> Option<u64> {
        let leads = |node: &&Node| {
            node.group.as_ref().is_some_and(|group| group.raft().role().role == Role::Leader && group.is_ready())
        };
        self.nodes.iter().find(leads).map(|node| node.id)
    }

    /// Puts by the newer kind; the answer, or nothing where there is none within a second.
    fn put(&mut self, by: u64) -> Option<Result<Reply, Error>> {
        self.next += 1;
        let (number, now) = (self.next, self.now);
        let put = Put { key: b"key".to_vec(), value: number.to_string().into_bytes(), ..Put::default() };
        let envelope = Envelope { proposer: by, request_id: number, ..Envelope::default() };
        let draft = Draft::new(&envelope, &Command::NextPut(put));
        assert_eq!(draft.kind(), KIND_NEXT);
        let group = self.node(by).group.as_mut().expect("it runs");
        group.propose(now, vec![Proposal { draft, shard: 0, request_id: number }]);
        self.pump();
        for _ in 0..10 {
            if let Some(at) = self.answers.iter().position(|answer| answer.request_id == number) {
                return Some(self.answers.swap_remove(at).outcome);
            }
            self.tick();
        }
        None
    }

    fn agreed(&self) -> Vec<u16> {
        self.groups().map(Group::kinds_agreed).collect()
    }
}

#[test]
fn a_new_kind_waits_until_all_know_it() {
    let mut cluster = Cluster::new([KIND_NEXT, KIND_NEXT, KIND_MAX]);
    cluster.until("a leader", |cluster| cluster.leader().is_some());
    let until = cluster.now + Duration::from_secs(3);
    cluster.until("three seconds", |cluster| cluster.now >= until);
    let leader = cluster.leader().expect("one leads");
    assert_eq!(cluster.agreed(), [KIND_MAX; 3]);
    // Told at once, by whichever member.
    assert_eq!(cluster.put(leader), Some(Err(Error::NotCapable)));
    let follower = IDS.into_iter().find(|id| *id != leader).expect("two follow");
    assert_eq!(cluster.put(follower), None, "its shard hears from the leader");
    let refused = cluster.refused.pop().expect("the leader says so");
    assert_eq!((refused.told(), cluster.groups().count()), (Error::NotCapable, 3));
    // The last one is upgraded.
    cluster.restart(3, KIND_NEXT).expect("it opens");
    cluster.until("all know it", |cluster| cluster.agreed() == [KIND_NEXT; 3]);
    let leader = cluster.leader().expect("one leads");
    assert!(matches!(cluster.put(leader), Some(Ok(Reply::Store(_)))));
    let follower = IDS.into_iter().find(|id| *id != leader).expect("two follow");
    assert!(matches!(cluster.put(follower), Some(Ok(Reply::Store(_)))), "{:?}", cluster.refused);
    cluster.until("all have it", |cluster| cluster.groups().all(|group| group.state().revision == 3));
    assert!(cluster.failed.is_empty(), "{:?}", cluster.failed);
}

#[test]
fn what_was_agreed_stays_agreed() {
    let mut cluster = Cluster::new([KIND_NEXT; 3]);
    cluster.until("all know it", |cluster| cluster.agreed() == [KIND_NEXT; 3]);
    // Whoever leads next has heard of the third member nothing at all.
    cluster.node(3).group = None;
    for id in [1, 2] {
        cluster.restart(id, KIND_NEXT).expect("it opens");
    }
    cluster.until("a leader", |cluster| cluster.leader().is_some());
    let leader = cluster.leader().expect("one leads");
    assert!(matches!(cluster.put(leader), Some(Ok(Reply::Store(_)))));
    // Back with an older build: its own disk may not know yet, the log of the others says so.
    match cluster.restart(3, KIND_MAX) {
        Err(error) => assert!(matches!(error, OpenError::Kinds { agreed: KIND_NEXT, known: KIND_MAX }), "{error}"),
        Ok(()) => {
            cluster.until("it stops", |cluster| !cluster.failed.is_empty());
            let (id, error) = cluster.failed.pop().expect("one");
            assert_eq!(id, 3);
            assert!(error.to_string().contains("upgrade this member"), "{error}");
        }
    }
    assert!(matches!(cluster.put(leader), Some(Ok(Reply::Store(_)))), "two go on");
    // And with the right one again.
    cluster.restart(3, KIND_NEXT).expect("it opens");
    cluster.until("all have it", |cluster| {
        cluster.groups().count() == 3 && cluster.groups().all(|group| group.state().revision == 3)
    });
}

#[test]
fn a_member_that_is_away_keeps_a_new_kind_out() {
    let mut cluster = Cluster::new([KIND_NEXT; 3]);
    cluster.node(3).group = None;
    cluster.until("a leader", |cluster| cluster.leader().is_some());
    let leader = cluster.leader().expect("one leads");
    let until = cluster.now + Duration::from_secs(10);
    cluster.until("ten seconds", |cluster| cluster.now >= until);
    assert_eq!(cluster.agreed(), [KIND_MAX; 2], "nobody knows what the third one knows");
    assert_eq!(cluster.put(leader), Some(Err(Error::NotCapable)));
    cluster.restart(3, KIND_NEXT).expect("it opens");
    cluster.until("all know it", |cluster| cluster.agreed() == [KIND_NEXT; 3]);
}
