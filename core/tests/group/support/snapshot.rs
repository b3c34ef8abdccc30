//! Snapshots of a member, and members made from them.

use std::path::Path;
use std::sync::Arc;

use ringstone_core::error::ReadFault;
use ringstone_core::group::{Restore, RestoreError, RestoreOptions, tree_specs};
use ringstone_core::image::{ImageReader, ImageWriter, Step};
use ringstone_core::state::State;
use ringstone_pager::api::{Fault, ReadTrees as _};
use ringstone_pager::disk::{Disk as _, StdDisk};
use ringstone_pager::layout::PAGE_BYTES;
use ringstone_pager::mapping::Mapping;
use ringstone_pager::transfer::{Collector, Piece};
use ringstone_pager::{FileOptions, Pager, Reader};

use super::disks::{Disks, Fuse};
use super::history::{Made, rounds};
use super::journal::Journal;
use super::life::{self, IDENTITY, Life};

/// The image of a member's store.
pub fn image_of(life: &Life) -> Vec<u8> {
    written(&life.group.reader(), ImageWriter::new(&IDENTITY))
}

/// What this writer makes of what is published.
pub fn written(reader: &Reader, mut writer: ImageWriter) -> Vec<u8> {
    let mut image = Vec::new();
    loop {
        let pin = reader.pin();
        let state = State::from_attributes(pin.attributes()).expect("a state of this version");
        match writer.step(&pin, &state) {
            Ok(Step::Counting) => {}
            Ok(Step::Piece(piece)) => image.extend_from_slice(&piece.bytes),
            Ok(Step::Done) => return image,
            Err(ReadFault::Absent(run)) => reader.bring_in_done(run).expect("the page is sound"),
            Err(fault) => panic!("{fault}"),
        }
    }
}

/// A member's store as pages, as it sends them to another.
pub fn pages_of(life: &Life, disks: &Disks) -> Vec<u8> {
    let reader = life.group.reader();
    let pin = reader.pin();
    let mut collector = Collector::new(&pin, IDENTITY.file_id, IDENTITY.owner_id());
    loop {
        match collector.step() {
            Ok(true) => break,
            Ok(false) => {}
            Err(Fault::Absent(run)) => reader.bring_in_done(run).expect("the page is sound"),
            Err(fault) => panic!("{fault}"),
        }
    }
    let (image, mut bytes) = (collector.finish().expect("a short file"), Vec::new());
    loop {
        let piece = match image.piece(bytes.len() as u64, 16) {
            Err(Fault::Absent(run)) => {
                reader.bring_in_done(run).expect("the page is sound");
                continue;
            }
            piece => piece.expect("the page is sound"),
        };
        match piece {
            Piece::End => return bytes,
            Piece::Bytes(piece) => bytes.extend_from_slice(&piece),
            Piece::Pages(run) => {
                let read = disks.pages.peek(run.first * PAGE_BYTES as u64, run.pages as usize * PAGE_BYTES);
                bytes.extend_from_slice(&read);
            }
        }
    }
}

/// The image of what a page file holds.
pub fn image_in(pages: &Path) -> Vec<u8> {
    let mut disk = StdDisk::open(pages).expect("it is there");
    let file_pages = disk.length().expect("it is there") / PAGE_BYTES as u64;
    let mapping = Arc::new(Mapping::new(disk.file(), file_pages).expect("it can be mapped"));
    let trees = tree_specs();
    let options = FileOptions { file_id: IDENTITY.file_id, owner_id: IDENTITY.owner_id(), trees: &trees };
    let (pager, _) = Pager::open(&mut disk, mapping, &options, 0).expect("a whole file");
    written(&pager.reader(), ImageWriter::new(&IDENTITY))
}

/// A store with something of everything, and what it holds.
pub fn snapshot(seed: u64) -> (Vec<u8>, Journal) {
    let (disks, journal) = (Disks::new(), Journal::new().shared());
    life::create(&disks, &Fuse::whole()).expect("the disks work");
    let mut life = life::open(&disks, &Fuse::whole(), &journal, seed).expect("the disks work");
    rounds(&mut life, seed, 60, &mut Made::default()).expect("the disks work");
    life.verify();
    // Alarms are not what an image is taken for.
    journal.borrow_mut().reborn(0);
    let journal = journal.borrow().clone();
    (image_of(&life), journal)
}

/// Several checkpoints of the page file, and 4 KiB of the image at a time.
pub fn restore(image: &[u8], disks: &Disks) -> Result<(), RestoreError> {
    let pages = disks.pages.clone();
    let mut restore = Restore::create_with(Box::new(pages.clone()), Arc::new(pages), &IDENTITY)?;
    restore.set_dirty_bytes_max(256 << 10);
    let mut reader = ImageReader::new();
    for bytes in image.chunks(4096) {
        reader.push(bytes)?;
        restore.drain(&mut reader)?;
    }
    let summary = reader.finish()?;
    let options = RestoreOptions { members: vec![life::member()], bump_revision: 0, mark_compacted: false };
    restore.finish_with(&summary, &options, &mut *disks.log_mut(), life::log_options(disks))
}
