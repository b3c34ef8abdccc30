//! The ways in which a member writes, each by itself: where it begins, what is done, and which I/Os belong to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ringstone_core::command::{Command, DeleteRange, Op, Put, Txn};
use ringstone_core::group::GroupError;
use ringstone_pager::disk::{Crash, IoPurpose};
use ringstone_wal::disk::sim::Keep;
use ringstone_wal::disk::{FileName, Purpose};

use super::disks::{Disks, End, Fuse, Trouble, What};
use super::history::{Made, created, reopen, rounds};
use super::journal::{Journal, SharedJournal};
use super::life::{self, IDENTITY, Life, open};
use super::snapshot::image_of;

/// Where a path is walked, and what looks on.
pub struct Stage {
    pub disks: Disks,
    pub journal: SharedJournal,
    pub fuse: Fuse,
    /// The I/Os from now on are those of the path.
    pub is_on: Rc<Cell<bool>>,
    /// Whether what is there was ever said to be a member.
    pub is_member: Rc<Cell<bool>>,
}

type Walked = Result<(), GroupError>;

pub struct Path {
    pub name: &'static str,
    /// Disks and journal at its beginning.
    pub start: fn() -> (Disks, Journal),
    pub walk: fn(&Stage) -> Walked,
    /// I/Os that it must pass.
    pub passes: &'static [What],
}

const fn log(purpose: Purpose) -> What {
    What::Log(purpose)
}

const fn pages(purpose: IoPurpose) -> What {
    What::Pages(purpose)
}

