//! The requests of a checkpoint, one after the other, and what their ends mean.

use super::*;
use crate::api::Fault;
use crate::tree::Nodes as _;

impl Pager {
    /// The next request of the checkpoint under way; `None` while it waits for the ends of others, or there is none.
    ///
    /// # Errors
    /// [`CheckpointError`]; once, when it happens.
    pub fn poll_io(&mut self) -> Result<Option<(Token, Io)>, CheckpointError> {
        loop {
            let checkpoints = &mut self.checkpoints;
            if checkpoints.failed.is_none()
                && let Some((purpose, io)) = checkpoints.apart.pop_front()
            {
                let token = checkpoints.token(purpose);
                return Ok(Some((token, io)));
            }
            let Some(running) = checkpoints.running.as_mut().filter(|_| checkpoints.failed.is_none()) else {
                return Ok(None);
            };
            if let Some((purpose, io)) = running.ready.pop_front() {
                running.written_bytes += io.written_bytes() as u64;
                let token = checkpoints.token(purpose);
                return Ok(Some((token, io)));
            }
            if !self.step_checkpoint()? {
                return Ok(None);
            }
        }
    }

    /// Takes the end of a request. Says when the checkpoint is done: then what it reports is durable.
    ///
    /// # Errors
    /// [`CheckpointError`]; once, when it happens.
    ///
    /// # Panics
    /// [`Pager::poll_io`] never gave this token, or its end was told before.
    pub fn completed(&mut self, token: Token, result: DiskResult) -> Result<Option<CheckpointDone>, CheckpointError> {
        let purpose = self.checkpoints.under_way.remove(&token).expect("each request ends once");
        if self.checkpoints.failed.is_some() {
            return Ok(None);
        }
        match (purpose, result) {
            (Purpose::Growth(_), Err(error)) if error.kind == DiskErrorKind::Full => {
                self.no_space(CheckpointError::Full(error));
            }
            (Purpose::Look(_), Err(error)) if error.kind != DiskErrorKind::Gone => return Ok(None),
            (_, Err(error)) => return Err(self.fail(CheckpointError::Failed(error))),
            (Purpose::Growth(pages), Ok(_)) => match self.shared.grown(pages) {
                Ok(()) => {
                    self.checkpoints.freelist.grown(pages);
                    self.checkpoints.length_pages = self.checkpoints.length_pages.max(pages);
                }
                Err(error) => self.no_space(CheckpointError::Full(error)),
            },
            (Purpose::Base(run), Ok(_)) => {
                if let Err(damage) = self.shared.bring_in_done(run) {
                    return Err(self.fail(CheckpointError::Damaged(damage)));
                }
            }
            (Purpose::Region(region) | Purpose::Look(region), Ok(maps)) => {
                self.checkpoints.looks_no_more &= !matches!(purpose, Purpose::Look(_));
                if let Err(damage) = self.checkpoints.freelist.region_read(region, &maps) {
                    self.checkpoints.note(damage);
                }
            }
            (Purpose::Cut(pages), Ok(_)) => {
                self.checkpoints.length_pages = pages;
                self.ask_cut();
            }
            // They are in the page cache, so they can be read from the file as soon as something refers to them.
            (Purpose::Nodes(run), Ok(_)) => self.shared.pages.set_resident(run),
            (Purpose::Write | Purpose::Sync, Ok(_)) => {}
        }
        let Some(running) = &self.checkpoints.running else { return Ok(None) };
        let is_quiet = self.checkpoints.under_way.is_empty() && running.ready.is_empty();
        match running.phase {
            Phase::MetaSync if is_quiet => Ok(Some(self.finish())),
            Phase::Spilled if is_quiet => {
                self.finish_spill();
                Ok(None)
            }
            Phase::Abort if is_quiet => Err(self.abort()),
            _ => Ok(None),
        }
    }

    fn fail(&mut self, error: CheckpointError) -> CheckpointError {
        self.checkpoints.failed = Some(error.clone());
        error
    }

