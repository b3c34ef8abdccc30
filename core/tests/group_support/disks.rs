//! Both disks of a member behind one fuse: at the n-th I/O of either, nothing happens any more. Or one request fails.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::rc::Rc;

use ringstone_pager::disk as pages;
use ringstone_pager::disk::{Crash, Fault as PagesFault, SimDisk as SimPages};
use ringstone_wal::buffer::AlignedBuffer;
use ringstone_wal::disk as log;
use ringstone_wal::disk::sim::{Fault as LogFault, Keep, Random, SimDisk as SimLog};

/// What a request of either disk meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// EIO, of any request. Half of a write is done; a failed sync loses what it should have covered.
    Failed,
    /// ENOSPC, of what makes the page file or a segment of the log.
    Full,
    /// ENOSPC, of writes to segments in use: a file system that allocates at each write, or a quota.
    Quota,
}

/// What a request is to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Allocates,
    WritesLog,
    Other,
}

impl Trouble {
    fn meets(self, class: Class) -> bool {
        match self {
            Trouble::Failed => true,
            Trouble::Full => class == Class::Allocates,
            Trouble::Quota => class == Class::WritesLog,
        }
    }
}

/// Looks at the disks in front of the I/O after the n-th.
type Watch = Box<dyn FnMut(u64)>;

#[derive(Default)]
struct State {
    left: Cell<u64>,
    spent: Cell<u64>,
    watch: RefCell<Option<Watch>>,
    /// Requests of both disks so far, reads and listings of the log among them.
    asked: Cell<u64>,
    trouble: Cell<Option<(u64, u64, Trouble)>>,
    hits: RefCell<Vec<String>>,
    /// All that the trouble could meet, where it meets none.
    met: RefCell<Vec<String>>,
}

/// Counts submissions and completions of both disks.
#[derive(Clone)]
pub struct Fuse {
    state: Rc<State>,
}

impl Fuse {
    pub fn new(steps: u64) -> Fuse {
        Fuse { state: Rc::new(State { left: Cell::new(steps), ..State::default() }) }
    }

    /// One that never blows.
    pub fn whole() -> Fuse {
        Fuse::new(u64::MAX)
    }

    /// One that never blows; `watch(n)` is called between the n-th I/O and the one after it.
    pub fn watched(watch: impl FnMut(u64) + 'static) -> Fuse {
        let fuse = Fuse::whole();
        *fuse.state.watch.borrow_mut() = Some(Box::new(watch));
        fuse
    }

    /// One that never blows; `count` requests from number `at` on (0 is the first) meet the trouble. With a count of 0
    /// those that could are listed.
    pub fn with_trouble(at: u64, count: u64, trouble: Trouble) -> Fuse {
        let fuse = Fuse::whole();
        fuse.state.trouble.set(Some((at, count, trouble)));
        fuse
    }

    pub fn is_blown(&self) -> bool {
        self.state.left.get() == 0
    }

    pub fn spent(&self) -> u64 {
        self.state.spent.get()
    }

    pub fn asked(&self) -> u64 {
        self.state.asked.get()
    }

    /// The requests that the trouble could have met.
    pub fn could_meet(&self) -> Vec<String> {
        self.state.met.borrow().clone()
    }

    /// The requests that met the trouble.
    pub fn hits(&self) -> Vec<String> {
        self.state.hits.borrow().clone()
    }

    /// Nothing is in trouble from now on.
    pub fn relieve(&self) {
        self.state.trouble.set(None);
    }

    /// One I/O; false: the power is off.
    fn step(&self) -> bool {
        if self.is_blown() {
            return false;
        }
        let watch = self.state.watch.borrow_mut().take();
        if let Some(mut watch) = watch {
            watch(self.spent());
            *self.state.watch.borrow_mut() = Some(watch);
        }
        self.state.left.set(self.state.left.get() - 1);
        self.state.spent.set(self.state.spent.get() + 1);
        true
    }

    /// Counts a request; the trouble that it meets. `what` names it and its file.
    fn is_in_trouble(&self, class: Class, what: impl Fn() -> String) -> Option<Trouble> {
        let (at, count, trouble) = self.state.trouble.get().unwrap_or((0, 0, Trouble::Failed));
        if !trouble.meets(class) {
            return None;
        }
        let number = self.state.asked.replace(self.state.asked.get() + 1);
        if self.state.trouble.get().is_some_and(|(_, count, _)| count == 0) {
            self.state.met.borrow_mut().push(what());
        }
        if number < at || number - at >= count {
            return None;
        }
        self.state.hits.borrow_mut().push(what());
        Some(trouble)
    }
}

pub struct FusedPages {
    disk: SimPages,
    fuse: Fuse,
    under_way: usize,
}