/// All but those of folders (`identity`), of restores (`paths`) and of cut tails (`truncate`). Whoever adds a
/// write to log or page file (say, one that cuts the page file shorter) gives it a purpose, and its way a place here: the
/// test does not pass before.
pub const PATHS: &[Path] = &[
    Path {
        name: "the files of a new member",
        start: nothing,
        walk: new_member,
        passes: &[
            pages(IoPurpose::CreateLength),
            pages(IoPurpose::CreateHeader),
            pages(IoPurpose::CreateMap),
            pages(IoPurpose::CreateSync),
            pages(IoPurpose::CreateMeta),
            pages(IoPurpose::CreateMetaSync),
            log(Purpose::NextCreate),
            log(Purpose::SegmentStart),
        ],
    },
    Path { name: "first start", start: made, walk: first_start, passes: &[log(Purpose::Batch)] },
    Path { name: "append of one record", start: made, walk: append, passes: &[log(Purpose::Batch)] },
    Path { name: "batch of several blocks", start: made, walk: blocks, passes: &[log(Purpose::Batch)] },
    Path { name: "transaction", start: made, walk: transaction, passes: &[log(Purpose::Batch)] },
    Path { name: "closing block after quiet", start: made, walk: closing, passes: &[log(Purpose::Closing)] },
    Path {
        name: "clean stop",
        start: made,
        walk: clean_stop,
        passes: &[log(Purpose::Closing), pages(IoPurpose::MetaSync)],
    },
    Path {
        name: "batch over a segment's end, next segment prepared",
        start: made,
        walk: segment_end,
        passes: &[
            log(Purpose::SegmentStart),
            log(Purpose::NextCreate),
            log(Purpose::NextFill),
            log(Purpose::NextFillSync),
            log(Purpose::NextHeader),
            log(Purpose::NextPublish),
            log(Purpose::NextPublishSync),
        ],
    },
    Path {
        name: "released segment taken for the next one",
        start: made,
        walk: recycle,
        passes: &[log(Purpose::NextTake), log(Purpose::NextTakeSync), log(Purpose::NextHeader)],
    },
    Path {
        name: "released segments removed",
        start: made,
        walk: release,
        passes: &[log(Purpose::Drop), log(Purpose::DropSync)],
    },
    Path {
        name: "no space for the next segment",
        start: made,
        walk: no_segment,
        passes: &[log(Purpose::Discard), log(Purpose::DiscardSync)],
    },
    Path {
        name: "hard state carried into the next segment",
        start: made,
        walk: carry,
        passes: &[log(Purpose::SegmentStart)],
    },
    Path {
        name: "checkpoint",
        start: made,
        walk: checkpoint,
        passes: &[pages(IoPurpose::Nodes), pages(IoPurpose::NodesSync), pages(IoPurpose::Meta)],
    },
    Path {
        name: "both metas in turn",
        start: made,
        walk: metas,
        passes: &[pages(IoPurpose::Meta), pages(IoPurpose::MetaSync)],
    },
    Path {
        name: "free map of a region read and written",
        start: made,
        walk: region,
        passes: &[pages(IoPurpose::ReadMap), pages(IoPurpose::Map)],
    },
    Path { name: "file growth", start: made, walk: growth, passes: &[pages(IoPurpose::Growth)] },
    Path {
        name: "no space for a checkpoint, and then again",
        start: made,
        walk: no_growth,
        passes: &[pages(IoPurpose::Growth), pages(IoPurpose::MetaSync)],
    },
    Path { name: "large value", start: made, walk: large, passes: &[pages(IoPurpose::Nodes)] },
    Path { name: "large value replaced and deleted", start: made, walk: large_gone, passes: &[pages(IoPurpose::Map)] },
    Path { name: "checkpoint while puts go on", start: made, walk: busy, passes: &[pages(IoPurpose::MetaSync)] },
    Path {
        name: "checkpoint of changed leaves whose pages have left memory",
        start: made,
        walk: below_changes,
        passes: &[pages(IoPurpose::ReadBase), pages(IoPurpose::MetaSync)],
    },
    Path { name: "deletion of a range", start: made, walk: delete, passes: &[log(Purpose::Batch)] },
    Path {
        name: "removal of many keys in several batches",
        start: made,
        walk: removal,
        passes: &[log(Purpose::Batch), pages(IoPurpose::Nodes)],
    },
    Path {
        name: "removal of more than memory should hold: leaves written before their state is published",
        start: made,
        walk: spill,
        passes: &[pages(IoPurpose::Spill), pages(IoPurpose::MetaSync)],
    },
    Path {
        name: "the end of the file is emptied and cut off",
        start: made,
        walk: shrink,
        passes: &[pages(IoPurpose::Cut), pages(IoPurpose::MetaSync)],
    },
    Path {
        name: "a look at a region's free map after a start",
        start: made,
        walk: look,
        passes: &[pages(IoPurpose::LookMap)],
    },
    Path { name: "compaction and its sweep", start: made, walk: compaction, passes: &[pages(IoPurpose::Nodes)] },
    Path { name: "lease granted, with keys", start: made, walk: lease_granted, passes: &[log(Purpose::Batch)] },
    Path { name: "lease kept alive", start: made, walk: lease_kept, passes: &[log(Purpose::Batch)] },
    Path { name: "lease ends", start: made, walk: lease_ends, passes: &[log(Purpose::Batch)] },
    Path { name: "lease of many keys revoked", start: made, walk: lease_revoked, passes: &[log(Purpose::Batch)] },
    Path { name: "alarm raised", start: made, walk: alarm_raised, passes: &[log(Purpose::Batch)] },
    Path { name: "alarm cleared", start: made, walk: alarm_cleared, passes: &[log(Purpose::Batch)] },
    Path {
        name: "quota: alarm, compaction, deletion, no alarm",
        start: made,
        walk: quota,
        passes: &[log(Purpose::Batch)],
    },
    Path { name: "snapshot while puts go on", start: made, walk: snapshot, passes: &[pages(IoPurpose::Nodes)] },
    Path {
        name: "absent pages, and the next checkpoint",
        start: made,
        walk: absent,
        passes: &[pages(IoPurpose::ReadPage)],
    },
    Path {
        name: "open after a kill: replay",
        start: killed,
        walk: restart,
        passes: &[
            pages(IoPurpose::OpenHead),
            pages(IoPurpose::OpenMeta),
            pages(IoPurpose::OpenMetaSync),
            log(Purpose::ReplaySync),
            log(Purpose::ReplaySyncDirectory),
            log(Purpose::RecoveryClosing),
        ],
    },
    Path {
        name: "open: torn tail cleared",
        start: torn,
        walk: restart,
        passes: &[log(Purpose::TornTailClear), log(Purpose::TornTailClearSync)],
    },
    Path {
        name: "open: unfinished segment removed",
        start: unfinished,
        walk: restart,
        passes: &[log(Purpose::UnfinishedRemove), log(Purpose::UnfinishedRemoveSync)],
    },
    Path {
        name: "open: torn start of a segment cleared",
        start: torn_start,
        walk: restart,
        passes: &[log(Purpose::UnstartedClear), log(Purpose::UnstartedClearSync)],
    },
    Path {
        name: "open with segments of another size",
        start: other_size,
        walk: restart,
        passes: &[log(Purpose::UnstartedRemove), log(Purpose::UnstartedRemoveSync)],
    },
];

