//! Histories of a member: random requests until the storage ends it, and what must be true of the life after that.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ringstone_core::command::{Command, DeleteRange, Op, Put, Txn};
use ringstone_core::group::{GroupError, OpenError};
use ringstone_pager::disk::Disk as _;
use ringstone_wal::WalError;
use ringstone_wal::disk::FileName;
use ringstone_wal::disk::sim::Random;

use super::disks::{Disks, End, Fuse, random};
use super::journal::{Journal, SharedJournal};
use super::life::{self, IDENTITY, Life, open};

/// What ended a life.
#[derive(Debug)]
pub enum Ended {
    /// It never began.
    Open(OpenError),
    Group(GroupError),
}

impl Ended {
    /// What a server ends with status 15 for.
    pub fn is_out_of_space(&self) -> bool {
        let (Ended::Open(OpenError::Log(error)) | Ended::Group(GroupError::Log(error))) = self else { return false };
        matches!(error, WalError::Disk(error) if error.is_out_of_space())
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Open(error) => write!(formatter, "{error}"),
            Ended::Group(error) => write!(formatter, "{error}"),
        }
    }
}

impl From<OpenError> for Ended {
    fn from(error: OpenError) -> Ended {
        Ended::Open(error)
    }
}

impl From<GroupError> for Ended {
    fn from(error: GroupError) -> Ended {
        Ended::Group(error)
    }
}

/// Requests of each kind that were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    pub puts: u64,
    pub large: u64,
    pub deletes: u64,
    pub txns: u64,
    pub compactions: u64,
    pub leases: u64,
    pub alarms: u64,
    pub evictions: u64,
}

fn put(random: &mut Random, lease: i64, made: &mut Made) -> Command {
    let key = if lease == 0 { format!("key{:02}", random.below(40)) } else { format!("lease{:02}", random.below(10)) };
    let bytes = match random.below(12) {
        0 => 1500 + random.below(4500),
        1 => 6000 + random.below(14_000),
        _ => random.below(80),
    };
    made.puts += 1;
    made.large += u64::from(bytes > 4096);
    let value = (0..bytes).map(|_| random.below(256) as u8).collect();
    Command::Put(Put { key: key.into_bytes(), value, lease, ..Put::default() })
}

fn delete(random: &mut Random) -> DeleteRange {
    let from = random.below(40);
    let range_end = if random.below(2) == 0 { vec![] } else { format!("key{:02}", from + 3).into_bytes() };
    DeleteRange { key: format!("key{from:02}").into_bytes(), range_end, prev_kv: false }
}

fn txn(random: &mut Random) -> Command {
    let first = Put { key: b"txn1".to_vec(), value: vec![1; random.below(3000) as usize], ..Put::default() };
    let second = Put { key: b"txn2".to_vec(), value: vec![2], ..Put::default() };
    let success = vec![Op::Put(first), Op::DeleteRange(delete(random)), Op::Put(second)];
    Command::Txn(Txn { success, ..Txn::default() })
}

/// At one of the last revisions, if that is still to be had.
fn compact(random: &mut Random, journal: &Journal) -> Option<Command> {
    let revision = journal.revision - random.below(6) as i64;
    let is_later =
        |command: &Rc<Command>| matches!(&**command, Command::Compact { revision: other } if *other >= revision);
    let is_too_late = revision <= journal.compacted().max(1) || journal.commands.iter().any(is_later);
    (!is_too_late).then_some(Command::Compact { revision })
}

/// Some requests that come together.
fn requests(random: &mut Random, journal: &Journal, fresh_lease: &mut i64, made: &mut Made) -> Vec<Command> {
    match random.below(16) {
        0 | 1 => {
            made.deletes += 1;
            vec![Command::DeleteRange(delete(random))]
        }
        2 | 3 => {
            made.txns += 1;
            vec![txn(random)]
        }
        4 | 5 => {
            let command = compact(random, journal);
            made.compactions += u64::from(command.is_some());
            command.into_iter().collect()
        }
        6 | 7 => {
            *fresh_lease += 1;
            made.leases += 1;
            let grant = Command::LeaseGrant { id: *fresh_lease, ttl_s: 1 + random.below(2) as i64 };
            vec![grant, put(random, *fresh_lease, made), put(random, *fresh_lease, made)]
        }
        8 => {
            made.alarms += 1;
            let activate = random.below(2) == 0;
            vec![Command::Alarm { activate, member_id: IDENTITY.member_id, alarm: 1 }]
        }
        9 | 10 => {
            made.large += 4;
            let keys = (0..4).map(|_| format!("big{:03}", random.below(200)).into_bytes());
            keys.map(|key| Command::Put(Put { key, value: vec![7; 20_000], ..Put::default() })).collect()
        }
        _ => (0..1 + random.below(6)).map(|_| put(random, 0, made)).collect(),
    }
}

