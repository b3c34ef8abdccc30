//! Both disks of a member behind one fuse: at the n-th I/O of either, nothing happens any more. Or one request fails.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::fmt;
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
    /// Half of a write is done, a read ends early.
    Short,
}

/// What a request is to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// A file, or a part of one, that was not there.
    Makes,
    WritesNext,
    SyncsNext,
    WritesLog,
    SyncsLog,
    MovesPages,
    Other,
}

impl Trouble {
    fn meets(self, class: Class) -> bool {
        match self {
            Trouble::Failed => true,
            Trouble::Full => matches!(class, Class::Makes | Class::WritesNext | Class::SyncsNext),
            Trouble::Quota => matches!(class, Class::WritesLog | Class::SyncsLog),
            Trouble::Short => matches!(class, Class::WritesNext | Class::WritesLog | Class::MovesPages),
        }
    }
}

/// What an I/O is for, on either disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Log(log::Purpose),
    Pages(pages::IoPurpose),
}

impl fmt::Display for What {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Log(purpose) => write!(formatter, "log: {purpose}"),
            What::Pages(purpose) => write!(formatter, "page file: {purpose}"),
        }
    }
}

/// Looks at the disks in front of the I/O after the n-th, with the I/Os that are under way.
type Watch = Box<dyn FnMut(u64, &[What])>;

#[derive(Default)]
struct State {
    left: Cell<u64>,
    spent: Cell<u64>,
    watch: RefCell<Option<Watch>>,
    under_way: RefCell<Vec<What>>,
    /// Requests of both disks so far, reads and listings of the log among them.
    asked: Cell<u64>,
    trouble: Cell<Option<(u64, u64, Trouble)>>,
    hits: RefCell<Vec<Request>>,
    /// All that the trouble could meet, where it meets none.
    met: RefCell<Vec<Request>>,
    /// Requests since the first hit.
    since: RefCell<Vec<Request>>,
    /// Nothing completes.
    is_stalled: Cell<bool>,
}

/// A request, as trouble meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub operation: &'static str,
    /// Its name; "page file" or "directory".
    pub file: String,
    /// None for what is asked and answered at once.
    pub what: Option<What>,
    pub offset: Option<u64>,
}

impl Request {
    fn of_pages(io: &pages::Io) -> Request {
        let is_sync = matches!(io, pages::Io::Sync { .. });
        Request {
            operation: io.name(),
            file: "page file".to_owned(),
            what: Some(What::Pages(io.purpose())),
            offset: (!is_sync).then(|| io.offset()),
        }
    }

    fn of_log(io: &log::Io) -> Request {
        Request {
            operation: io.name(),
            file: io.file().map_or_else(|| "directory".to_owned(), |file| file.to_string()),
            what: Some(What::Log(io.purpose())),
            offset: if let log::Io::Write { offset, .. } = io { Some(*offset) } else { None },
        }
    }

    /// The same for requests of one place in the code.
    pub fn kind(&self) -> String {
        match self.what {
            Some(what) => what.to_string(),
            None => format!("{} of {}", self.operation, self.file.rsplit_once('.').map_or(&*self.file, |(_, end)| end)),
        }
    }