fn nothing() -> (Disks, Journal) {
    (Disks::new(), Journal::new())
}

fn made() -> (Disks, Journal) {
    (created().after(End::Kill), Journal::new())
}

/// A member of some history, at the first moment when this is under way, after an end.
fn at(what: What, seed: u64, end: End) -> (Disks, Journal) {
    at_first(what, seed, end, |_| true)
}

/// The same, at the first of these moments that has left the right thing.
fn at_first(what: What, seed: u64, end: End, is_right: fn(&Disks) -> bool) -> (Disks, Journal) {
    let (disks, journal) = (created().after(End::Kill), Journal::new().shared());
    let found: Rc<RefCell<Option<(Disks, Journal)>>> = Rc::default();
    let (watched_disks, watched_journal, watched_found) = (disks.clone(), journal.clone(), Rc::clone(&found));
    let fuse = Fuse::watched(move |_, under_way| {
        let found = &mut *watched_found.borrow_mut();
        if found.is_none() && watched_journal.borrow().revision > 4 && under_way.contains(&what) {
            let after = watched_disks.after(end);
            *found = is_right(&after).then(|| (after, watched_journal.borrow().clone()));
        }
    });
    let mut life = open(&disks, &fuse, &journal, seed).expect("the disks work");
    rounds(&mut life, seed, 40, &mut Made::default()).expect("the disks work");
    let found = found.borrow_mut().take();
    found.unwrap_or_else(|| panic!("{what} never left what is wanted"))
}

fn killed() -> (Disks, Journal) {
    at(log(Purpose::Batch), 3, End::Kill)
}

/// Whether opening this passes that.
fn opens_with(disks: &Disks, what: What) -> bool {
    let passed = Rc::new(Cell::new(false));
    let noted = Rc::clone(&passed);
    let fuse = Fuse::watched(move |_, under_way| noted.set(noted.get() || under_way.contains(&what)));
    open(&disks.after(End::Kill), &fuse, &Journal::blind().shared(), 1).expect("it opens");
    passed.get()
}

fn torn() -> (Disks, Journal) {
    let end = End::Cut(Crash::KeepNone, Keep::Torn(1));
    at_first(log(Purpose::Batch), 4, end, |disks| opens_with(disks, log(Purpose::TornTailClear)))
}

fn unfinished() -> (Disks, Journal) {
    at(log(Purpose::NextFill), 5, End::Cut(Crash::KeepAll, Keep::All))
}

/// What a sole voter carries fits the first sector of a start, which then can't be torn: here a sector of a longer one, with
/// the configuration of many members, is all that was written of it.
fn torn_start() -> (Disks, Journal) {
    let (disks, journal) = at(log(Purpose::SegmentStart), 6, End::Cut(Crash::KeepAll, Keep::First(0)));
    let next = *disks.log().names().last().expect("the next segment has its name");
    disks.log_mut().tamper(next, |content| content[4096 + 1024..][..512].fill(0xAA));
    assert!(opens_with(&disks, log(Purpose::UnstartedClear)));
    (disks, journal)
}

