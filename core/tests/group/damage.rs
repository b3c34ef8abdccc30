//! One piece of a member's files is damaged, after the closing block: flipped, overwritten, zeroed, swapped, misplaced, put
//! back, cut off. What opens is the code that ships, on simulated disks.
//!
//! Each trial damages one place of a copy, opens it, and asks for everything: each key by itself, all keys now and at an
//! older revision, all events, HashKV; then puts, a deletion, and a checkpoint. The outcome is one of
//!
//! - harmless or mended: every answer is right to the end;
//! - refused at open, with file, place, cause and remedy;
//! - found: what needs the damaged page is refused with file, offset, cause and remedy, and every answer that is given is
//!   right; a write that needs the page ends the member.
//!
//! An answer that is wrong or misses something fails the test, and so does a message that does not say where.
//! `docs/damage.md` has the table that the whole run prints.
//!
//! Elsewhere: the identity file (`identity::tests`), damage that is forged with good checksums (`wal/tests/damage.rs`,
//! `pager/src/forged_tests.rs`), and the real binary (`tests/damage`). Not checked: two pieces damaged at once.
//!
//! `RINGSTONE_DAMAGE_TRIALS=n` makes n trials; `RINGSTONE_DAMAGE_FIRST=s` begins at another one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::support::disks::{Disks, End, Fuse};
use super::support::history::{Made, created, rounds};
use super::support::journal::{Journal, changes_of};
use super::support::life::{self, Life};
use ringstone_core::command::{Command, DeleteRange, Put};
use ringstone_core::group::GroupError;
use ringstone_core::lease::state as lease;
use ringstone_core::mvcc::hash::HashKv;
use ringstone_pager::api::Damage;
use ringstone_pager::disk::{Crash, Disk as _};
use ringstone_wal::disk::FileName;
use ringstone_wal::disk::sim::{Keep, Random};

const BLOCK: usize = 4096;

/// A member that has come to rest, and what it holds.
struct Base {
    disks: Disks,
    /// The same some time before.
    older: Disks,
    /// Another member's.
    foreign: Disks,
    journal: Journal,
    hash: HashKv,
}

fn base(seed: u64) -> Base {
    let (disks, journal) = (created().after(End::Kill), Journal::new().shared());
    let mut life = life::open(&disks, &Fuse::whole(), &journal, seed).expect("the disks work");
    rounds(&mut life, seed, 60, &mut Made::default()).expect("the disks work");
    let rest = End::Cut(Crash::KeepNone, Keep::Nothing);
    let older = disks.after(rest);
    let put = Put { key: b"key00".to_vec(), value: vec![5; 9], ..Put::default() };
    life.step(&[Command::Put(put)]).expect("the disks work");
    life.checkpoint().expect("the disks work");
    life.group.set_checkpoint_bounds(u64::MAX / 8, u64::MAX / 8);
    // Its leases have other ids.
    journal.borrow_mut().life += 1;
    rounds(&mut life, seed + 1, 6, &mut Made::default()).expect("the disks work");
    life.wait(Duration::from_secs(5)).expect("the disks work");
    life.settle().expect("the disks work");
    life.verify();
    let hash = life.expected_hash();
    let alarms = life.group.state().alarms;
    journal.borrow_mut().reborn(alarms);
    let foreign = created();
    let journal = journal.borrow().clone();
    Base { disks: disks.after(rest), older, foreign, journal, hash }
}

/// A block of one of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Log(FileName, usize),
    Pages(usize),
}

impl Place {
    /// As the table has it.
    fn name(self) -> &'static str {
        match self {
            Place::Log(_, 0) => "log: header of a segment",
            Place::Log(_, 1) => "log: start of a segment",
            Place::Log(..) => "log: batches, closing blocks, unused blocks",
            Place::Pages(0) => "page file: header",
            Place::Pages(1 | 2) => "page file: meta pages",
            Place::Pages(_) => "page file: tree pages, values, free maps, unused pages",
        }
    }
}

fn places(disks: &Disks) -> Vec<Place> {
    let names = disks.log().names();
    let log = names.into_iter().flat_map(|name| {
        let blocks = disks.log().bytes(name).expect("it is there").len() / BLOCK;
        (0..blocks).map(move |block| Place::Log(name, block)).collect::<Vec<_>>()
    });
    let pages = disks.pages.length().expect("it is there") as usize / BLOCK;
    log.chain((0..pages).map(Place::Pages)).collect()
}

