//! Both disks of a member behind one fuse: at the n-th I/O of either, nothing happens any more.

use std::cell::Cell;
use std::rc::Rc;

use ringstone_pager::disk as pages;
use ringstone_pager::disk::{Crash, SimDisk as SimPages};
use ringstone_wal::buffer::AlignedBuffer;
use ringstone_wal::disk as log;
use ringstone_wal::disk::sim::{Keep, Random, SimDisk as SimLog};

/// Counts submissions and completions of both disks.
#[derive(Clone)]
pub struct Fuse {
    left: Rc<Cell<u64>>,
    spent: Rc<Cell<u64>>,
}

impl Fuse {
    pub fn new(steps: u64) -> Fuse {
        Fuse { left: Rc::new(Cell::new(steps)), spent: Rc::default() }
    }

    pub fn is_blown(&self) -> bool {
        self.left.get() == 0
    }

    pub fn spent(&self) -> u64 {
        self.spent.get()
    }

    /// One I/O; false: the power is off.
    fn step(&self) -> bool {
        if self.is_blown() {
            return false;
        }
        self.left.set(self.left.get() - 1);
        self.spent.set(self.spent.get() + 1);
        true
    }
}

pub struct FusedPages {
    pub disk: SimPages,
    fuse: Fuse,
    under_way: usize,
}

impl pages::Disk for FusedPages {
    fn submit(&mut self, token: pages::Token, io: pages::Io) {
        if self.fuse.step() {
            self.under_way += 1;
            self.disk.submit(token, io);
        }
    }

    fn poll(&mut self) -> Option<pages::Completion> {
        if self.under_way == 0 || !self.fuse.step() {
            return None;
        }
        self.under_way -= 1;
        self.disk.poll()
    }

    fn length(&self) -> Result<u64, pages::DiskError> {
        self.disk.length()
    }
}

pub struct FusedLog {
    pub disk: SimLog,
    fuse: Fuse,
    pub under_way: usize,
}

fn off() -> log::DiskError {
    log::DiskError { operation: "use", file: None, errno: libc::ESHUTDOWN }
}

impl FusedLog {
    fn alive(&self) -> Result<(), log::DiskError> {
        if self.fuse.is_blown() { Err(off()) } else { Ok(()) }
    }
}

impl log::Disk for FusedLog {
    fn submit(&mut self, token: log::Token, io: log::Io) {
        if self.fuse.step() {
            self.under_way += 1;
            self.disk.submit(token, io);
        }
    }

    fn flush(&mut self) -> Result<(), log::DiskError> {
        self.alive()?;
        self.disk.flush()
    }

    fn poll_completion(&mut self) -> Option<log::Completion> {
        if self.under_way == 0 || !self.fuse.step() {
            return None;
        }
        self.under_way -= 1;
        self.disk.poll_completion()
    }

    fn wait(&mut self) -> Result<(), log::DiskError> {
        self.flush()
    }

    fn list(&mut self) -> Result<Vec<log::FileEntry>, log::DiskError> {
        self.alive()?;
        self.disk.list()
    }

    fn read(&mut self, file: log::FileName, at: u64, buffer: &mut AlignedBuffer) -> Result<usize, log::DiskError> {
        self.alive()?;
        self.disk.read(file, at, buffer)
    }
}

/// How a member ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// The process is killed: what was submitted is there, but still not durable.
    Kill,
    /// A power cut, and what it leaves of the page file and of the log.
    Cut(Crash, Keep),
}

impl End {
    /// The n-th way.
    pub fn of(n: u64, seed: u64) -> End {
        match n % 7 {
            0 => End::Cut(Crash::KeepNone, Keep::Nothing),
            1 => End::Cut(Crash::Random(seed), Keep::Random(seed)),
            2 => End::Kill,
            3 => End::Cut(Crash::KeepAll, Keep::Nothing),
            4 => End::Cut(Crash::KeepNone, Keep::All),
            5 => End::Cut(Crash::Random(seed), Keep::Nothing),
            _ => End::Cut(Crash::KeepAll, Keep::All),
        }
    }

    pub const WAYS: u64 = 7;
}

/// A member's storage between two lives.
pub struct Disks {
    pub pages: SimPages,
    pub log: SimLog,
}

impl Disks {
    pub fn new() -> Disks {
        Disks { pages: SimPages::new(), log: SimLog::new(1) }
    }

    /// What is left after `end`; this one stays as it is.
    pub fn after(&self, end: End) -> Disks {
        let pages = self.pages.fork();
        match end {
            End::Kill => Disks { pages, log: self.log.after_kill() },
            End::Cut(crash, keep) => {
                pages.crash(crash);
                Disks { pages, log: self.log.after_crash(keep) }
            }
        }
    }

    pub fn fused(self, fuse: &Fuse) -> (FusedPages, FusedLog) {
        let pages = FusedPages { disk: self.pages, fuse: fuse.clone(), under_way: 0 };
        (pages, FusedLog { disk: self.log, fuse: fuse.clone(), under_way: 0 })
    }
}

pub fn random(seed: u64) -> Random {
    Random::new(seed)
}