fn other_size() -> (Disks, Journal) {
    let (disks, journal) = at(log(Purpose::SegmentStart), 6, End::Cut(Crash::KeepAll, Keep::First(0)));
    disks.set_segment_bytes(96 << 10);
    (disks, journal)
}

impl Stage {
    fn begin(&self) {
        self.is_on.set(true);
    }

    /// A member that holds something of everything, at rest.
    fn member(&self) -> Result<Life, GroupError> {
        let mut life = open(&self.disks, &self.fuse, &self.journal, 1).expect("the disks work");
        rounds(&mut life, 1, 10, &mut Made::default())?;
        life.checkpoint()?;
        Ok(life)
    }

    /// One whose next checkpoint needs more than the file has: 256 pages.
    fn filled(&self) -> Result<Life, GroupError> {
        let mut life = open(&self.disks, &self.fuse, &self.journal, 1).expect("the disks work");
        life.until_ready()?;
        for n in 0..20 {
            together(&mut life, &[put(&format!("grow{n:02}"), 40_000)])?;
        }
        life.checkpoint()?;
        hold_the_log(&mut life);
        for n in 0..5 {
            together(&mut life, &[put(&format!("more{n}"), 40_000)])?;
        }
        Ok(life)
    }

    /// One whose path begins now.
    fn begun(&self) -> Result<Life, GroupError> {
        let life = self.member()?;
        self.begin();
        Ok(life)
    }
}

fn put(key: &str, bytes: usize) -> Command {
    Command::Put(Put { key: key.into(), value: vec![key.len() as u8; bytes], ..Put::default() })
}

fn delete_range(key: &str, range_end: &str) -> Command {
    let prev_kv = false;
    Command::DeleteRange(DeleteRange { key: key.into(), range_end: range_end.into(), prev_kv })
}

/// Each by itself, until it is answered.
fn each(life: &mut Life, commands: impl IntoIterator<Item = Command>) -> Walked {
    for command in commands {
        life.step(&[command])?;
        life.settle()?;
    }
    Ok(())
}

fn together(life: &mut Life, commands: &[Command]) -> Walked {
    life.step(commands)?;
    life.settle()
}

fn new_member(stage: &Stage) -> Walked {
    stage.is_member.set(false);
    stage.begin();
    life::create(&stage.disks, &stage.fuse).expect("the disks work");
    stage.is_member.set(true);
    Ok(())
}

fn first_start(stage: &Stage) -> Walked {
    stage.begin();
    let mut life = open(&stage.disks, &stage.fuse, &stage.journal, 1).expect("the disks work");
    life.until_ready()?;
    each(&mut life, [put("first", 3)])
}

fn append(stage: &Stage) -> Walked {
    let mut life = stage.begun()?;
    each(&mut life, [put("one", 10), put("two", 10)])
}

fn blocks(stage: &Stage) -> Walked {
    let mut life = stage.begun()?;
    together(&mut life, &[put("a", 5000), put("b", 5000), put("c", 9000)])
}

fn transaction(stage: &Stage) -> Walked {
    let mut life = stage.begun()?;
    let puts = ["txn1", "txn2", "txn3"].map(|key| match put(key, 900) {
        Command::Put(put) => Op::Put(put),
        _ => unreachable!("a put"),
    });
    together(&mut life, &[Command::Txn(Txn { success: puts.to_vec(), ..Txn::default() }), put("after", 1)])
}

fn closing(stage: &Stage) -> Walked {
    let mut life = stage.begun()?;
    together(&mut life, &[put("one", 10)])?;
    life.wait(Duration::from_millis(200))
}

fn clean_stop(stage: &Stage) -> Walked {
    let mut life = stage.begun()?;
    together(&mut life, &[put("one", 10)])?;
    life.stop()
}