fn read(disks: &Disks, place: Place) -> Option<Vec<u8>> {
    match place {
        Place::Log(name, block) => {
            let log = disks.log();
            Some(log.bytes(name)?.get(block * BLOCK..(block + 1) * BLOCK)?.to_vec())
        }
        Place::Pages(page) => {
            let end = (page as u64 + 1) * BLOCK as u64;
            (end <= disks.pages.length().expect("it is there")).then(|| disks.pages.peek(end - BLOCK as u64, BLOCK))
        }
    }
}

fn write(disks: &Disks, place: Place, bytes: &[u8]) {
    match place {
        Place::Log(name, block) => {
            disks.log_mut().tamper(name, |content| content[block * BLOCK..][..BLOCK].copy_from_slice(bytes));
        }
        Place::Pages(page) => disks.pages.poke((page * BLOCK) as u64, bytes),
    }
}

/// What is done to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    BitFlipped,
    BytesOverwritten,
    BlockOverwritten,
    SectorZeroed,
    BlockZeroed,
    Swapped,
    Misplaced,
    PutBack,
    Cut,
    FileOfAnother,
    FileRemoved,
    FilePutBack,
}

const KINDS: [Kind; 12] = [
    Kind::BitFlipped,
    Kind::BytesOverwritten,
    Kind::BlockOverwritten,
    Kind::SectorZeroed,
    Kind::BlockZeroed,
    Kind::Swapped,
    Kind::Misplaced,
    Kind::PutBack,
    Kind::Cut,
    Kind::FileOfAnother,
    Kind::FileRemoved,
    Kind::FilePutBack,
];

/// Bytes that can't be right, or at least are others.
fn noise(random: &mut Random, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| random.below(256) as u8).collect()
}

/// Does it, to a copy. None: it would change nothing, or can't be done to this file alone.
fn damaged(base: &Base, place: Place, kind: Kind, all: &[Place], random: &mut Random) -> Option<Disks> {
    let disks = base.disks.after(End::Cut(Crash::KeepNone, Keep::Nothing));
    let sound = read(&disks, place)?;
    let mut bytes = sound.clone();
    match kind {
        Kind::BitFlipped => bytes[random.below(BLOCK as u64) as usize] ^= 1 << random.below(8),
        Kind::BytesOverwritten => {
            let length = 1 + random.below(64) as usize;
            let from = random.below((BLOCK - length) as u64) as usize;
            bytes[from..from + length].copy_from_slice(&noise(random, length));
        }
        Kind::BlockOverwritten => bytes = noise(random, BLOCK),
        Kind::SectorZeroed => bytes[random.below(8) as usize * 512..][..512].fill(0),
        Kind::BlockZeroed => bytes.fill(0),
        Kind::Swapped => {
            let other = all[random.below(all.len() as u64) as usize];
            bytes = read(&disks, other)?;
            write(&disks, other, &sound);
        }
        Kind::Misplaced => bytes = read(&disks, all[random.below(all.len() as u64) as usize])?,
        Kind::PutBack => bytes = read(&base.older, place)?,
        Kind::Cut | Kind::FileOfAnother | Kind::FileRemoved | Kind::FilePutBack => {
            return damaged_file(base, disks, place, kind, random);
        }
    }
    write(&disks, place, &bytes);
    (bytes != sound).then_some(disks)
}

fn damaged_file(base: &Base, disks: Disks, place: Place, kind: Kind, random: &mut Random) -> Option<Disks> {
    match (kind, place) {
        (Kind::Cut, Place::Log(name, _)) => {
            disks.log_mut().tamper(name, |content| content.truncate(random.below(content.len() as u64) as usize));
        }
        (Kind::Cut, Place::Pages(_)) => {
            disks.pages.truncate(random.below(disks.pages.length().expect("it is there")));
        }
        (Kind::FileOfAnother, Place::Log(name, _)) => {
            let other = base.foreign.log().bytes(FileName::Segment(1)).expect("it is there").to_vec();
            disks.log_mut().tamper(name, |content| *content = other);
        }
        (Kind::FileOfAnother, Place::Pages(_)) => {
            // The same bytes under another identity: the header's.
            let mut header = disks.pages.peek(0, BLOCK);
            header[20] ^= 1;
            disks.pages.poke(0, &header);
        }
        (Kind::FileRemoved, Place::Log(name, _)) => {
            // The last two: what the newest segment held was in no other file, and nothing else tells of it (docs/damage.md).
            let names = disks.log().names();
            if names[names.len().saturating_sub(2)..].contains(&name) {
                return None;
            }
            disks.log_mut().tamper_remove(name);
        }
        (Kind::FilePutBack, Place::Pages(_)) => {
            return Some(Disks::of(base.older.pages.fork(), disks.log().after_kill()));
        }
        // A missing page file is the folder's business; a segment put back is one that another name belongs to.
        _ => return None,
    }
    Some(disks)
}