/// `count` times some requests, and some of what else happens to a member; then until all is answered.
pub fn rounds(life: &mut Life, seed: u64, count: u64, made: &mut Made) -> Result<(), GroupError> {
    let mut random = random(seed);
    let mut fresh_lease = 100 * i64::from(life.journal.borrow().life);
    life.until_ready()?;
    for _ in 0..count {
        let commands = requests(&mut random, &life.journal.borrow(), &mut fresh_lease, made);
        life.step(&commands)?;
        match random.below(8) {
            0 => life.settle()?,
            1 => life.wait(Duration::from_millis(700))?,
            2 => {
                made.evictions += 1;
                life.evict();
            }
            steps => {
                for _ in 3..steps {
                    life.step(&[])?;
                }
            }
        }
    }
    life.settle()
}

/// The disks of a member that was just made.
pub fn created() -> Disks {
    let disks = Disks::new();
    life::create(&disks, &Fuse::whole()).expect("the disks work");
    disks
}

/// What a history has passed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    pub ios: u64,
    pub requests: u64,
    pub made: Made,
    /// Two a checkpoint.
    pub page_syncs: u64,
    /// Free maps, and pages that were absent.
    pub page_reads: u64,
    pub growths: u64,
    pub segments: u64,
    pub recycled: bool,
    pub compacted: i64,
    pub expired: u64,
}

pub struct First {
    pub disks: Disks,
    pub journal: SharedJournal,
    pub passed: Passed,
    pub ended: Result<(), Ended>,
}

/// Runs a history on a new member's disks, until its end or until the storage ends it.
pub fn first_life(disks: Disks, journal: &SharedJournal, fuse: &Fuse, seed: u64, count: u64) -> First {
    let mut passed = Passed::default();
    let before = disks.pages.counts();
    let ended = match open(&disks, fuse, journal, seed) {
        Ok(mut life) => rounds(&mut life, seed, count, &mut passed.made).map_err(Ended::from),
        Err(error) => Err(error.into()),
    };
    let counts = disks.pages.counts();
    passed.ios = fuse.spent();
    passed.requests = fuse.asked();
    passed.page_syncs = counts.syncs - before.syncs;
    passed.page_reads = counts.reads - before.reads;
    passed.growths = counts.set_lengths - before.set_lengths;
    let generation = |name: FileName| match name {
        FileName::Segment(generation) | FileName::Preparing(generation) => generation,
    };
    let generations: Vec<u64> = disks.log().names().into_iter().map(generation).collect();
    passed.segments = generations.iter().copied().max().unwrap_or(0);
    passed.recycled = passed.segments > generations.len() as u64;
    (passed.compacted, passed.expired) = (journal.borrow().compacted(), journal.borrow().expired);
    assert!(disks.pages.length().is_ok(), "the disk is there");
    First { disks, journal: journal.clone(), passed, ended }
}

/// Opens what is left and drives it until ready; then more requests, a checkpoint, and all checks.
pub fn recover(disks: &Disks, fuse: &Fuse, journal: &SharedJournal, seed: u64, more: u64) -> Result<(), Ended> {
    let mut life = reopen(disks, fuse, journal, seed)?;
    rounds(&mut life, seed ^ 0xABCD, more, &mut Made::default())?;
    checkpoint_and_check(&mut life)?;
    Ok(())
}

/// Opens what is left, drives it until ready, and holds it against what was acknowledged.
pub fn reopen(disks: &Disks, fuse: &Fuse, journal: &SharedJournal, seed: u64) -> Result<Life, Ended> {
    let life = journal.borrow().life + 1;
    (journal.borrow_mut().life, journal.borrow_mut().is_open) = (life, false);
    let mut life = open(disks, fuse, journal, seed)?;
    life.until_ready()?;
    life.verify();
    let alarms = life.group.state().alarms;
    journal.borrow_mut().reborn(alarms);
    Ok(life)
}

/// All that can be checked of a life that goes on.
pub fn checkpoint_and_check(life: &mut Life) -> Result<(), GroupError> {
    life.checkpoint()?;
    life.verify();
    life.verify_hash();
    life.check_file();
    Ok(())
}

/// A moment of a life, and what an end at that moment leaves.
pub struct Moment {
    pub at: u64,
    pub way: u64,
    pub disks: Disks,
    pub journal: Journal,
}

/// [`recover`] on disks that work, which must succeed; and `count` moments of it, any one as likely as any other.
pub fn recover_and_pick(disks: &Disks, journal: &Journal, seed: u64, more: u64, count: usize) -> Vec<Moment> {
    let picked: Rc<RefCell<Vec<Moment>>> = Rc::default();
    let journal = journal.clone().shared();
    let (watched_disks, watched_journal, watched_picked) = (disks.clone(), journal.clone(), Rc::clone(&picked));
    let mut chance = random(seed);
    let fuse = Fuse::watched(move |at, _| {
        let mut picked = watched_picked.borrow_mut();
        // Reservoir sampling: how many there will be is not known.
        let place = if picked.len() < count { picked.len() } else { chance.below(at + 1) as usize };
        if place < count {
            let way = chance.below(End::WAYS);
            let disks = watched_disks.after(End::of(way, at));
            let moment = Moment { at, way, disks, journal: watched_journal.borrow().clone() };
            if place < picked.len() { picked[place] = moment } else { picked.push(moment) }
        }
    });
    if let Err(error) = recover(disks, &fuse, &journal, seed, more) {
        panic!("the disks work, and the member does not: {error}");
    }
    drop(fuse);
    Rc::into_inner(picked).expect("the watch is gone").into_inner()
}