fn hold_the_log(life: &mut Life) {
    life.group.set_checkpoint_bounds(u64::MAX / 8, u64::MAX / 8);
}

fn segment_end(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    hold_the_log(&mut life);
    stage.begin();
    for n in 0..6 {
        together(&mut life, &[put(&format!("k{n}"), 9000), put(&format!("m{n}"), 9000)])?;
    }
    Ok(())
}

fn recycle(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    for n in 0..8 {
        together(&mut life, &[put(&format!("k{n}"), 9000), put(&format!("m{n}"), 9000)])?;
    }
    stage.begin();
    for n in 0..2 {
        life.checkpoint()?;
        together(&mut life, &[put(&format!("k{n}"), 9000), put(&format!("m{n}"), 12_000)])?;
    }
    for n in 0..3 {
        together(&mut life, &[put(&format!("k{n}"), 9000), put(&format!("m{n}"), 9000)])?;
    }
    Ok(())
}

fn release(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    hold_the_log(&mut life);
    for n in 0..16 {
        together(&mut life, &[put(&format!("k{}", n % 4), 12_000), put("m", 9000)])?;
    }
    life.checkpoint()?;
    stage.begin();
    together(&mut life, &[put("one", 10)])?;
    life.checkpoint()?;
    together(&mut life, &[put("two", 10)])
}

fn no_segment(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    hold_the_log(&mut life);
    stage.begin();
    stage.fuse.trouble(1, 1, Trouble::Full);
    for n in 0..5 {
        together(&mut life, &[put(&format!("k{n}"), 9000), put(&format!("m{n}"), 9000)])?;
    }
    stage.fuse.relieve();
    life.wait(Duration::from_millis(1200))?;
    life.settle()
}

fn carry(stage: &Stage) -> Walked {
    // The first life's term is in its segment; the next one's is carried over the end of it.
    drop(stage.member()?);
    let mut life = reopen(&stage.disks, &stage.fuse, &stage.journal, 2).expect("the disks work");
    hold_the_log(&mut life);
    stage.begin();
    for n in 0..5 {
        together(&mut life, &[put(&format!("k{n}"), 9000), put(&format!("m{n}"), 9000)])?;
    }
    Ok(())
}

fn checkpoint(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    let puts: Vec<Command> = (0..30).map(|n| put(&format!("key{n:02}"), 60)).collect();
    together(&mut life, &puts)?;
    stage.begin();
    life.checkpoint()
}

fn metas(stage: &Stage) -> Walked {
    let mut life = stage.begun()?;
    for n in 0..3 {
        together(&mut life, &[put(&format!("meta{n}"), 10)])?;
        life.checkpoint()?;
    }
    Ok(())
}

fn region(stage: &Stage) -> Walked {
    drop(stage.member()?);
    let mut life = reopen(&stage.disks, &stage.fuse, &stage.journal, 2).expect("the disks work");
    stage.begin();
    together(&mut life, &[delete_range("key", "l"), put("key", 6000)])?;
    life.checkpoint()
}

fn growth(stage: &Stage) -> Walked {
    let mut life = stage.filled()?;
    stage.begin();
    life.checkpoint()
}

fn no_growth(stage: &Stage) -> Walked {
    let mut life = stage.filled()?;
    // Space for the log is there.
    stage.begin();
    stage.fuse.trouble(0, 1, Trouble::Full);
    life.group.maybe_checkpoint(true)?;
    life.settle()?;
    stage.fuse.relieve();
    life.wait(Duration::from_millis(1100))?;
    life.checkpoint()
}

fn large(stage: &Stage) -> Walked {
    let mut life = stage.begun()?;
    each(&mut life, [put("large", 20_000), put("larger", 30_000)])?;
    life.checkpoint()
}

fn large_gone(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    each(&mut life, [put("large", 20_000), put("larger", 30_000)])?;
    life.checkpoint()?;
    stage.begin();
    each(&mut life, [put("large", 5000), delete_range("larger", "")])?;
    life.checkpoint()?;
    let revision = life.journal.borrow().revision;
    each(&mut life, [Command::Compact { revision }])?;
    life.checkpoint()
}