    pub fn is_of_pages(&self) -> bool {
        self.file == "page file"
    }
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.operation, self.file)?;
        self.what.map_or(Ok(()), |what| write!(formatter, " ({what})"))
    }
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
    pub fn watched(watch: impl FnMut(u64, &[What]) + 'static) -> Fuse {
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
    pub fn could_meet(&self) -> Vec<Request> {
        self.state.met.borrow().clone()
    }

    /// The requests that met the trouble.
    pub fn hits(&self) -> Vec<Request> {
        self.state.hits.borrow().clone()
    }

    /// What was asked for after the first of them.
    pub fn since_hit(&self) -> Vec<Request> {
        self.state.since.borrow().clone()
    }

    /// From now on nothing completes, or all does again.
    pub fn stall(&self, stalled: bool) {
        self.state.is_stalled.set(stalled);
    }

    fn is_stalled(&self) -> bool {
        self.state.is_stalled.get()
    }

    /// From now on, `count` requests from the `at`-th on of those that it can meet are in trouble.
    pub fn trouble(&self, at: u64, count: u64, trouble: Trouble) {
        self.state.asked.set(0);
        self.state.trouble.set(Some((at, count, trouble)));
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
            watch(self.spent(), &self.state.under_way.borrow());
            *self.state.watch.borrow_mut() = Some(watch);
        }
        self.state.left.set(self.state.left.get() - 1);
        self.state.spent.set(self.state.spent.get() + 1);
        true
    }

    fn began(&self, what: What) {
        self.state.under_way.borrow_mut().push(what);
    }

    fn ended(&self, what: What) {
        let under_way = &mut *self.state.under_way.borrow_mut();
        let at = under_way.iter().position(|other| *other == what).expect("what ends has begun");
        under_way.remove(at);
    }

    /// Counts a request; the trouble that it meets.
    fn is_in_trouble(&self, class: Class, request: impl Fn() -> Request) -> Option<Trouble> {
        if !self.state.hits.borrow().is_empty() {
            self.state.since.borrow_mut().push(request());
        }
        let (at, count, trouble) = self.state.trouble.get().unwrap_or((0, 0, Trouble::Failed));
        if !trouble.meets(class) {
            return None;
        }
        let number = self.state.asked.replace(self.state.asked.get() + 1);
        if self.state.trouble.get().is_some_and(|(_, count, _)| count == 0) {
            self.state.met.borrow_mut().push(request());
        }
        if number < at || number - at >= count {
            return None;
        }
        self.state.hits.borrow_mut().push(request());
        Some(trouble)
    }
}

pub struct FusedPages {
    disk: SimPages,
    fuse: Fuse,
    under_way: BTreeMap<pages::Token, What>,
}

impl pages::Disk for FusedPages {
    fn submit(&mut self, token: pages::Token, io: pages::Io) {
        if !self.fuse.step() {
            return;
        }
        let class = match io {
            pages::Io::SetLength { .. } => Class::Makes,
            pages::Io::Write { .. } | pages::Io::Read { .. } => Class::MovesPages,
            pages::Io::Sync { .. } | pages::Io::Cut { .. } => Class::Other,
        };
        match self.fuse.is_in_trouble(class, || Request::of_pages(&io)) {
            Some(Trouble::Failed) => self.disk.inject(0, PagesFault::Failed),
            Some(Trouble::Full | Trouble::Quota) => self.disk.inject(0, PagesFault::Full),
            Some(Trouble::Short) => self.disk.inject(0, PagesFault::Short),
            None => {}
        }
        self.under_way.insert(token, What::Pages(io.purpose()));
        self.fuse.began(What::Pages(io.purpose()));
        self.disk.submit(token, io);
    }

    fn poll(&mut self) -> Option<pages::Completion> {
        if self.under_way.is_empty() || self.fuse.is_stalled() || !self.fuse.step() {
            return None;
        }
        let completion = self.disk.poll()?;
        self.fuse.ended(self.under_way.remove(&completion.token).expect("what ends has begun"));
        Some(completion)
    }

    fn length(&self) -> Result<u64, pages::DiskError> {
        let request = || Request { operation: "length", file: "page file".to_owned(), what: None, offset: None };
        match self.fuse.is_in_trouble(Class::Other, request) {
            Some(_) => Err(pages::DiskError::of_length(&std::io::Error::from_raw_os_error(libc::EIO))),
            None => self.disk.length(),
        }
    }
}

pub struct FusedLog {
    disk: Rc<RefCell<SimLog>>,
    fuse: Fuse,
    under_way: BTreeMap<log::Token, What>,
}

fn off() -> log::DiskError {
    log::DiskError::plain("use", None, libc::ESHUTDOWN)
}