/// What came of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// All answers are right.
    Right,
    /// At open.
    Refused,
    /// Reads met it: those were refused, others answered.
    Found,
    /// A write met it, or the replay: the member ended.
    Ended,
}

/// What could be done beside the damage.
#[derive(Clone, Copy, Debug, Default)]
struct Beside {
    keys_read: u64,
    keys_refused: u64,
    writes: u64,
}

/// A message says which file, where, what and what to do.
fn is_told(message: &str) {
    let file = message.contains("page file") || message.contains(".wal");
    let place = message.contains("offset") || message.contains("bytes") || message.contains("fit together");
    let place = place || message.contains("belongs") || message.contains("missing") || message.contains("version");
    let remedies =
        ["estore the member", "replace it", "ebuild", "Put the", "Point the member", "Use a newer", "program"];
    let remedy = remedies.iter().any(|remedy| message.contains(remedy)) || message.contains("mount the right one");
    assert!(file && place && remedy, "this does not say enough: {message}");
}

fn told(damage: Damage) -> Outcome {
    is_told(&ringstone_core::error::Error::Damaged(damage).to_string());
    Outcome::Found
}

/// Asks for everything: what is answered is right.
fn reads(life: &Life, base: &Base, beside: &mut Beside) -> Outcome {
    let mut outcome = Outcome::Right;
    let journal = &base.journal;
    for (key, kv) in &journal.keys {
        let end: Vec<u8> = key.iter().copied().chain([0]).collect();
        match life.try_range(key, &end, 0) {
            Ok(found) => {
                assert_eq!(found, std::slice::from_ref(kv), "a key");
                beside.keys_read += 1;
            }
            Err(damage) => {
                beside.keys_refused += 1;
                outcome = told(damage);
            }
        }
    }
    let compacted = journal.compacted().max(1);
    for revision in [0, compacted + (journal.revision - compacted) / 2] {
        match life.try_range(&[0], &[0], revision) {
            Ok(found) if revision == 0 => assert!(found.iter().eq(journal.keys.values()), "all keys"),
            Ok(found) => assert_eq!(found, journal.at(revision), "all keys at {revision}"),
            Err(damage) => outcome = told(damage),
        }
    }
    match life.try_events() {
        Ok((events, state)) => {
            assert_eq!((state.revision, state.compact_revision), (journal.revision, journal.compacted()), "revisions");
            let groups = changes_of(&events);
            let expected = journal.history.range(compacted + 1..);
            assert!(groups.iter().eq(expected.map(|(revision, changes)| (revision, &**changes))), "all events");
        }
        Err(damage) => outcome = told(damage),
    }
    for id in journal.keys.values().map(|kv| kv.lease).filter(|id| *id != 0) {
        match life.try_read(|pin, _| lease::exists(pin, id)) {
            Ok(exists) => assert!(exists, "lease {id}"),
            Err(damage) => outcome = told(damage),
        }
    }
    match life.try_hash() {
        Ok(hash) => assert_eq!(hash, base.hash, "HashKV"),
        Err(damage) => outcome = told(damage),
    }
    outcome
}

/// Writes beside the damage, a checkpoint, and all again. The journal refuses whatever is answered wrongly.
fn writes(life: &mut Life, seed: u64, beside: &mut Beside) -> Result<(), GroupError> {
    let key = |n: u64| format!("key{:02}", (seed + n * 11) % 40).into_bytes();
    for n in 0..4 {
        let put = Put { key: key(n), value: vec![3; 10 + (n * 900) as usize], ..Put::default() };
        life.step(&[Command::Put(put)])?;
        life.settle()?;
        beside.writes += 1;
    }
    let delete = DeleteRange { key: key(5), ..DeleteRange::default() };
    life.step(&[Command::DeleteRange(delete)])?;
    life.settle()?;
    life.checkpoint()
}

