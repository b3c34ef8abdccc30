//! The freelist against naive sets of pages, over checkpoints, pins, crashes and openings.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::page_bits::PageBits;

const FILE: FileId = FileId([3; 16]);

/// A file that keeps what checkpoints wrote: {maps, metas}.
#[derive(Clone, Default)]
struct Disk {
    maps: BTreeMap<u64, Vec<u8>>,
    /// Generation, space, pages in use. The last is the newer.
    metas: Vec<(u64, Space, BTreeSet<u64>)>,
}

impl Disk {
    fn write(&mut self, writes: &[(u64, Buffer)]) {
        for (page, bytes) in writes {
            self.maps.insert(*page, bytes.to_vec());
        }
    }

    fn meta(&mut self, generation: u64, space: Space, used: BTreeSet<u64>) {
        self.metas.push((generation, space, used));
        if self.metas.len() > 2 {
            self.metas.remove(0);
        }
    }

    fn read(&self, region: u64) -> Vec<u8> {
        let blank = vec![0; PAGE_BYTES];
        (0..2).flat_map(|slot| self.maps.get(&map_page(region, slot)).unwrap_or(&blank).clone()).collect()
    }

    fn open(&self) -> Freelist {
        let meta = |index: usize| (self.metas[index].0, self.metas[index].1.clone());
        let newer = self.metas.len() - 1;
        Freelist::open(FILE, meta(newer), newer.checked_sub(1).map(meta))
    }
}

/// All maps of the checkpoint, a few at a time.
fn maps(freelist: &mut Freelist) -> Vec<(u64, Buffer)> {
    std::iter::from_fn(|| Some(freelist.next_maps(2)).filter(|maps| !maps.is_empty())).flatten().collect()
}

fn pages_of(run: PageRun) -> impl Iterator<Item = u64> {
    run.first..run.first + u64::from(run.pages)
}

/// The owner of the pages: a list of runs stands for the trees.
struct Owner {
    disk: Disk,
    freelist: Freelist,
    /// The state that is being written, and the generation that it will get.
    runs: Vec<(PageRun, u64)>,
    next: u64,
    /// Published states that somebody looks at.
    pinned: BTreeMap<u64, BTreeSet<u64>>,
    published: BTreeSet<u64>,
    /// What is left to be looked at is, each time.
    settles: bool,
}

impl Owner {
    fn create() -> Owner {
        let mut owner = Owner {
            disk: Disk::default(),
            freelist: Freelist::create(FILE),
            runs: Vec::new(),
            next: 2,
            pinned: BTreeMap::new(),
            published: BTreeSet::new(),
            settles: true,
        };
        owner.checkpoint(&[], false);
        owner
    }

    fn used(&self) -> BTreeSet<u64> {
        self.runs.iter().flat_map(|(run, _)| pages_of(*run)).collect()
    }

    fn allocate(&mut self, pages: u32, up_to: bool) -> PageRun {
        loop {
            let answer = if up_to { self.freelist.allocate_up_to(pages) } else { self.freelist.allocate(pages) };
            match answer {
                Ok(run) => return run,
                Err(Need::Region(region)) => self.load(region),
                Err(Need::Growth(file_pages)) => self.freelist.grown(file_pages),
                Err(Need::Full) => panic!("the test stays small"),
            }
        }
    }

    fn load(&mut self, region: u64) {
        self.freelist.region_read(region, &self.disk.read(region)).expect("no map is damaged");
    }

    fn publish(&mut self) {
        self.published = self.used();
        self.next += 1;
    }

    fn held(&self) -> Held {
        let mut held = Held::only(self.next - 1);
        self.pinned.keys().for_each(|generation| held.insert(*generation));
        held
    }