impl pages::Disk for FusedPages {
    fn submit(&mut self, token: pages::Token, io: pages::Io) {
        if !self.fuse.step() {
            return;
        }
        let class = if matches!(io, pages::Io::SetLength(_)) { Class::Allocates } else { Class::Other };
        match self.fuse.is_in_trouble(class, || format!("{} of the page file", io.name())) {
            Some(Trouble::Failed) => self.disk.inject(0, PagesFault::Failed),
            Some(Trouble::Full | Trouble::Quota) => self.disk.inject(0, PagesFault::Full),
            None => {}
        }
        self.under_way += 1;
        self.disk.submit(token, io);
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
    disk: Rc<RefCell<SimLog>>,
    fuse: Fuse,
    pub under_way: usize,
}

fn off() -> log::DiskError {
    log::DiskError { operation: "use", file: None, errno: libc::ESHUTDOWN }
}

fn described(io: &log::Io) -> (Class, String) {
    let of = |file: &log::FileName, other| match file {
        log::FileName::Preparing(_) => Class::Allocates,
        log::FileName::Segment(_) => other,
    };
    match io {
        log::Io::Write { file, .. } => (of(file, Class::WritesLog), format!("write of {file}")),
        log::Io::Create { file, .. } => (Class::Allocates, format!("create of {file}")),
        log::Io::Sync { file } => (of(file, Class::WritesLog), format!("sync of {file}")),
        log::Io::Rename { from, .. } => (Class::Other, format!("rename of {from}")),
        log::Io::Delete { file } => (Class::Other, format!("delete of {file}")),
        log::Io::SyncDirectory => (Class::Other, "sync of the directory".to_owned()),
    }
}

impl FusedLog {
    fn alive(&self) -> Result<(), log::DiskError> {
        if self.fuse.is_blown() { Err(off()) } else { Ok(()) }
    }

    /// A call that does not go through `submit`.
    fn call(&self, operation: &'static str, file: Option<log::FileName>) -> Result<(), log::DiskError> {
        self.alive()?;
        let name = || file.map_or("the directory".to_owned(), |file| file.to_string());
        match self.fuse.is_in_trouble(Class::Other, || format!("{operation} of {}", name())) {
            Some(_) => Err(log::DiskError { operation, file, errno: libc::EIO }),
            None => Ok(()),
        }
    }
}

impl log::Disk for FusedLog {
    fn submit(&mut self, token: log::Token, io: log::Io) {
        if !self.fuse.step() {
            return;
        }
        let (class, name) = described(&io);
        match self.fuse.is_in_trouble(class, || name.clone()) {
            Some(Trouble::Failed) => self.disk.borrow_mut().inject(0, LogFault::Failed(libc::EIO)),
            Some(Trouble::Full | Trouble::Quota) => self.disk.borrow_mut().inject(0, LogFault::Errno(libc::ENOSPC)),
            None => {}
        }
        self.under_way += 1;
        self.disk.borrow_mut().submit(token, io);
    }

    fn flush(&mut self) -> Result<(), log::DiskError> {
        self.alive()?;
        self.disk.borrow_mut().flush()
    }

    fn poll_completion(&mut self) -> Option<log::Completion> {
        if self.under_way == 0 || !self.fuse.step() {
            return None;
        }
        self.under_way -= 1;
        self.disk.borrow_mut().poll_completion()
    }

    fn wait(&mut self) -> Result<(), log::DiskError> {
        self.flush()
    }

    fn list(&mut self) -> Result<Vec<log::FileEntry>, log::DiskError> {
        self.call("list", None)?;
        self.disk.borrow_mut().list()
    }

    fn read(&mut self, file: log::FileName, at: u64, buffer: &mut AlignedBuffer) -> Result<usize, log::DiskError> {
        self.call("read", Some(file))?;
        self.disk.borrow_mut().read(file, at, buffer)
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
        match n % End::WAYS {
            0 => End::Cut(Crash::KeepNone, Keep::Nothing),
            1 => End::Cut(Crash::Random(seed), Keep::Random(seed)),
            2 => End::Kill,
            3 => End::Cut(Crash::Torn(seed), Keep::Torn(seed)),
            4 => End::Cut(Crash::KeepAll, Keep::Nothing),
            5 => End::Cut(Crash::KeepNone, Keep::All),
            6 => End::Cut(Crash::KeepAll, Keep::Torn(seed)),
            7 => End::Cut(Crash::Random(seed), Keep::Nothing),
            8 => End::Cut(Crash::Torn(seed), Keep::All),
            _ => End::Cut(Crash::KeepAll, Keep::All),
        }
    }

    pub const WAYS: u64 = 10;
}

/// A member's storage. Clones are handles of the same.
#[derive(Clone)]
pub struct Disks {
    pub pages: SimPages,
    log: Rc<RefCell<SimLog>>,
}

impl Disks {
    pub fn new() -> Disks {
        Disks::of(SimPages::new(), SimLog::new(1))
    }

    pub fn of(pages: SimPages, log: SimLog) -> Disks {
        Disks { pages, log: Rc::new(RefCell::new(log)) }
    }

    pub fn log(&self) -> Ref<'_, SimLog> {
        self.log.borrow()
    }

    pub fn log_mut(&self) -> RefMut<'_, SimLog> {
        self.log.borrow_mut()
    }

    /// What is left after `end`; this one stays as it is.
    pub fn after(&self, end: End) -> Disks {
        let pages = self.pages.fork();
        match end {
            End::Kill => Disks::of(pages, self.log().after_kill()),
            End::Cut(crash, keep) => {
                pages.crash(crash);
                Disks::of(pages, self.log().after_crash(keep))
            }
        }
    }

    pub fn fused(&self, fuse: &Fuse) -> (FusedPages, FusedLog) {
        let pages = FusedPages { disk: self.pages.clone(), fuse: fuse.clone(), under_way: 0 };
        (pages, FusedLog { disk: Rc::clone(&self.log), fuse: fuse.clone(), under_way: 0 })
    }
}

pub fn random(seed: u64) -> Random {
    Random::new(seed)
}