fn busy(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    let puts: Vec<Command> = (0..30).map(|n| put(&format!("key{n:02}"), 500)).collect();
    together(&mut life, &puts)?;
    stage.begin();
    life.group.maybe_checkpoint(true)?;
    for n in 0..20 {
        life.step(&[put(&format!("key{:02}", n * 7 % 40), 300)])?;
    }
    life.settle()
}

fn below_changes(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    let puts: Vec<Command> = (0..60).map(|n| put(&format!("key{n:02}"), 200)).collect();
    together(&mut life, &puts)?;
    for n in 0..20 {
        // Frames become pages with the publishes behind the checkpoint.
        if n % 10 == 0 {
            life.checkpoint()?;
        }
        life.step(&[put("other", n)])?;
    }
    together(&mut life, &[put("key11", 210), put("key44", 190)])?;
    stage.begin();
    stage.disks.pages.evict_all();
    life.checkpoint()
}

fn delete(stage: &Stage) -> Walked {
    let mut life = stage.begun()?;
    together(&mut life, &[delete_range("key0", "key2"), put("key05", 5)])?;
    life.checkpoint()
}

/// So many keys, in transactions.
fn bulk(life: &mut Life, keys: usize, lease: i64) -> Walked {
    let keys: Vec<usize> = (0..keys).collect();
    for some in keys.chunks(100) {
        let put =
            |n: &usize| Op::Put(Put { key: format!("bulk{n:04}").into(), value: vec![1; 4], lease, ..Put::default() });
        together(life, &[Command::Txn(Txn { success: some.iter().map(put).collect(), ..Txn::default() })])?;
    }
    life.checkpoint()
}

fn removal(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    bulk(&mut life, 1300, 0)?;
    life.evict();
    stage.begin();
    together(&mut life, &[delete_range("bulk", "c"), put("bulk0001", 5)])?;
    life.checkpoint()
}

fn spill(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    bulk(&mut life, 1700, 0)?;
    // Between the batches, of which each makes more.
    life.group.set_checkpoint_bounds(16 << 10, u64::MAX / 8);
    stage.begin();
    together(&mut life, &[delete_range("bulk", "c"), put("bulk0001", 5)])?;
    life.checkpoint()
}

fn shrink(stage: &Stage) -> Walked {
    let mut life = stage.filled()?;
    for n in 0..30 {
        together(&mut life, &[put(&format!("most{n:02}"), 40_000)])?;
    }
    life.checkpoint()?;
    together(&mut life, &[put("zz", 3000), delete_range("grow", "n")])?;
    let revision = life.journal.borrow().revision;
    each(&mut life, [Command::Compact { revision }])?;
    life.group.set_shrink_least(256 << 10);
    let before = stage.disks.pages.counts().cuts;
    stage.begin();
    for _ in 0..40 {
        life.wait(Duration::from_millis(500))?;
        life.settle()?;
        if stage.disks.pages.counts().cuts > before {
            break;
        }
    }
    together(&mut life, &[put("after", 9000)])?;
    life.checkpoint()
}

fn look(stage: &Stage) -> Walked {
    drop(stage.member()?);
    let mut life = reopen(&stage.disks, &stage.fuse, &stage.journal, 2).expect("the disks work");
    life.group.set_shrink_least(256 << 10);
    stage.begin();
    life.wait(Duration::from_secs(2))?;
    life.settle()
}

fn compaction(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    for n in 0..40 {
        together(&mut life, &[put(&format!("key{:02}", n % 10), 50), delete_range("key03", "")])?;
    }
    life.checkpoint()?;
    let revision = life.journal.borrow().revision;
    stage.begin();
    each(&mut life, [Command::Compact { revision }, put("key01", 1)])?;
    life.checkpoint()
}

