//! The simulated disk itself: tests that crash on it can find no more than it does.

use ringstone_wal::buffer::AlignedBuffer;
use ringstone_wal::disk::sim::{Fault, Keep, SimDisk};
use ringstone_wal::disk::{DiskError, FileName, Io, Purpose, run_blocking};

const FILE: FileName = FileName::Segment(1);
const BLOCK_BYTES: usize = 4096;

fn write(disk: &mut SimDisk, block: u64, byte: u8, sync: bool) -> Result<(), DiskError> {
    let mut buffer = AlignedBuffer::zeroed(1);
    buffer.fill(byte);
    run_blocking(
        disk,
        Io::Write { file: FILE, offset: block * BLOCK_BYTES as u64, buffer, sync, purpose: Purpose::Batch },
    )
}

/// A file of two blocks, on disk.
fn two_blocks() -> SimDisk {
    let mut disk = SimDisk::new(1);
    run_blocking(&mut disk, Io::Create { file: FILE, bytes: 2 * BLOCK_BYTES as u64, purpose: Purpose::NextCreate })
        .expect("it works");
    run_blocking(&mut disk, Io::SyncDirectory { purpose: Purpose::NextPublishSync }).expect("it works");
    (0..2).for_each(|block| write(&mut disk, block, 0, true).expect("it works"));
    disk
}

fn sectors(disk: &SimDisk, block: usize) -> Vec<u8> {
    let bytes = disk.bytes(FILE).expect("the file is there");
    let sectors = bytes[block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES].chunks(512);
    sectors.inspect(|sector| assert!(sector.iter().all(|byte| *byte == sector[0]))).map(|sector| sector[0]).collect()
}

#[test]
fn a_torn_end_keeps_some_of_the_newest_write() {
    let (mut first_only, mut last_only, mut older_whole) = (0, 0, 0);
    for seed in 0..200 {
        let mut disk = two_blocks();
        write(&mut disk, 1, 1, false).expect("it works");
        write(&mut disk, 0, 2, false).expect("it works");
        let left = disk.after_crash(Keep::Torn(seed));
        let newest = sectors(&left, 0);
        assert!(newest.contains(&0), "seed {seed}");
        first_only += u32::from(newest[0] == 2 && newest[7] == 0);
        last_only += u32::from(newest[0] == 0 && newest[7] == 2);
        older_whole += u32::from(sectors(&left, 1) == [1; 8]);
    }
    assert!(first_only > 20 && last_only > 20 && older_whole > 20, "{first_only} {last_only} {older_whole}");
}

#[test]
fn no_later_sync_covers_what_a_failed_one_should_have() {
    let mut disk = two_blocks();
    write(&mut disk, 0, 1, false).expect("it works");
    disk.inject(0, Fault::Failed(libc::EIO));
    run_blocking(&mut disk, Io::Sync { file: FILE, purpose: Purpose::NextFillSync }).expect_err("it fails");
    write(&mut disk, 1, 2, false).expect("it works");
    run_blocking(&mut disk, Io::Sync { file: FILE, purpose: Purpose::NextFillSync })
        .expect("there is something new to write");
    assert_eq!(sectors(&disk, 0), [1; 8], "the cache still shows it");
    let left = disk.after_crash(Keep::Nothing);
    assert_eq!((sectors(&left, 0), sectors(&left, 1)), (vec![0; 8], vec![2; 8]));
}

#[test]
fn half_of_a_failed_write_is_done_and_none_of_it_is_durable() {
    let mut disk = two_blocks();
    disk.inject(0, Fault::Failed(libc::EIO));
    write(&mut disk, 0, 1, true).expect_err("it fails");
    assert_eq!(sectors(&disk, 0), [1, 1, 1, 1, 0, 0, 0, 0]);
    assert_eq!(sectors(&disk.after_crash(Keep::Nothing), 0), [0; 8]);
    // Who is started again reads past the cache: each sector is there or it is not, and stays so.
    let killed = disk.after_kill();
    assert_eq!(sectors(&killed, 0), sectors(&killed.after_crash(Keep::Nothing), 0));
}

#[test]
fn a_disk_and_what_a_crash_left_of_it_go_apart() {
    let mut disk = two_blocks();
    let left = disk.after_crash(Keep::All);
    write(&mut disk, 0, 1, true).expect("it works");
    assert_eq!((sectors(&disk, 0), sectors(&left, 0)), (vec![1; 8], vec![0; 8]));
}
