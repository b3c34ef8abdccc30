//! What a person wants to see of a page file: `ringstone inspect pages FILE`.

use std::io::{self, Write};
use std::path::Path;

use crate::api::TreeSpec;
use crate::check::{CheckError, CheckReport, check};
use crate::disk::StdDisk;

/// Why a file could not be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file can't be opened, or `out` not written.
    #[error(transparent)]
    System(#[from] io::Error),
    /// It is not a page file whose state can be found.
    #[error(transparent)]
    File(#[from] CheckError),
}

/// Checks the page file at `path`, and writes the shape of its trees, its free runs and all findings to `out`. Reads the
/// whole file, changes nothing. `trees` gives names, and lets the sums of leaves be checked; it may be empty. A file that
/// is being written may show findings that are none.
///
/// # Errors
/// [`InspectError`]; damage behind the first pages is no error, but in the report.
pub fn inspect(path: &Path, trees: &[TreeSpec], out: &mut dyn Write) -> Result<CheckReport, InspectError> {
    let mut disk = StdDisk::from_file(std::fs::File::open(path)?);
    let report = check(&mut disk, trees)?;
    writeln!(out, "{}", path.display())?;
    for spec in trees.iter().filter(|spec| report.trees.iter().any(|tree| tree.tree == spec.id.0)) {
        writeln!(out, "tree {} is \"{}\"", spec.id.0, spec.name)?;
    }
    write!(out, "{report}")?;
    Ok(report)
}