    /// Makes requests ready, or moves on to the next phase; false where it has to wait.
    fn step_checkpoint(&mut self) -> Result<bool, CheckpointError> {
        let is_quiet = self.checkpoints.under_way.is_empty();
        let phase = self.checkpoints.running().phase;
        match phase {
            Phase::Write => return self.step_write(),
            Phase::Regions => return self.step_regions(),
            Phase::Spilled if is_quiet => {
                self.finish_spill();
                return Ok(false);
            }
            Phase::Abort if is_quiet => return Err(self.abort()),
            Phase::Maps if self.make_maps() => {}
            Phase::Maps if is_quiet => {
                let running = self.checkpoints.running();
                running.ready.push_back((Purpose::Sync, Io::Sync { purpose: IoPurpose::NodesSync }));
                running.phase = Phase::Sync;
            }
            Phase::Sync if is_quiet => {
                self.write_meta();
                self.checkpoints.running().phase = Phase::Meta;
            }
            Phase::Meta if is_quiet => {
                let running = self.checkpoints.running();
                running.ready.push_back((Purpose::Sync, Io::Sync { purpose: IoPurpose::MetaSync }));
                running.phase = Phase::MetaSync;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Places frames until a slice is ready. False where that needs the end of a request.
    fn step_write(&mut self) -> Result<bool, CheckpointError> {
        let seed = self.shared.seed;
        let mut bytes = 0;
        loop {
            let running = self.checkpoints.running();
            // Between holes slices are short, and many of them are as much work as a long one.
            if bytes >= SLICE_BYTES && !running.ready.is_empty() {
                return Ok(true);
            }
            let waiting = running.waiting.take();
            let Some(child) = waiting.or_else(|| running.walk.next(&self.forest)) else {
                running.flush();
                if let Some(rest) = running.run.take().filter(|run| run.pages > 0) {
                    self.checkpoints.freelist.give_back(rest);
                }
                let running = self.checkpoints.running();
                running.phase = if running.is_spill { Phase::Spilled } else { Phase::Regions };
                return Ok(true);
            };
            if child.reference.is_delta() && !self.has_base(&child)? {
                let running = self.checkpoints.running();
                running.waiting = Some(child);
                return Ok(!running.ready.is_empty());
            }
            let Some(page) = self.place(child.pages) else {
                let running = self.checkpoints.running();
                running.waiting = Some(child);
                return Ok(!running.ready.is_empty() || running.phase == Phase::Abort);
            };
            let running = self.checkpoints.running();
            if page != running.slice_first + (running.slice.len() / PAGE_BYTES) as u64 {
                running.flush();
                running.slice_first = page;
            }
            if running.slice.is_empty() {
                // What can follow it: in a file full of holes thousands of short slices wait at a time.
                let follow = running.run.map_or(0, |run| run.pages);
                let bytes = (child.pages + follow) as usize * PAGE_BYTES;
                running.slice.reserve_exact(bytes.min(SLICE_BYTES));
            }
            write_image(&self.forest, &child, page, seed, &mut running.slice);
            self.forest.set_page_of_frame(child.reference, page);
            running.placed.push(child);
            running.placed_bytes += child.reference.bytes(child.pages) as u64;
            bytes += child.pages as usize * PAGE_BYTES;
            let is_full = running.slice.len() >= SLICE_BYTES;
            if is_full {
                running.flush();
            }
            self.lend_base(&child);
            if is_full {
                return Ok(true);
            }
        }
    }

    /// Is the page below a delta in memory? Else it is asked for, once.
    fn has_base(&mut self, delta: &Child) -> Result<bool, CheckpointError> {
        let run = match self.forest.load(delta).map(|_| ()) {
            Ok(()) => return Ok(true),
            Err(Fault::Absent(run)) => run,
            Err(Fault::Damaged(damage)) => return Err(self.fail(CheckpointError::Damaged(damage))),
        };
        if self.checkpoints.under_way.values().any(|purpose| matches!(purpose, Purpose::Base(_))) {
            return Ok(false);
        }
        match self.shared.bring_in_cached(run) {
            Ok(true) => return self.has_base(delta),
            Ok(false) => {}
            Err(damage) => return Err(self.fail(CheckpointError::Damaged(damage))),
        }
        let (offset, bytes) = (run.first * PAGE_BYTES as u64, run.pages as usize * PAGE_BYTES);
        let io = Io::Read { offset, bytes, purpose: IoPurpose::ReadBase };
        self.checkpoints.running().ready.push_back((Purpose::Base(run), io));
        Ok(false)
    }

    /// A delta has a page of its own: the state that is written does not need the page below it.
    fn lend_base(&mut self, placed: &Child) {
        if self.checkpoints.running().is_spill || !placed.reference.is_delta() {
            return;
        }
        let base = self.forest.base_of(placed.reference);
        if self.forest.watched.as_ref().is_some_and(|watched| watched.lent_before.contains(base.page)) {
            return;
        }
        if let Err(damage) = self.checkpoints.freelist.lend(base.run(), base.generation) {
            self.checkpoints.note(damage);
        }
    }

    /// Pages for a frame: of the run that is being filled, or, for a long one, a run of their own. `None`: a request must
    /// end first.
    fn place(&mut self, pages: u32) -> Option<u64> {
        let running = self.checkpoints.running();
        if let Some(run) = running.run.as_mut().filter(|run| run.pages >= pages) {
            let page = run.first;
            *run = PageRun { first: page + u64::from(pages), pages: run.pages - pages };
            return Some(page);
        }
        let waits = self.checkpoints.under_way.values().any(|purpose| !matches!(purpose, Purpose::Nodes(_)));
        if waits || !self.checkpoints.apart.is_empty() {
            // Growth, a region's map or a cut is on its way.
            return None;
        }
        let freelist = &mut self.checkpoints.freelist;
        let slice_pages = (SLICE_BYTES / PAGE_BYTES) as u32;
        let run = if pages > 1 { freelist.allocate(pages) } else { freelist.allocate_up_to(slice_pages) };
        match run {
            Ok(run) if pages > 1 => Some(run.first),
            Ok(run) => {
                // Single pages come here only when the run is used up.
                self.checkpoints.running().run = Some(run);
                self.place(pages)
            }
            Err(need) => {
                self.ask(need);
                None
            }
        }
    }

    fn ask(&mut self, need: Need) {
        let running = self.checkpoints.running();
        match need {
            Need::Region(region) => running.ready.push_back(read_region(region)),
            Need::Growth(pages) => {
                let io = Io::SetLength { length: pages * PAGE_BYTES as u64, purpose: IoPurpose::Growth };
                running.ready.push_back((Purpose::Growth(pages), io));
            }
            Need::Full => self.no_space(CheckpointError::FileFull),
        }
    }

    /// Reads the maps that the freed pages need, then makes the maps.
    fn step_regions(&mut self) -> Result<bool, CheckpointError> {
        if self.checkpoints.under_way.values().any(|purpose| matches!(purpose, Purpose::Region(_))) {
            return Ok(false);
        }
        let regions = self.checkpoints.freelist.regions_to_load();
        if !regions.is_empty() {
            self.checkpoints.running().ready.extend(regions.into_iter().map(read_region));
            return Ok(true);
        }
        if let Err(damage) = self.checkpoints.freelist.fix_maps() {
            return Err(self.fail(CheckpointError::Damaged(damage)));
        }
        self.checkpoints.running().phase = Phase::Maps;
        Ok(true)
    }

    /// Makes requests of the next maps; false where there are none left.
    fn make_maps(&mut self) -> bool {
        if self.checkpoints.running().space.is_some() {
            return false;
        }
        let maps = self.checkpoints.freelist.next_maps(MAPS_AT_ONCE);
        if maps.is_empty() {
            let space = self.checkpoints.freelist.space();
            self.checkpoints.running().space = Some(space);
            return false;
        }
        for (page, buffer) in maps {
            let (offset, buffers) = (page * PAGE_BYTES as u64, vec![buffer]);
            let io = Io::Write { offset, buffers, purpose: IoPurpose::Map };
            self.checkpoints.running().ready.push_back((Purpose::Write, io));
        }
        true
    }

    /// All nodes are durable, and known to be in the page cache: the meta may name them.
    fn write_meta(&mut self) {
        let running = self.checkpoints.running.as_mut().expect("a checkpoint is under way");
        for root in running.state.roots.iter_mut().filter(|root| root.child.reference.is_frame()) {
            let page = self.forest.page_of_frame(root.child.reference, root.child.pages);
            root.child.reference = Reference::page(page);
        }
        let space = running.space.take().expect("the maps were made");
        let slot = 1 - self.checkpoints.newest_slot;
        let bytes = crate::open::meta_of(&running.state, space).encode(self.file);
        let (offset, buffers) = (META_PAGES[slot] * PAGE_BYTES as u64, vec![Buffer::from(bytes)]);
        let io = Io::Write { offset, buffers, purpose: IoPurpose::Meta };
        running.ready.push_back((Purpose::Write, io));
    }

    fn no_space(&mut self, error: CheckpointError) {
        let running = self.checkpoints.running();
        running.phase = Phase::Abort;
        running.no_space = Some(error);
        running.ready.clear();
        running.slice.clear();
    }
}

impl Checkpoints {
    fn token(&mut self, purpose: Purpose) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.under_way.insert(token, purpose);
        token
    }
}

fn read_region(region: u64) -> (Purpose, Io) {
    (Purpose::Region(region), read_maps(region, IoPurpose::ReadMap))
}

pub(super) fn read_maps(region: u64, purpose: IoPurpose) -> Io {
    let run = Freelist::map_run(region);
    Io::Read { offset: run.first * PAGE_BYTES as u64, bytes: run.pages as usize * PAGE_BYTES, purpose }
}

impl Running {
    /// Makes requests of the filled slice, none of them larger than [`SLICE_BYTES`].
    fn flush(&mut self) {
        let slice = core::mem::take(&mut self.slice);
        let mut first = self.slice_first;
        if slice.len() <= SLICE_BYTES && !slice.is_empty() {
            self.write_nodes(first, slice);
            return;
        }
        for part in slice.chunks(SLICE_BYTES) {
            self.write_nodes(first, part.to_vec());
            first += (part.len() / PAGE_BYTES) as u64;
        }
    }

    fn write_nodes(&mut self, first: u64, bytes: Vec<u8>) {
        let run = PageRun { first, pages: (bytes.len() / PAGE_BYTES) as u32 };
        let (offset, buffers) = (first * PAGE_BYTES as u64, vec![Buffer::from(bytes)]);
        self.ready.push_back((Purpose::Nodes(run), Io::Write { offset, buffers, purpose: self.purpose() }));
    }
}
