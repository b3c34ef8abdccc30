//! The page file as memory that readers look at.
//!
//! The mapping is made once, longer than any file that is allowed, so that it never moves: the kernel lets it reach
//! beyond the end of the file, and what the file grows by appears in it. A touch beyond the end is a SIGBUS, so `page`
//! serves only what was set resident, and that only up to the length that the owner has told.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::api::PageRun;
use crate::layout::{FILE_PAGES_MAX, PAGE_BYTES};
use crate::residency::Residency;

/// Pages of the file as readers see them. A page is served only after it was brought in (by a driver's read, so that an
/// I/O error is an error and not a signal) and checked.
pub trait PageSource: Send + Sync {
    /// The bytes of a run, aligned to pages. `None`: one of its pages is not known to be in memory and checked, or lies
    /// beyond the end of the file. No I/O, no lock on the mapping.
    ///
    /// The caller makes sure that the run is not written meanwhile: by a pin, or by being the writer.
    fn page(&self, run: PageRun) -> Option<&[u8]>;

    /// Says that the run was brought in, and that its check passed; or that it was just written.
    fn set_resident(&self, run: PageRun);

    /// Says that the run must be brought in and checked again. By the writer, between two operations: within one it relies on
    /// what it has looked at.
    fn clear_resident(&self, run: PageRun);

    /// The bytes of a run whatever is known of it, to be checked before it is served. `None` beyond the end of the file.
    fn unchecked(&self, run: PageRun) -> Option<&[u8]>;

    /// Does the kernel hold the run in memory, though it is not known to be checked? A guess that may be old at once: what
    /// was evicted meanwhile costs a major fault at its first touch.
    fn is_cached(&self, run: PageRun) -> bool;

    /// The file has become so many pages long. A smaller number changes nothing.
    ///
    /// # Errors
    /// So much can't be looked at: the address space that the process was allowed is shorter.
    fn grown(&self, file_pages: u64) -> io::Result<()>;

    /// The file is about to become so short: no page behind that is served, and what comes to stand there later must be
    /// brought in. Called by the writer, who makes sure that no pin reaches such a page.
    fn cut(&self, file_pages: u64);
}

/// Pages of the longest mapping; asked for first, then halves of it where the address space is limited.
const RESERVED_PAGES: u64 = FILE_PAGES_MAX;
/// A longer run than this is always read through the driver: what it copies outweighs the way there.
const CACHED_PAGES_MAX: usize = 16;

/// A page file, mapped read-only and shared.
pub struct Mapping {
    base: NonNull<u8>,
    /// For advice: what is mapped stays so when it is closed.
    file: File,
    reserved_pages: u64,
    /// What readers may look at.
    file_pages: AtomicU64,
    residency: Residency,
}

