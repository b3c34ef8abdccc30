//! The whole-file check: is every page reached once or free, and is every node what its parent says?
//!
//! It reads the file through its [`Disk`] as it is there, apart from any pager, and trusts nothing: it is what tests run
//! after each checkpoint, and what the inspector shows. It sees the state of the meta that counts, so run it while no
//! checkpoint is under way.

use core::fmt;

use crate::api::{Aggregate, Damage, PageRun, TreeId, TreeSpec};
use crate::disk::{self, Disk, DiskError, Io, IoPurpose};
use crate::freelist::Freelist;
use crate::layout::{PAGE_BYTES, REGION_PAGES, region_of, reserved_pages};
use crate::meta::{self, HEAD_PAGES, Meta, MetaOutcome, OpenFailure};
use crate::node::{LEVELS_MAX, NodeMemory, NodeView, PAGE_CAPACITY, verify};

/// Most findings that a report lists.
pub const FINDINGS_MAX: usize = 100;

/// Why a check could not be made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CheckError {
    /// By what the first pages say.
    #[error(transparent)]
    Refused(#[from] OpenFailure),
    /// The disk's error, for the first pages; a node that can't be read is a finding.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What one tree consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeReport {
    /// Its number.
    pub tree: u8,
    /// Levels, leaves included.
    pub levels: u32,
    /// Nodes by level: leaves first.
    pub nodes: Vec<u64>,
    /// Pages of all nodes.
    pub pages: u64,
    /// Nodes of more than one page.
    pub long_nodes: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of cells and slots in nodes of one page, by level.
    pub used_bytes: Vec<u64>,
    /// What its root's parent, the meta, says that it adds up to.
    pub sum: Aggregate,
}

/// What a check found.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// Generation of the state that was checked.
    pub generation: u64,
    /// How its meta was chosen.
    pub outcome: MetaOutcome,
    /// Pages of the file, as the meta has them.
    pub file_pages: u64,
    /// Pages behind those: left by a crash, or not cut off yet.
    pub behind_pages: u64,
    /// The page behind the last one that is in use: what stands behind it is free.
    pub used_end: u64,
    /// Pages of trees.
    pub used_pages: u64,
    /// Pages that the free maps call free.
    pub free_pages: u64,
    /// Free runs by size class: class n has 2^n to 2^(n+1) - 1 pages.
    pub free_runs: Vec<u64>,
    /// The trees that are not empty.
    pub trees: Vec<TreeReport>,
    /// What is wrong: at most [`FINDINGS_MAX`].
    pub findings: Vec<Damage>,
    /// How much is wrong, listed or not.
    pub findings_count: u64,
}

impl CheckReport {
    /// Is all as it must be?
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings_count == 0
    }
}

/// Checks the file on this disk. The sums of leaves are checked for the trees that `trees` knows.
///
/// # Errors
/// The file can't be opened at all.
pub fn check(disk: &mut dyn Disk, trees: &[TreeSpec]) -> Result<CheckReport, CheckError> {
    let file_bytes = disk.length()?;
    let bytes = usize::try_from(file_bytes.min((HEAD_PAGES * PAGE_BYTES) as u64)).expect("three pages at most");
    let head = disk::run(disk, Io::Read { offset: 0, bytes, purpose: IoPurpose::Inspect })?;
    let opened = meta::open(&head, file_bytes, None)?;
    let meta = opened.meta;
    let file_pages = meta.space.file_pages;
    let report = CheckReport {
        generation: meta.generation,
        outcome: opened.outcome,
        file_pages,
        behind_pages: (file_bytes / PAGE_BYTES as u64).saturating_sub(file_pages),
        used_end: 0,
        used_pages: 0,
        free_pages: 0,
        free_runs: Vec::new(),
        trees: Vec::new(),
        findings: Vec::new(),
        findings_count: 0,
    };
    let words = usize::try_from(file_pages.div_ceil(64)).expect("a file's pages are counted in memory");
    let mut check =
        Check { disk, trees, seed: opened.header.file.crc_seed(), file_pages, used: vec![0; words], report };
    check.trees(&meta);
    let older = opened.older.map(|older| (older.generation, older.space));
    check.free_maps(Freelist::open(opened.header.file, (meta.generation, meta.space), older));
    Ok(check.report)
}

struct Check<'a> {
    disk: &'a mut dyn Disk,
    trees: &'a [TreeSpec],
    seed: u32,
    file_pages: u64,
    /// A bit a page.
    used: Vec<u64>,
    report: CheckReport,
}

