//! How often has this member's folder been opened? Other members refuse an older process of it, and a second one.
//!
//! ```text
//! <data-dir>/member/incarnation      replaced at each start of a member that has others
//!
//! offset size  field
//!      0    8  magic "RSTNINCR"
//!      8    8  the count, little endian
//!     16    4  CRC32 of the bytes before
//! ```

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::replace::replace;
use super::{IdentityError, io_error};

const MAGIC: &[u8; 8] = b"RSTNINCR";
const BYTES: usize = 20;

fn encode(count: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&count.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..16]);
    bytes[16..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let count = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    (bytes == encode(count)).then_some(count)
}

/// Counts this start. On disk when this returns: the count, before anybody is told of it. A file that is damaged counts from
/// the clock, which is far beyond any count: others would refuse a lower one.
///
/// # Errors
/// [`IdentityError::Io`]; the count may or may not be on disk.
pub fn count_start(data_dir: &Path) -> Result<u64, IdentityError> {
    let folder = data_dir.join("member");
    let path = folder.join("incarnation");
    let before = match fs::read(&path) {
        Ok(bytes) => decode(&bytes).unwrap_or_else(|| {
            let count = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1 << 40, |since| since.as_secs());
            tracing::warn!(file = %path.display(), count, "the count of this member's starts is damaged: it goes on from the clock");
            count
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io_error(&path)(error)),
    };
    let count = before + 1;
    replace(&folder, "incarnation", &encode(count))?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_counted_and_damage_never_counts_back() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("member")).expect("a folder");
        assert_eq!(count_start(folder.path()).expect("first"), 1);
        assert_eq!(count_start(folder.path()).expect("second"), 2);
        fs::write(folder.path().join("member/incarnation"), b"RSTNINCR????????????").expect("damaged");
        assert!(count_start(folder.path()).expect("third") > 1_000_000_000);
    }
}
