//! The one place where descriptors change owners: into glommio's types, which have no safe way in.

use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd};

use glommio::io::BufferedFile;
use glommio::net::TcpListener;

/// A file of the executor of this thread.
#[must_use]
pub fn buffered_file(fd: OwnedFd) -> BufferedFile {
    // SAFETY: the descriptor is open and owned by nobody else: `OwnedFd` gave it up.
    unsafe { BufferedFile::from_raw_fd(fd.into_raw_fd()) }
}

/// A listener of the executor of this thread, from a socket that is bound and listens.
#[must_use]
pub fn listener(fd: OwnedFd) -> TcpListener {
    // SAFETY: as above.
    unsafe { TcpListener::from_raw_fd(fd.into_raw_fd()) }
}
