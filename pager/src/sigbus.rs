//! What a touch of a mapped page that cannot be read says before the process ends.
//!
//! Pages are brought in by reads before they are touched, so this should not happen; but a page can be evicted right behind
//! the last look, and then fail to come back. All in the handler is async-signal-safe: no allocation, no lock, no
//! formatting machinery; `fstat`, `write` and `_exit` only.

use core::ffi::c_int;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::layout::PAGE_BYTES;
use crate::mapping::Mapping;

/// Most mappings that are known by name at the same time.
pub const NAMED_MAPPINGS_MAX: usize = 64;

struct Place {
    /// First address; 0 where the place is free, 1 while it is being filled.
    start: AtomicUsize,
    bytes: AtomicUsize,
    file: AtomicI32,
    /// A C string. Never freed: a handler may be looking at it.
    name: AtomicPtr<core::ffi::c_char>,
}

const FILLING: usize = 1;

static PLACES: [Place; NAMED_MAPPINGS_MAX] = [const {
    Place {
        start: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
        file: AtomicI32::new(-1),
        name: AtomicPtr::new(core::ptr::null_mut()),
    }
}; NAMED_MAPPINGS_MAX];

static EXIT_STATUS: AtomicI32 = AtomicI32::new(1);

/// Installs the handler for the process: a SIGBUS in a named mapping prints file, page and cause to stderr and ends the
/// process with `exit_status`; any other does what it did by default.
///
/// # Errors
/// The system's.
pub fn install(exit_status: i32) -> io::Result<()> {
    EXIT_STATUS.store(exit_status, Ordering::Relaxed);
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
    // SAFETY: all zeros is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the action is filled, and its handler async-signal-safe.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, core::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Keeps a mapping's name known to the handler.
pub struct Named {
    place: &'static Place,
    _file: File,
}

/// Tells the handler which file a mapping shows. Drop the result before the mapping.
///
/// # Errors
/// The file can't be duplicated, the path has a zero byte, or [`NAMED_MAPPINGS_MAX`] are named already.
pub fn name(mapping: &Mapping, file: &File, path: &Path) -> io::Result<Named> {
    let file = file.try_clone()?;
    let name = CString::new(OsStr::as_bytes(path.as_os_str()))?;
    let (start, bytes) = mapping.range();
    let taken = |place: &&Place| place.start.compare_exchange(0, FILLING, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let Some(place) = PLACES.iter().find(taken) else {
        return Err(io::Error::new(io::ErrorKind::OutOfMemory, "too many page files are mapped"));
    };
    place.bytes.store(bytes, Ordering::Relaxed);
    place.file.store(file.as_raw_fd(), Ordering::Relaxed);
    // Leaked, once per mapping.
    place.name.store(name.into_raw(), Ordering::Relaxed);
    place.start.store(start, Ordering::Release);
    Ok(Named { place, _file: file })
}

impl Drop for Named {
    fn drop(&mut self) {
        self.place.start.store(0, Ordering::Release);
    }
}

extern "C" fn handle(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid siginfo to a handler with SA_SIGINFO; a SIGBUS has an address.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    for place in &PLACES {
        let start = place.start.load(Ordering::Acquire);
        if start > FILLING && address.wrapping_sub(start) < place.bytes.load(Ordering::Relaxed) {
            report(place, (address - start) as u64, code);
            // SAFETY: ends the process without running anything of it.
            unsafe { libc::_exit(EXIT_STATUS.load(Ordering::Relaxed)) };
        }
    }
    // Not ours: on return the same instruction faults again, with the default action.
    // SAFETY: a valid signal and disposition.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

fn report(place: &Place, offset: u64, code: c_int) {
    let name = place.name.load(Ordering::Relaxed);
    // SAFETY: stored before `start` was, which was seen; never freed.
    let name = unsafe { core::ffi::CStr::from_ptr(name) };
    let offset = offset - offset % PAGE_BYTES as u64;
    print(b"ringstone: page ");
    print_number(offset / PAGE_BYTES as u64);
    print(b" (file offset ");
    print_number(offset);
    print(b") of the page file ");
    print(name.to_bytes());
    print(b" could not be read: ");
    // SAFETY: all zeros is a valid `stat`.
    let mut status: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: `status` is a valid place for the answer; a bad descriptor is an error.
    let is_known = unsafe { libc::fstat(place.file.load(Ordering::Relaxed), &raw mut status) } == 0;
    if code == libc::BUS_MCEERR_AR || code == libc::BUS_MCEERR_AO {
        print(b"the memory that held it is defective. Check the machine's memory.\n");
    } else if is_known && (status.st_size as u64) <= offset {
        print(b"the file was truncated to ");
        print_number(status.st_size as u64);
        print(b" bytes. Restore it from a peer or a snapshot.\n");
    } else {
        print(
            b"an I/O error of the disk. See the kernel's log; replace the disk, restore from a peer or a snapshot.\n",
        );
    }
}

fn print(bytes: &[u8]) {
    // SAFETY: the bytes are valid for their length. What stderr does not take is lost.
    unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
}

fn print_number(number: u64) {
    let mut digits = [0u8; 20];
    let mut rest = number;
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 || first == 0 {
            break;
        }
    }
    print(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use super::*;
    use crate::api::PageRun;
    use crate::mapping::PageSource;

    const STATUS: i32 = 87;
    const CHILD: &str = "RINGSTONE_TEST_SIGBUS_PATH";

    /// Runs in a process of its own, started by the test below; does nothing otherwise.
    #[test]
    fn child_touches_a_truncated_page() {
        let Some(path) = std::env::var_os(CHILD) else { return };
        install(STATUS).expect("installed");
        let file = File::options().read(true).write(true).open(&path).expect("the parent made it");
        file.write_all_at(&[1; 8 * PAGE_BYTES], 0).expect("written");
        let mapping = Mapping::new(&file, 8).expect("mapped");
        let _named = name(&mapping, &file, Path::new(&path)).expect("named");
        let run = PageRun { first: 5, pages: 1 };
        mapping.set_resident(run);
        let page = mapping.page(run).expect("resident");
        assert_eq!(page[0], 1);
        file.set_len(2 * PAGE_BYTES as u64).expect("truncated");
        println!("{}", std::hint::black_box(page)[100]);
    }

    #[test]
    fn a_sigbus_ends_the_process_with_file_page_and_cause() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let output = Command::new(std::env::current_exe().expect("the test's own program"))
            .args(["sigbus::tests::child_touches_a_truncated_page", "--exact", "--nocapture"])
            .env(CHILD, file.path())
            .output()
            .expect("the child ran");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(STATUS), "{said}");
        let file = file.path().display();
        let expected = format!(
            "page 5 (file offset 20480) of the page file {file} could not be read: the file was truncated to 8192 bytes"
        );
        assert!(said.contains(&expected), "{said}");
    }
}