/// What a parent says of a node.
#[derive(Clone, Copy)]
struct Expected {
    run: PageRun,
    generation: u64,
    level: u8,
    sum: Aggregate,
}

type Fences<'k> = (Option<&'k [u8]>, Option<&'k [u8]>);

impl Check<'_> {
    fn find(&mut self, page: u64, tree: TreeId, what: &'static str) {
        self.report.findings_count += 1;
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(Damage { page, tree: tree.0, what });
        }
    }

    fn trees(&mut self, meta: &Meta) {
        for root in &meta.roots {
            if usize::from(root.level) >= LEVELS_MAX {
                self.find(root.run.first, root.tree, "its level is absurd");
                continue;
            }
            let levels = usize::from(root.level) + 1;
            self.report.trees.push(TreeReport {
                tree: root.tree.0,
                levels: u32::from(root.level) + 1,
                nodes: vec![0; levels],
                used_bytes: vec![0; levels],
                sum: root.sum,
                ..TreeReport::default()
            });
            let expected = Expected { run: root.run, generation: root.generation, level: root.level, sum: root.sum };
            self.node(root.tree, expected, (None, None));
        }
    }

    fn tree(&mut self) -> &mut TreeReport {
        self.report.trees.last_mut().expect("a tree is being checked")
    }

    /// Marks the pages; false where one is marked already.
    fn mark(&mut self, run: PageRun) -> bool {
        let mut is_new = true;
        for page in run.first..run.first + u64::from(run.pages) {
            let word = &mut self.used[(page / 64) as usize];
            let bit = 1 << (page % 64);
            is_new &= *word & bit == 0;
            *word |= bit;
        }
        is_new
    }

    fn node(&mut self, tree: TreeId, expected: Expected, fences: Fences<'_>) {
        let run = expected.run;
        if !self.mark(run) {
            return self.find(run.first, tree, "it is reached twice");
        }
        self.report.used_pages += u64::from(run.pages);
        let (offset, bytes) = (run.first * PAGE_BYTES as u64, run.pages as usize * PAGE_BYTES);
        let Ok(bytes) = disk::run(self.disk, Io::Read { offset, bytes, purpose: IoPurpose::Inspect }) else {
            return self.find(run.first, tree, "it can't be read");
        };
        let (bytes, start) = aligned(bytes);
        let memory = NodeMemory::of(&bytes[start..start + run.pages as usize * PAGE_BYTES]);
        if let Err(damage) = verify(memory, run, self.seed, self.file_pages) {
            return self.find(run.first, tree, damage.what);
        }
        let view = NodeView::new(memory);
        let what = if view.generation() != expected.generation {
            "its generation is not the one that its parent expects (a lost or misdirected write)"
        } else if view.tree() != tree.0 {
            "it belongs to another tree"
        } else if view.level() != expected.level {
            "its level is not one below its parent's"
        } else {
            return self.sound_node(tree, expected, view, fences);
        };
        self.find(run.first, tree, what);
    }

    fn sound_node(&mut self, tree: TreeId, expected: Expected, view: NodeView<'_>, fences: Fences<'_>) {
        let run = expected.run;
        let level = usize::from(expected.level);
        let report = self.tree();
        report.nodes[level] += 1;
        report.pages += u64::from(run.pages);
        report.long_nodes += u64::from(run.pages > 1);
        if run.pages == 1 {
            report.used_bytes[level] += view.used_bytes() as u64;
        }
        let first = (0..view.len()).map(|index| view.key(index)).find(|key| view.is_leaf() || !key.is_empty());
        let is_low = first.is_some_and(|first| fences.0.is_some_and(|low| first < low));
        if is_low || fences.1.is_some_and(|high| view.key(view.len() - 1) >= high) {
            self.find(run.first, tree, "it holds keys that its parent looks for elsewhere");
        }
        let sum = if view.is_leaf() {
            self.tree().entries += view.len() as u64;
            if run.pages > 1 && view.len() > 1 {
                self.find(run.first, tree, "a long leaf holds more than one entry");
            }
            let Some(spec) = self.trees.iter().find(|spec| spec.id == tree) else { return };
            (0..view.len())
                .fold(Aggregate::default(), |sum, index| sum.plus((spec.summarize)(view.key(index), view.value(index))))
        } else {
            self.children(tree, expected, view, fences)
        };
        if sum != expected.sum {
            self.find(run.first, tree, "it adds up to something else than its parent says");
        }
    }

    fn children(&mut self, tree: TreeId, expected: Expected, view: NodeView<'_>, fences: Fences<'_>) -> Aggregate {
        let mut sum = Aggregate::default();
        for index in 0..view.len() {
            let child = view.child(index);
            sum = sum.plus(child.sum);
            let low = Some(view.key(index)).filter(|key| !key.is_empty()).or(fences.0);
            let high = if index + 1 < view.len() { Some(view.key(index + 1)) } else { fences.1 };
            let run = PageRun {
                first: child.reference.as_page().expect("verified: children of pages are pages"),
                pages: child.pages,
            };
            let below = Expected { run, generation: child.generation, level: expected.level - 1, sum: child.sum };
            self.node(tree, below, (low, high));
        }
        sum
    }

    fn free_maps(&mut self, mut freelist: Freelist) {
        for region in 0..self.file_pages.div_ceil(REGION_PAGES) {
            let run = Freelist::map_run(region);
            let (offset, bytes) = (run.first * PAGE_BYTES as u64, run.pages as usize * PAGE_BYTES);
            let Ok(maps) = disk::run(self.disk, Io::Read { offset, bytes, purpose: IoPurpose::Inspect }) else {
                self.find(run.first, TreeId(0), "the free maps of the region can't be read");
                continue;
            };
            if let Err(damage) = freelist.region_read(region, &maps) {
                self.find(damage.page, TreeId(0), damage.what);
            }
        }
        if freelist.check_digest() == Some(false) {
            self.find(0, TreeId(0), "the free maps are not those of the meta (a write of one was lost)");
        }
        self.compare(&freelist);
    }

    fn compare(&mut self, freelist: &Freelist) {
        let mut run = 0_u64;
        for page in 0..=self.file_pages {
            let is_reserved = page % REGION_PAGES < reserved_pages(region_of(page));
            let known = if page == self.file_pages || is_reserved { None } else { freelist.is_free(page) };
            let is_free = known == Some(true);
            if is_free {
                run += 1;
                self.report.free_pages += 1;
            } else if run > 0 {
                let class = run.ilog2() as usize;
                self.report.free_runs.resize(self.report.free_runs.len().max(class + 1), 0);
                self.report.free_runs[class] += 1;
                run = 0;
            }
            let Some(is_free) = known else { continue };
            let is_used = self.used[(page / 64) as usize] & (1 << (page % 64)) != 0;
            if is_used {
                self.report.used_end = page + 1;
            }
            if is_used && is_free {
                self.find(page, TreeId(0), "it is in use, and free in the map");
            } else if !is_used && !is_free {
                self.find(page, TreeId(0), "it is neither in use nor free: lost");
            }
        }
    }
}