fn trial(base: &Base, disks: &Disks, seed: u64, beside: &mut Beside) -> Outcome {
    let journal = base.journal.clone().shared();
    journal.borrow_mut().life += 1;
    let mut life = match life::open(disks, &Fuse::whole(), &journal, seed) {
        // Nothing but header, metas and the page of the members is looked at: what else is damaged is found when it is
        // needed.
        Ok(life) if disks.pages.counts().reads <= 2 => life,
        Ok(_) => panic!("{:?} to open", disks.pages.counts()),
        Err(error) => {
            is_told(&error.to_string());
            return Outcome::Refused;
        }
    };
    let ended = |error: GroupError| {
        is_told(&error.to_string());
        Outcome::Ended
    };
    if let Err(error) = life.until_ready() {
        return ended(error);
    }
    let outcome = reads(&life, base, beside);
    let alarms = life.group.state().alarms;
    journal.borrow().check_alarms(alarms);
    journal.borrow_mut().reborn(alarms);
    if let Err(error) = writes(&mut life, seed, beside) {
        return ended(error);
    }
    reads_again(&life).unwrap_or(outcome)
}

/// All keys at some revisions, once more; a page may be needed for the first time.
fn reads_again(life: &Life) -> Option<Outcome> {
    let journal = life.journal.borrow();
    let low = journal.compacted().max(1);
    let mut outcome = None;
    for revision in [journal.revision, low, low + (journal.revision - low) / 2] {
        match life.try_range(&[0], &[0], revision) {
            Ok(found) => assert_eq!(found, journal.at(revision), "all keys at {revision}"),
            Err(damage) => outcome = Some(told(damage)),
        }
    }
    outcome
}

type Table = BTreeMap<(&'static str, Kind), BTreeMap<Outcome, u64>>;

fn print(table: &Table) {
    println!("| place | kind | right | refused at open | found by reads | found by a write or the replay |");
    println!("|---|---|---|---|---|---|");
    for ((place, kind), outcomes) in table {
        let count = |outcome| outcomes.get(&outcome).copied().unwrap_or(0);
        let counts = [Outcome::Right, Outcome::Refused, Outcome::Found, Outcome::Ended].map(count);
        println!("| {place} | {kind:?} | {} | {} | {} | {} |", counts[0], counts[1], counts[2], counts[3]);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn damage_is_harmless_mended_or_told_and_never_served() {
    let trials = number("RINGSTONE_DAMAGE_TRIALS").unwrap_or(1200);
    let first = number("RINGSTONE_DAMAGE_FIRST").unwrap_or(0);
    let bases: Vec<Base> = (1..=if trials > 10_000 { 8 } else { 2 }).map(base).collect();
    let all: Vec<Vec<Place>> = bases.iter().map(|base| places(&base.disks)).collect();
    let (mut table, mut beside, mut made) = (Table::new(), Beside::default(), 0);
    for seed in first.. {
        let mut random = Random::new(seed);
        let at = random.below(bases.len() as u64) as usize;
        let (base, all) = (&bases[at], &all[at]);
        // Metas, headers and starts are few: each fourth trial is theirs.
        let place = match random.below(4) {
            0 => {
                let few: Vec<Place> = all.iter().copied().filter(|place| is_rare(*place)).collect();
                few[random.below(few.len() as u64) as usize]
            }
            _ => all[random.below(all.len() as u64) as usize],
        };
        // A whole file is one place only.
        let kinds = if random.below(8) == 0 { 12 } else { 8 };
        let kind = KINDS[random.below(kinds) as usize];
        let Some(disks) = damaged(base, place, kind, all, &mut random) else { continue };
        println!("trial {seed}: base {at} {place:?} {kind:?}");
        let outcome = trial(base, &disks, seed, &mut beside);
        *table.entry((place.name(), kind)).or_default().entry(outcome).or_default() += 1;
        made += 1;
        if made == trials {
            break;
        }
    }
    print(&table);
    let of = |wanted| table.values().filter_map(|outcomes| outcomes.get(&wanted)).sum::<u64>();
    let [right, refused, found, ended] = [Outcome::Right, Outcome::Refused, Outcome::Found, Outcome::Ended].map(of);
    println!(
        "{made} trials: {right} right, {refused} refused at open, {found} found by reads, {ended} by a write or the replay; {beside:?}"
    );
    for count in [right, refused, found, ended, beside.keys_refused] {
        assert!(count > trials / 1000, "{right} {refused} {found} {ended} {beside:?}");
    }
    assert!(beside.keys_read > 20 * beside.keys_refused, "other keys are read: {beside:?}");
}

fn is_rare(place: Place) -> bool {
    matches!(place, Place::Log(_, 0 | 1) | Place::Pages(0..=2))
}