fn lease_granted(stage: &Stage) -> Walked {
    let mut life = stage.begun()?;
    let with_lease = |key: &str| Command::Put(Put { key: key.into(), value: vec![1; 9], lease: 900, ..Put::default() });
    together(&mut life, &[Command::LeaseGrant { id: 900, ttl_s: 100 }, with_lease("l1"), with_lease("l2")])?;
    life.checkpoint()
}

fn lease_kept(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    let with_lease = Command::Put(Put { key: b"l1".to_vec(), value: vec![1; 9], lease: 900, ..Put::default() });
    together(&mut life, &[Command::LeaseGrant { id: 900, ttl_s: 100 }, with_lease])?;
    stage.begin();
    for _ in 0..3 {
        life.keep_alive(900)?;
        life.wait(Duration::from_millis(1500))?;
        life.settle()?;
    }
    assert_eq!(stage.journal.borrow().kept_alive, 3);
    Ok(())
}

fn lease_ends(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    life.wait(Duration::from_secs(6))?;
    life.settle()?;
    let with_lease = |key: &str| Command::Put(Put { key: key.into(), value: vec![1; 9], lease: 900, ..Put::default() });
    together(&mut life, &[Command::LeaseGrant { id: 900, ttl_s: 2 }, with_lease("l1"), with_lease("l2")])?;
    let expired = stage.journal.borrow().expired;
    stage.begin();
    life.wait(Duration::from_secs(6))?;
    life.settle()?;
    assert!(stage.journal.borrow().expired > expired, "it ended");
    Ok(())
}

fn lease_revoked(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    together(&mut life, &[Command::LeaseGrant { id: 900, ttl_s: 1000 }])?;
    bulk(&mut life, 700, 900)?;
    stage.begin();
    together(&mut life, &[Command::LeaseRevoke { id: 900, expired_renewal: None }, put("after", 5)])?;
    life.checkpoint()
}

fn alarm(activate: bool) -> Command {
    Command::Alarm { activate, member_id: IDENTITY.member_id, alarm: 1 }
}

fn alarm_raised(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    together(&mut life, &[alarm(false)])?;
    stage.begin();
    together(&mut life, &[alarm(true)])?;
    life.checkpoint()
}

fn alarm_cleared(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    together(&mut life, &[alarm(true)])?;
    stage.begin();
    together(&mut life, &[alarm(false)])?;
    life.checkpoint()
}

fn quota(stage: &Stage) -> Walked {
    let mut life = stage.begun()?;
    together(&mut life, &[alarm(true)])?;
    let revision = life.journal.borrow().revision;
    each(&mut life, [Command::Compact { revision }, delete_range("key", "l"), alarm(false), put("key00", 3)])
}

fn snapshot(stage: &Stage) -> Walked {
    let mut life = stage.member()?;
    let puts: Vec<Command> = (0..30).map(|n| put(&format!("key{n:02}"), 500)).collect();
    together(&mut life, &puts)?;
    stage.begin();
    life.group.maybe_checkpoint(true)?;
    life.step(&[put("key01", 30)])?;
    let image = image_of(&life);
    assert!(image.len() > 10_000, "{}", image.len());
    life.step(&[put("key02", 30)])?;
    life.settle()
}

fn absent(stage: &Stage) -> Walked {
    drop(stage.member()?);
    let mut life = reopen(&stage.disks, &stage.fuse, &stage.journal, 2).expect("the disks work");
    stage.disks.pages.evict_all();
    stage.begin();
    together(&mut life, &[put("key01", 5), delete_range("key1", "key2"), put("zzz", 6)])?;
    life.checkpoint()
}

fn restart(stage: &Stage) -> Walked {
    let preparing = |name: &FileName| matches!(name, FileName::Preparing(_));
    println!("unfinished segments: {}", stage.disks.log().names().iter().filter(|name| preparing(name)).count());
    stage.begin();
    let mut life = reopen(&stage.disks, &stage.fuse, &stage.journal, 3).expect("it opens");
    each(&mut life, [put("after", 10)])
}