fn class_of(io: &log::Io) -> Class {
    match io {
        log::Io::Write { file: log::FileName::Preparing(_), .. } => Class::WritesNext,
        log::Io::Sync { file: log::FileName::Preparing(_), .. } => Class::SyncsNext,
        log::Io::Write { .. } => Class::WritesLog,
        log::Io::Sync { .. } => Class::SyncsLog,
        log::Io::Create { .. } => Class::Makes,
        log::Io::Rename { .. } | log::Io::Delete { .. } | log::Io::SyncDirectory { .. } => Class::Other,
    }
}

impl FusedLog {
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    fn alive(&self) -> Result<(), log::DiskError> {
        if self.fuse.is_blown() { Err(off()) } else { Ok(()) }
    }

    /// A call that does not go through `submit`.
    fn call(&self, operation: &'static str, file: Option<log::FileName>) -> Result<(), log::DiskError> {
        self.alive()?;
        let request = || {
            let file = file.map_or("directory".to_owned(), |file| file.to_string());
            Request { operation, file, what: None, offset: None }
        };
        match self.fuse.is_in_trouble(Class::Other, request) {
            Some(_) => Err(log::DiskError::plain(operation, file, libc::EIO)),
            None => Ok(()),
        }
    }
}

impl log::Disk for FusedLog {
    fn submit(&mut self, token: log::Token, io: log::Io) {
        if !self.fuse.step() {
            return;
        }
        match self.fuse.is_in_trouble(class_of(&io), || Request::of_log(&io)) {
            Some(Trouble::Short) => {
                let bytes = if let log::Io::Write { buffer, .. } = &io { buffer.len() / 2 } else { 0 };
                self.disk.borrow_mut().inject(0, LogFault::Short(bytes));
            }
            Some(Trouble::Failed) => self.disk.borrow_mut().inject(0, LogFault::Failed(libc::EIO)),
            Some(Trouble::Full | Trouble::Quota) => self.disk.borrow_mut().inject(0, LogFault::Errno(libc::ENOSPC)),
            None => {}
        }
        self.under_way.insert(token, What::Log(io.purpose()));
        self.fuse.began(What::Log(io.purpose()));
        self.disk.borrow_mut().submit(token, io);
    }

    fn flush(&mut self) -> Result<(), log::DiskError> {
        self.alive()?;
        self.disk.borrow_mut().flush()
    }

    fn poll_completion(&mut self) -> Option<log::Completion> {
        if self.under_way.is_empty() || self.fuse.is_stalled() || !self.fuse.step() {
            return None;
        }
        let completion = self.disk.borrow_mut().poll_completion()?;
        self.fuse.ended(self.under_way.remove(&completion.token).expect("what ends has begun"));
        Some(completion)
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
    segment_bytes: Rc<Cell<u64>>,
}

impl Disks {
    pub fn new() -> Disks {
        Disks::of(SimPages::new(), SimLog::new(1))
    }

    pub fn of(pages: SimPages, log: SimLog) -> Disks {
        Disks { pages, log: Rc::new(RefCell::new(log)), segment_bytes: Rc::new(Cell::new(64 << 10)) }
    }

    /// Size of the segments that a member makes here. 64 KiB: a history crosses dozens of their ends.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes.get()
    }

    pub fn set_segment_bytes(&self, bytes: u64) {
        self.segment_bytes.set(bytes);
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
        let after = match end {
            End::Kill => Disks::of(pages, self.log().after_kill()),
            End::Cut(crash, keep) => {
                pages.crash(crash);
                Disks::of(pages, self.log().after_crash(keep))
            }
        };
        after.set_segment_bytes(self.segment_bytes());
        after
    }

    pub fn fused(&self, fuse: &Fuse) -> (FusedPages, FusedLog) {
        let pages = FusedPages { disk: self.pages.clone(), fuse: fuse.clone(), under_way: BTreeMap::new() };
        (pages, FusedLog { disk: Rc::clone(&self.log), fuse: fuse.clone(), under_way: BTreeMap::new() })
    }
}

pub fn random(seed: u64) -> Random {
    Random::new(seed)
}
