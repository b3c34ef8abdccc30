//! A new page file on any [`Disk`].

use std::io;

use super::PageSink;
use crate::disk::{self, Buffer, Disk, Io, IoPurpose};

/// Blocks its caller where the disk does.
pub struct DiskSink<D>(pub D);

impl<D: Disk> DiskSink<D> {
    fn run(&mut self, io: Io) -> io::Result<()> {
        disk::run(&mut self.0, io).map(drop).map_err(io::Error::other)
    }
}

impl<D: Disk> PageSink for DiskSink<D> {
    fn write(&mut self, offset: u64, pages: &[u8]) -> io::Result<()> {
        let buffers = vec![Buffer::from(pages.to_vec())];
        self.run(Io::Write { offset, buffers, purpose: IoPurpose::Nodes })
    }

    fn set_length(&mut self, bytes: u64) -> io::Result<()> {
        self.run(Io::SetLength { length: bytes, purpose: IoPurpose::CreateLength })
    }

    /// A [`Disk`] does not tell: its requests do.
    fn room(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.run(Io::Sync { purpose: IoPurpose::CreateSync })
    }
}