    /// Gives places to new runs and makes the state durable; or, where it dies, leaves what it has written.
    fn checkpoint(&mut self, sizes: &[(u32, bool)], dies: bool) {
        self.publish();
        let generation = self.next - 1;
        self.freelist.begin_checkpoint(generation);
        let mut forbidden: BTreeSet<u64> = self.used();
        forbidden.extend(self.disk.metas.iter().flat_map(|(_, _, used)| used));
        forbidden.extend(self.pinned.values().flatten());
        for (pages, up_to) in sizes {
            let run = self.allocate(*pages, *up_to);
            let ceiling = self.freelist.ceiling().unwrap_or(u64::MAX);
            assert!(run.first + u64::from(run.pages) <= ceiling, "below the ceiling, or there is none any more");
            assert!(is_allocatable(run, self.freelist.file_pages()) && run.pages <= *pages);
            for page in pages_of(run) {
                assert!(forbidden.insert(page), "page {page} is in use by somebody");
            }
            self.runs.push((run, generation));
        }
        for region in self.freelist.regions_to_load() {
            self.load(region);
        }
        self.freelist.fix_maps().expect("nothing is freed twice");
        let writes = maps(&mut self.freelist);
        let space = self.freelist.space();
        assert!(forbidden.iter().all(|page| *page < space.file_pages), "what somebody holds is not cut off");
        if dies {
            let half = writes.len().div_ceil(2);
            self.disk.write(&writes[..half]);
            return;
        }
        self.disk.write(&writes);
        self.disk.meta(generation, space, self.used());
        self.freelist.checkpointed();
        let kept = self.freelist.cut_pages();
        assert!(self.disk.metas.iter().all(|(_, space, _)| space.file_pages <= kept));
        self.disk.maps.retain(|page, _| *page < kept);
        self.published = self.used();
        self.release();
    }

    /// What stands behind the page goes; other runs take its place with the next checkpoint.
    fn sweep(&mut self, page: u64) {
        if self.freelist.set_ceiling(Some(page)).is_none() {
            return;
        }
        let ceiling = self.freelist.ceiling().expect("just set");
        let (behind, below): (Vec<_>, Vec<_>) =
            self.runs.iter().partition(|(run, _)| run.first + u64::from(run.pages) > ceiling);
        self.runs = below;
        for (run, born) in behind {
            self.freelist.free(run, born, self.next).expect("it was in use");
        }
        self.publish();
        self.freelist.swept();
    }

    fn release(&mut self) {
        // Some at a time.
        let published = self.next - 1;
        self.freelist.record_some(published, 3);
        self.freelist.release(&self.held(), 3);
        while self.settles && self.freelist.has_leftovers(published) {
            self.freelist.record_some(published, 3);
            self.freelist.release(&self.held(), 3);
        }
        for region in &self.freelist.regions {
            if let Region::Open(open) = region {
                open.runs.check();
                open.tail.check();
            }
        }
    }

    /// The process starts again from what is on disk.
    fn reopen(&mut self) {
        self.freelist = self.disk.open();
        let (generation, _, used) = self.disk.metas.last().expect("created with a meta").clone();
        self.runs.retain(|(run, born)| *born <= generation && used.contains(&run.first));
        // Runs that were freed since are in use again: they are part of the newer meta's state.
        let known = self.used();
        let lost: Vec<u64> = used.difference(&known).copied().collect();
        self.runs.extend(lost.into_iter().map(|first| (PageRun { first, pages: 1 }, generation)));
        self.next = generation + 1;
        self.published = used;
        self.pinned.clear();
    }