/// The bytes with room in front, and where they start so that words in them are aligned.
fn aligned(bytes: Vec<u8>) -> (Vec<u8>, usize) {
    if (bytes.as_ptr() as usize).is_multiple_of(8) {
        return (bytes, 0);
    }
    let mut copy = vec![0; bytes.len() + 8];
    let start = copy.as_ptr().align_offset(8);
    copy[start..start + bytes.len()].copy_from_slice(&bytes);
    (copy, start)
}

impl fmt::Display for CheckReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, used, free) = (self.file_pages, self.used_pages, self.free_pages);
        writeln!(out, "generation {}; metas: {:?}", self.generation, self.outcome)?;
        writeln!(out, "{file} pages of {PAGE_BYTES} bytes: {used} in trees, {free} free")?;
        writeln!(out, "the last page in use is followed by {}, all free", file.saturating_sub(self.used_end))?;
        if self.behind_pages > 0 {
            writeln!(out, "{} more pages behind the end, which the next checkpoint cuts off", self.behind_pages)?;
        }
        for tree in &self.trees {
            write!(out, "tree {}: {} entries, {} pages, {} levels", tree.tree, tree.entries, tree.pages, tree.levels)?;
            writeln!(out, ", {} nodes of several pages", tree.long_nodes)?;
            for (level, (nodes, used)) in tree.nodes.iter().zip(&tree.used_bytes).enumerate().rev() {
                let fill = used * 100 / (nodes * PAGE_CAPACITY as u64).max(1);
                writeln!(out, "  level {level}: {nodes} nodes, {fill} % filled")?;
            }
        }
        writeln!(out, "free runs by length:")?;
        for (class, runs) in self.free_runs.iter().enumerate().filter(|(_, runs)| **runs > 0) {
            writeln!(out, "  {} to {} pages: {runs}", 1_u64 << class, (2_u64 << class) - 1)?;
        }
        for finding in &self.findings {
            writeln!(out, "DAMAGE: {finding}")?;
        }
        match self.findings_count {
            0 => writeln!(out, "check: sound"),
            count => writeln!(out, "check: {count} findings"),
        }
    }
}
