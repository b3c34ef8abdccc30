//! The pages of a pinned state, from any offset of their stream on.
//!
//! They are read from the file, not from the mapping: a page that is not in memory costs a read of many, and no fault, and a disk
//! that can't read is an error. What the page cache has is copied at once, to where it is sent from. What is read is checked
//! before it goes: this member must learn of its damage first.

use std::io;
use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};
use ringstone_net::LocalBoxFuture;
use ringstone_net::peer::SnapshotSource;
use ringstone_pager::Pin;
use ringstone_pager::api::{Fault, PageRun};
use ringstone_pager::transfer::{Collector, NodeCheck, PageImage, Piece};

use super::super::Shard;
use crate::error::Error;

const PAGE_BYTES: usize = 4096;
/// Bytes that are made ready at once.
const AHEAD_BYTES: usize = 256 << 10;
/// Pages that one read takes: of a file full of holes twice what is ahead.
const READ_PAGES_MAX: u64 = 128;
/// A hole that is read along: it costs less than another read.
const HOLE_PAGES_MAX: u64 = 8;

/// See the module.
pub(super) struct PageSource<'p> {
    shard: &'p Shard,
    pin: &'p Pin<'p>,
    image: Option<PageImage<'p>>,
    check: NodeCheck,
    /// Offset of `ready`.
    at: u64,
    ready: Bytes,
    pub(super) sent_bytes: u64,
}

impl<'p> PageSource<'p> {
    pub(super) fn new(shard: &'p Shard, pin: &'p Pin<'p>) -> PageSource<'p> {
        let (check, ready) = (NodeCheck::default(), Bytes::new());
        PageSource { shard, pin, image: None, check, at: 0, ready, sent_bytes: 0 }
    }

    /// Which pages the state has: all branches are looked at, once.
    async fn collect(&mut self) -> Result<(), Error> {
        if self.image.is_some() {
            return Ok(());
        }
        let identity = &self.shard.shared.identity;
        let mut collector = Collector::new(self.pin, identity.file_id, identity.owner_id());
        loop {
            match collector.step() {
                Ok(true) => break,
                Ok(false) => glommio::yield_if_needed().await,
                Err(Fault::Absent(run)) => self.shard.bring_in(run).await?,
                Err(Fault::Damaged(damage)) => return Err(self.shard.refused(Error::Damaged(damage))),
            }
        }
        self.image = Some(collector.finish().ok_or(Error::NoSpace)?);
        Ok(())
    }

    /// Makes the next bytes ready; none at the end.
    async fn fill(&mut self) -> Result<(), Error> {
        self.collect().await?;
        let image = self.image.as_ref().expect("just made");
        // Pieces of a page's length each, if the file is full of holes: read together what stands together.
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        while bytes < AHEAD_BYTES {
            let pages_max = u32::try_from((AHEAD_BYTES - bytes).div_ceil(PAGE_BYTES)).expect("few pages");
            let piece = match image.piece(self.at + bytes as u64, pages_max) {
                Ok(piece) => piece,
                Err(Fault::Absent(run)) => {
                    self.shard.bring_in(run).await?;
                    continue;
                }
                Err(Fault::Damaged(damage)) => return Err(self.shard.refused(Error::Damaged(damage))),
            };
            bytes += match &piece {
                Piece::End => break,
                Piece::Bytes(bytes) => bytes.len(),
                Piece::Pages(run) => run.pages as usize * PAGE_BYTES,
            };
            pieces.push(piece);
        }
        let mut ready = BytesMut::with_capacity(bytes);
        let mut rest = &pieces[..];
        while let Some((piece, behind)) = rest.split_first() {
            let Piece::Pages(first) = piece else {
                if let Piece::Bytes(bytes) = piece {
                    ready.extend_from_slice(bytes);
                }
                rest = behind;
                continue;
            };
            let start = ready.len();
            if self.shard.read_cached(*first, &mut ready) {
                let checked = self.check.look(image, first.first, &ready[start..]);
                checked.map_err(|damage| self.shard.refused(Error::Damaged(damage)))?;
                rest = behind;
                continue;
            }
            let together = together(*first, behind);
            let last = together.last().copied().unwrap_or(*first);
            let whole = first.first..last.first + u64::from(last.pages);
            let read = self.shard.read_pages(run_of(&whole)).await?;
            for run in core::iter::once(*first).chain(together.iter().copied()) {
                let start = (run.first - whole.start) as usize * PAGE_BYTES;
                let pages = &read[start..start + run.pages as usize * PAGE_BYTES];
                let checked = self.check.look(image, run.first, pages);
                checked.map_err(|damage| self.shard.refused(Error::Damaged(damage)))?;
                ready.extend_from_slice(pages);
            }
            rest = &behind[together.len()..];
        }
        self.ready = ready.freeze();
        Ok(())
    }

    /// Goes to this offset, where it is not there.
    async fn seek(&mut self, offset: u64) -> Result<(), Error> {
        let ahead = offset.checked_sub(self.at).and_then(|ahead| usize::try_from(ahead).ok());
        match ahead.filter(|ahead| *ahead <= self.ready.len()) {
            Some(ahead) => self.ready.advance(ahead),
            None => {
                let into_page = (offset % PAGE_BYTES as u64) as usize;
                (self.at, self.ready) = (offset - into_page as u64, Bytes::new());
                self.check = NodeCheck::default();
                if into_page > 0 {
                    self.fill().await?;
                    self.ready.advance(into_page.min(self.ready.len()));
                }
            }
        }
        self.at = offset;
        Ok(())
    }
}

fn run_of(pages: &Range<u64>) -> PageRun {
    PageRun { first: pages.start, pages: u32::try_from(pages.end - pages.start).expect("few pages") }
}

/// The runs behind `first` that are read with it.
fn together(first: PageRun, behind: &[Piece]) -> Vec<PageRun> {
    let mut end = first.first + u64::from(first.pages);
    let more = behind.iter().map_while(|piece| match piece {
        Piece::Pages(run)
            if run.first >= end
                && run.first - end <= HOLE_PAGES_MAX
                && run.first + u64::from(run.pages) - first.first <= READ_PAGES_MAX =>
        {
            end = run.first + u64::from(run.pages);
            Some(*run)
        }
        _ => None,
    });
    more.collect()
}

impl SnapshotSource for PageSource<'_> {
    fn read(&mut self, offset: u64, bytes_max: usize) -> LocalBoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            // Not more often: while a task is ready, the executor looks at its ring once a millisecond only.
            glommio::yield_if_needed().await;
            let text = |error: Error| io::Error::other(error.text());
            if offset != self.at {
                self.seek(offset).await.map_err(text)?;
            }
            if self.ready.is_empty() {
                self.fill().await.map_err(text)?;
            }
            let chunk = self.ready.split_to(self.ready.len().min(bytes_max));
            self.at += chunk.len() as u64;
            self.sent_bytes += chunk.len() as u64;
            Ok(chunk)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_together_is_read_together() {
        let run = |first, pages| PageRun { first, pages };
        let pages = |first, pages| Piece::Pages(PageRun { first, pages });
        let behind = [pages(12, 3), pages(23, 1), pages(40, 1)];
        assert_eq!(together(run(10, 2), &behind), [run(12, 3), run(23, 1)]);
        assert_eq!(together(run(10, 2), &[Piece::Bytes(Vec::new()), pages(12, 3)]), []);
        assert_eq!(together(run(10, 2), &[pages(12, 126), pages(138, 1)]), [run(12, 126)]);
        assert_eq!(together(run(10, 2), &[pages(5, 1)]), []);
    }
}