    /// After all maps were read and nobody holds anything: free and used pages are exactly the file.
    fn check_all(&mut self) {
        self.pinned.clear();
        self.settles = true;
        self.checkpoint(&[], false);
        for region in 0..self.freelist.regions.len() as u64 {
            self.load(region);
        }
        self.checkpoint(&[], false);
        self.checkpoint(&[], false);
        let used = self.used();
        for page in 0..self.freelist.file_pages() {
            let is_for_use = is_allocatable(PageRun { first: page, pages: 1 }, self.freelist.file_pages());
            assert_eq!(self.freelist.is_free(page), Some(is_for_use && !used.contains(&page)), "page {page}");
        }
        assert_eq!(self.freelist.pending_pages(), 0);
        let fixed: u64 = (0..self.freelist.regions.len() as u64).map(reserved_pages).sum();
        assert_eq!(self.freelist.free_pages() + fixed + used.len() as u64, self.freelist.file_pages());
        assert_eq!(self.freelist.check_digest(), Some(true));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Free(Vec<usize>),
    Publish,
    Checkpoint { sizes: Vec<(u32, bool)>, dies: bool },
    Pin,
    Unpin,
    Release,
    Reopen,
    Sweep(u64),
    Settle(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let sizes =
        prop::collection::vec((prop_oneof![8 => 1u32..8, 4 => 8u32..200, 1 => 5000u32..20000], any::<bool>()), 0..8);
    prop_oneof![
        4 => prop::collection::vec(any::<usize>(), 1..8).prop_map(Step::Free),
        2 => Just(Step::Publish),
        4 => (sizes, prop::bool::weighted(0.15)).prop_map(|(sizes, dies)| Step::Checkpoint { sizes, dies }),
        1 => Just(Step::Pin),
        1 => Just(Step::Unpin),
        2 => Just(Step::Release),
        1 => Just(Step::Reopen),
        2 => (1u64..1000).prop_map(Step::Sweep),
        1 => any::<bool>().prop_map(Step::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_page_is_given_out_while_somebody_holds_it_and_none_is_lost(steps in prop::collection::vec(step(), 1..60)) {
        let mut owner = Owner::create();
        for step in steps {
            match step {
                Step::Free(indices) => for index in indices {
                    if owner.runs.is_empty() {
                        break;
                    }
                    let (run, born) = owner.runs.swap_remove(index % owner.runs.len());
                    owner.freelist.free(run, born, owner.next).expect("it was in use");
                },
                Step::Publish => owner.publish(),
                Step::Checkpoint { sizes, dies } => {
                    owner.checkpoint(&sizes, dies);
                    if dies {
                        owner.reopen();
                    }
                }
                Step::Pin => {
                    owner.pinned.insert(owner.next - 1, owner.published.clone());
                }
                Step::Unpin => {
                    owner.pinned.pop_first();
                }
                Step::Release => owner.release(),
                Step::Reopen => owner.reopen(),
                Step::Settle(settles) => owner.settles = settles,
                Step::Sweep(parts) => owner.sweep(owner.freelist.file_pages() * parts / 1000),
            }
        }
        owner.check_all();
    }
}

/// {first run's pages, then the rest}: a file of two regions whose second is to go.
fn two_regions() -> Owner {
    let mut owner = Owner::create();
    owner.checkpoint(&[(20_000, false), (20_000, false), (300, false)], false);
    assert!(owner.freelist.file_pages() > REGION_PAGES);
    owner
}

#[test]
fn the_file_ends_at_the_ceiling_when_pins_and_both_metas_have_let_go() {
    let mut owner = two_regions();
    owner.pinned.insert(owner.next - 1, owner.published.clone());
    owner.sweep(25_000);
    let long = owner.freelist.file_pages();
    for _ in 0..4 {
        owner.checkpoint(&[(5, false)], false);
        assert_eq!((owner.freelist.file_pages(), owner.freelist.cut_pages()), (long, long), "the pin holds it");
    }
    owner.pinned.clear();
    owner.checkpoint(&[(5, false)], false);
    owner.checkpoint(&[(5, false)], false);
    assert_eq!((owner.freelist.file_pages(), owner.freelist.cut_pages()), (25_000, long), "the older meta needs it");
    owner.checkpoint(&[(5, false)], false);
    assert_eq!((owner.freelist.file_pages(), owner.freelist.cut_pages()), (25_000, 25_000));
    assert_eq!(owner.freelist.check_digest(), Some(true));
    owner.check_all();
}

/// The second region comes back in the checkpoint behind the cut: the older meta still has its map, which must stay.
#[test]
fn a_region_that_comes_back_leaves_its_former_map_to_the_older_meta() {
    let mut owner = two_regions();
    owner.sweep(25_000);
    while owner.freelist.file_pages() > 25_000 {
        owner.checkpoint(&[], false);
    }
    let (_, older, _) = owner.disk.metas[0].clone();
    assert!(older.file_pages > REGION_PAGES, "the older meta has both regions");
    let place = map_page(1, older.slot(1));
    let before = owner.disk.maps[&place].clone();
    // It dies with its maps written: both metas are those of before.
    owner.checkpoint(&[(20_000, false), (4000, false)], true);
    assert!(owner.freelist.file_pages() > REGION_PAGES);
    assert_eq!(owner.disk.maps[&place], before);
    owner.reopen();
    assert_eq!(owner.freelist.file_pages(), 25_000);
    owner.checkpoint(&[(20_000, false), (4000, false)], false);
    owner.reopen();
    owner.check_all();
}

#[test]
fn where_the_room_below_does_not_do_the_ceiling_goes_before_the_file_grows() {
    let mut owner = two_regions();
    owner.sweep(25_000);
    let long = owner.freelist.file_pages();
    // What was freed is held; only the part of what was free before that is behind the ceiling has room for it.
    owner.checkpoint(&[(6000, false)], false);
    assert_eq!((owner.freelist.ceiling(), owner.freelist.file_pages()), (None, long));
    owner.check_all();
}

/// A page that the trees have lost (its parent could not be read) is in use in the map, and nobody will free it.
#[test]
fn a_page_that_nobody_frees_raises_the_ceiling() {
    let mut owner = two_regions();
    let (lost, _) = *owner.runs.iter().find(|(run, _)| region_of(run.first) == 1).expect("a run is in region 1");
    owner.runs.retain(|(run, _)| *run != lost);
    owner.sweep(25_000);
    for _ in 0..4 {
        owner.checkpoint(&[], false);
    }
    let end = lost.first + u64::from(lost.pages);
    assert_eq!((owner.freelist.ceiling(), owner.freelist.file_pages()), (None, end));
}

#[test]
fn only_changed_maps_are_written_each_to_the_place_that_does_not_count() {
    let mut owner = Owner::create();
    owner.checkpoint(&[(20_000, false), (20_000, false)], false);
    assert_eq!(owner.disk.maps.keys().copied().collect::<Vec<_>>(), [3, 4, REGION_PAGES]);
    let before = owner.disk.maps.clone();
    owner.checkpoint(&[], false);
    assert_eq!(owner.disk.maps, before, "nothing has changed");
    owner.checkpoint(&[(1, false)], false);
    let changed: Vec<u64> =
        before.iter().filter(|(page, map)| owner.disk.maps[page] != **map).map(|(page, _)| *page).collect();
    assert_eq!(changed, [3], "the low end of the file first");
}

#[test]
fn opening_reads_nothing_and_a_region_only_when_it_is_used() {
    let mut owner = Owner::create();
    owner.checkpoint(&[(20_000, false), (20_000, false)], false);
    owner.reopen();
    assert_eq!((owner.freelist.unread_regions(), owner.freelist.free_pages()), (2, 0));
    owner.freelist.begin_checkpoint(100);
    assert_eq!(owner.freelist.allocate(1), Err(Need::Region(0)));
    assert!(owner.freelist.regions_to_load().is_empty());
    let high =
        owner.runs.iter().map(|(run, _)| *run).find(|run| region_of(run.first) == 1).expect("a run is in region 1");
    owner.freelist.free(high, 1, 100).expect("it is in use");
    assert_eq!(owner.freelist.regions_to_load(), [1]);
}

/// A checkpoint that died had written a map. Its generation is used again by the next one, which does not touch the
/// region: a rule by generations alone would now take the dead map.
#[test]
fn the_map_of_a_dead_checkpoint_never_counts() {
    let mut owner = Owner::create();
    owner.checkpoint(&[(20_000, false), (20_000, false), (50, false)], false);
    let (run, born) = owner.runs.pop().expect("just allocated");
    owner.freelist.free(run, born, owner.next).expect("it is in use");
    owner.checkpoint(&[], true);
    owner.reopen();
    owner.checkpoint(&[], false);
    owner.checkpoint(&[], false);
    owner.reopen();
    owner.check_all();
}

#[test]
fn a_damaged_or_lost_map_closes_its_region_and_names_its_page() {
    for damage in ["flip", "lost", "zero"] {
        let mut owner = Owner::create();
        owner.checkpoint(&[(10, false)], false);
        let before = owner.disk.maps.clone();
        owner.checkpoint(&[(10, false)], false);
        let slot = owner.freelist.space.slot(0);
        let page = map_page(0, slot);
        let counting = owner.disk.maps.get_mut(&page).expect("written");
        match damage {
            "flip" => counting[77] ^= 1,
            "lost" => *counting = before.get(&page).expect("the second write to this place").clone(),
            _ => counting.fill(0),
        }
        owner.reopen();
        let error = owner.freelist.region_read(0, &owner.disk.read(0)).expect_err("the map that counts is damaged");
        assert_eq!(error.page, page, "{damage}: {error}");
        assert_eq!(owner.freelist.closed_regions().collect::<Vec<_>>(), [0]);
        let in_use = owner.runs[0].0;
        owner.freelist.begin_checkpoint(50);
        owner.freelist.free(in_use, 1, 50).expect("its pages can be freed, for nothing");
        let Err(Need::Growth(file_pages)) = owner.freelist.allocate(1) else { panic!("only growth is left") };
        owner.freelist.grown(file_pages);
        assert_eq!(owner.freelist.allocate(1).map(|run| region_of(run.first)), Ok(1));
    }
}

#[test]
fn what_no_allocation_gave_cannot_be_freed() {
    let mut owner = Owner::create();
    owner.checkpoint(&[(10, false)], false);
    let run = owner.runs[0].0;
    for (first, pages) in
        [(0, 1), (4, 1), (run.first, 0), (u64::MAX, 1), (owner.freelist.file_pages(), 1), (run.first + 10, 1)]
    {
        assert!(owner.freelist.free(PageRun { first, pages }, 1, owner.next).is_err(), "{first}+{pages}");
    }
    owner.freelist.free(run, 1, owner.next).expect("it is in use");
    assert!(owner.freelist.free(run, 1, owner.next - 1).is_err(), "generations ascend");
    owner.freelist.free(run, 1, owner.next).expect("a second time is noticed by the next checkpoint");
    owner.freelist.begin_checkpoint(owner.next);
    assert!(owner.freelist.fix_maps().is_err());
}

#[test]
fn an_unused_run_is_given_back_at_once() {
    let mut owner = Owner::create();
    let free = owner.freelist.free_pages();
    owner.freelist.begin_checkpoint(9);
    let run = owner.freelist.allocate_up_to(100).expect("a new file has room");
    owner.freelist.give_back(PageRun { first: run.first + 40, pages: run.pages - 40 });
    assert_eq!((run.pages, owner.freelist.free_pages()), (100, free - 40));
    let whole = owner.freelist.allocate_up_to(u32::MAX).expect("the rest is one run");
    assert_eq!(u64::from(whole.pages), free - 40);
    assert!(matches!(owner.freelist.allocate(1), Err(Need::Growth(_))));
}

#[test]
fn a_lent_page_is_free_in_the_maps_and_in_use_until_frames_and_pins_and_metas_have_let_go() {
    let mut freelist = Freelist::create(FILE);
    let checkpoint = |freelist: &mut Freelist, generation, lent: &[PageRun]| {
        freelist.begin_checkpoint(generation);
        let run = freelist.allocate(1).expect("there is room");
        lent.iter().for_each(|run| freelist.lend(*run, 1).expect("it is in use"));
        freelist.fix_maps().expect("sound");
        maps(freelist);
        freelist.checkpointed();
        run
    };
    let (none, mut one) = (PageBits::default(), PageBits::default());
    let runs = [checkpoint(&mut freelist, 1, &[]), checkpoint(&mut freelist, 2, &[])];
    let in_use = freelist.file_pages() - freelist.free_pages();
    checkpoint(&mut freelist, 10, &runs);
    assert_eq!(runs.map(|run| freelist.is_free(run.first)), [Some(true); 2]);
    let is_refused = freelist.free(runs[0], 1, 11).is_err();
    assert!(is_refused, "it is freed once");
    one.insert(runs[1].first);
    assert!(!freelist.take_back_lent(15, &one, 1) && freelist.take_back_lent(15, &one, 1));
    freelist.release(&Held::only(20), usize::MAX);
    assert_eq!(freelist.pending_pages(), 2, "the older meta has them");
    checkpoint(&mut freelist, 20, &[]);
    let mut pins = Held::only(20);
    pins.insert(14);
    freelist.release(&pins, usize::MAX);
    assert_eq!(freelist.pending_pages(), 2, "a pin sees a frame of the one, and the state one of the other");
    freelist.release(&Held::only(20), usize::MAX);
    assert_eq!(freelist.pending_pages(), 1);
    assert!(freelist.take_back_lent(25, &none, usize::MAX));
    checkpoint(&mut freelist, 30, &[]);
    freelist.release(&Held::only(30), usize::MAX);
    assert_eq!(freelist.pending_pages(), 0);
    // Three checkpoints took a page each meanwhile.
    assert_eq!(freelist.file_pages() - freelist.free_pages(), in_use - 2 + 3);
}
