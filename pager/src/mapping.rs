//! The page file as memory that readers look at.

use crate::api::PageRun;

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

    /// Says that the run must be brought in and checked again.
    fn clear_resident(&self, run: PageRun);

    /// The bytes of a run whatever is known of it, to be checked before it is served. `None` beyond the end of the file.
    fn unchecked(&self, run: PageRun) -> Option<&[u8]>;
}
