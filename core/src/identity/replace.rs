//! Small files of a member that are replaced as a whole: the old content or the new one, whatever happens on the way.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use super::{IdentityError, io_error};

/// On disk when this returns: the file of this name in `folder`, with its content and its name.
///
/// # Errors
/// [`IdentityError::Io`]: it has its old content or this one.
pub(super) fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
    let (path, fresh) = (folder.join(name), folder.join(format!("{name}.tmp")));
    let mut file = File::create(&fresh).map_err(io_error(&fresh))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error(&fresh))?;
    fs::rename(&fresh, &path).map_err(io_error(&path))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error(folder))
}

/// A line of JSON and its CRC32 in hexadecimal below it: for people to read, and for nobody to change.
pub(super) fn checked_lines(json: &str) -> Vec<u8> {
    format!("{json}\n{:08x}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}

/// Reads what [`checked_lines`] made; none for other bytes.
pub(super) fn read_checked(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (json, crc) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    (format!("{:08x}", crc32fast::hash(json.as_bytes())) == crc).then_some(json)
}