// SAFETY: the memory is only read through it, by any thread; all else in it is atomic.
unsafe impl Send for Mapping {}
// SAFETY: the same.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `file`, of which the first `file_pages` pages are there. Nothing is resident. The file may be closed.
    ///
    /// # Errors
    /// The system's: the file can't be mapped, or the process may not have as much address space as the file needs.
    pub fn new(file: &File, file_pages: u64) -> io::Result<Mapping> {
        let mut reserved_pages = RESERVED_PAGES;
        let base = loop {
            match map(file, reserved_pages) {
                Ok(base) => break base,
                Err(error) if error.raw_os_error() != Some(libc::ENOMEM) => return Err(error),
                Err(error) if reserved_pages / 2 <= file_pages => return Err(error),
                Err(_) => reserved_pages /= 2,
            }
        };
        let mapping = Mapping {
            base,
            file: file.try_clone()?,
            reserved_pages,
            file_pages: AtomicU64::new(file_pages),
            residency: Residency::new(),
        };
        // Advice: what the kernel does not follow costs speed only.
        // SAFETY: the range is this mapping's own.
        unsafe { libc::madvise(base.as_ptr().cast(), mapping.reserved_bytes(), libc::MADV_RANDOM) };
        // SAFETY: no memory is involved.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
        Ok(mapping)
    }

    /// First address and bytes: for the SIGBUS handler.
    #[must_use]
    pub fn range(&self) -> (usize, usize) {
        (self.base.as_ptr() as usize, self.reserved_bytes())
    }

    /// Pages of the file, as far as readers may look at it.
    #[must_use]
    pub fn file_pages(&self) -> u64 {
        self.file_pages.load(Ordering::Acquire)
    }

    /// Pages that are known to be in memory and checked.
    #[must_use]
    pub fn resident_pages(&self) -> u64 {
        self.residency.pages()
    }

    /// Gives those pages of the run back to the kernel that are not known to be in memory: they were forgotten, and nobody
    /// has needed them since. What is dirty stays.
    ///
    /// # Errors
    /// The system's.
    pub fn drop_unneeded(&self, run: PageRun) -> io::Result<()> {
        let end = run.first.saturating_add(u64::from(run.pages)).min(self.file_pages());
        let pages = u32::try_from(end.saturating_sub(run.first)).unwrap_or(0);
        self.residency.for_each_absent(PageRun { first: run.first, pages }, |absent| self.give_back(absent))
    }

    fn give_back(&self, run: PageRun) -> io::Result<()> {
        let bytes = run.pages as usize * PAGE_BYTES;
        let start = self.base.as_ptr().wrapping_add(run.first as usize * PAGE_BYTES);
        // SAFETY: the range is inside of this mapping, which is shared and of a file: what is unmapped comes back from the
        // page cache, or the file, with the same bytes when it is touched.
        if unsafe { libc::madvise(start.cast(), bytes, libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let (Ok(offset), Ok(length)) = (i64::try_from(run.first * PAGE_BYTES as u64), i64::try_from(bytes)) else {
            return Ok(());
        };
        // SAFETY: no memory is involved.
        match unsafe { libc::posix_fadvise(self.file.as_raw_fd(), offset, length, libc::POSIX_FADV_DONTNEED) } {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn reserved_bytes(&self) -> usize {
        self.reserved_pages as usize * PAGE_BYTES
    }

    /// One byte a page from `first` on: bit 0 says that the kernel holds it in memory.
    fn ask_kernel(&self, first: u64, in_memory: &mut [u8]) -> io::Result<()> {
        assert!(first + in_memory.len() as u64 <= self.reserved_pages, "the range is inside of the mapping");
        let start = self.base.as_ptr().wrapping_add(first as usize * PAGE_BYTES);
        // SAFETY: the range is inside of this mapping, and `in_memory` has a byte for each of its pages.
        match unsafe { libc::mincore(start.cast(), in_memory.len() * PAGE_BYTES, in_memory.as_mut_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn map(file: &File, pages: u64) -> io::Result<NonNull<u8>> {
    let bytes = pages as usize * PAGE_BYTES;
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let base = unsafe { libc::mmap(core::ptr::null_mut(), bytes, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("a mapping at address 0"))
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; slices of it borrow from `self`, so none is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.reserved_bytes()) };
    }
}

impl PageSource for Mapping {
    fn page(&self, run: PageRun) -> Option<&[u8]> {
        if self.residency.contains(run) { self.unchecked(run) } else { None }
    }

    fn unchecked(&self, run: PageRun) -> Option<&[u8]> {
        let end = run.first.checked_add(u64::from(run.pages))?;
        if run.pages == 0 || end > self.file_pages.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the range is inside of the mapping, which lives as long as `self`, and of the file. Its bytes do not
        // change while they are looked at, and the file does not become too short for them: pages are written, or cut
        // off, only while no pin and no tree refers to them, and the caller has a pin or is the writer.
        Some(unsafe {
            core::slice::from_raw_parts(
                self.base.as_ptr().add(run.first as usize * PAGE_BYTES),
                run.pages as usize * PAGE_BYTES,
            )
        })
    }

    fn set_resident(&self, run: PageRun) {
        self.residency.set(run);
    }

    fn clear_resident(&self, run: PageRun) {
        self.residency.clear(run);
    }

    fn is_cached(&self, run: PageRun) -> bool {
        let mut in_memory = [0u8; CACHED_PAGES_MAX];
        let Some(in_memory) = in_memory.get_mut(..run.pages as usize) else { return false };
        self.unchecked(run).is_some()
            && self.ask_kernel(run.first, in_memory).is_ok()
            && in_memory.iter().all(|state| state & 1 != 0)
    }

    fn grown(&self, file_pages: u64) -> io::Result<()> {
        if file_pages > self.reserved_pages {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "the file has outgrown the address space limit"));
        }
        self.file_pages.fetch_max(file_pages, Ordering::Release);
        Ok(())
    }

    fn cut(&self, file_pages: u64) {
        let old = self.file_pages.fetch_min(file_pages, Ordering::AcqRel);
        let mut first = file_pages;
        while first < old {
            let pages = u32::try_from(old - first).unwrap_or(u32::MAX);
            self.residency.clear(PageRun { first, pages });
            first += u64::from(pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn run(first: u64, pages: u32) -> PageRun {
        PageRun { first, pages }
    }

    #[test]
    fn a_page_is_served_when_it_is_resident_and_inside_of_the_file() {
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(&[1; 4 * PAGE_BYTES], 0).expect("written");
        let mapping = Mapping::new(&file, 4).expect("mapped");
        assert!(mapping.page(run(1, 2)).is_none());
        mapping.set_resident(run(1, 2));
        assert_eq!(mapping.page(run(1, 2)), Some(&[1; 2 * PAGE_BYTES][..]));
        assert!(mapping.page(run(1, 3)).is_none() && mapping.page(run(1, 0)).is_none());
        mapping.clear_resident(run(2, 1));
        assert!(mapping.page(run(1, 2)).is_none());
        mapping.set_resident(run(4, 1));
        assert!(mapping.page(run(4, 1)).is_none(), "behind the end, whatever the bit says");
        assert!(mapping.page(run(u64::MAX, 1)).is_none());
    }

    #[test]
    fn what_the_file_grows_by_appears_without_a_move() {
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(&[1; PAGE_BYTES], 0).expect("written");
        let mapping = Mapping::new(&file, 1).expect("mapped");
        mapping.set_resident(run(0, 1));
        let old = mapping.page(run(0, 1)).expect("resident");
        file.write_all_at(&[2; PAGE_BYTES], 70_000 * PAGE_BYTES as u64).expect("written");
        mapping.grown(70_001).expect("inside of the address space");
        mapping.set_resident(run(70_000, 1));
        assert_eq!(mapping.page(run(70_000, 1)), Some(&[2; PAGE_BYTES][..]));
        assert_eq!(old, [1; PAGE_BYTES]);
        assert!(mapping.grown(FILE_PAGES_MAX + 1).is_err());
    }
}
