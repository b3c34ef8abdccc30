//! A log whose bytes were changed, with every checksum made right again: opening it is an error or gives records, in any
//! case without a panic, and a log that opens takes another batch and opens again.

use std::sync::OnceLock;

use ringstone_wal::disk::FileName;
use ringstone_wal::disk::sim::{Keep, SimDisk};
use ringstone_wal::format::BLOCK_BYTES;
use ringstone_wal::inspect::inspect_disk;
use ringstone_wal::{Identity, Kind, Log, Options, Record, run_until_idle};

use crate::input::Input;

const IDENTITY: Identity = Identity([5; 16]);
const BLOCK_HEADER_BYTES: usize = 40;
const RECORD_HEADER_BYTES: usize = 32;

fn options() -> Options {
    Options {
        create: true,
        segment_bytes: 64 << 10,
        batch_bytes_max: 32 << 10,
        fill_slice_bytes: 8 << 10,
        ..Options::new(IDENTITY)
    }
}

/// A log of several segments, the last one with ghosts; closed or not.
fn history(closed: bool) -> SimDisk {
    let mut disk = SimDisk::new(7);
    let (mut log, _) = Log::open(&mut disk, options(), &mut |_| {}).expect("an empty folder");
    let meta = log.register_holder("meta", 1, 0);
    let mut write = |log: &mut Log, kind, index, payload: &[u8]| {
        log.append(Record { group: 1, kind, term: 1 + index / 10, index, payload }).expect("there is room");
        run_until_idle(&mut disk, log).expect("a sound disk");
    };
    write(&mut log, Kind::HardState, 0, b"vote");
    for index in 1..=30u64 {
        let payload: Vec<u8> = (0..2500).map(|at| (at ^ (index * 31)) as u8).collect();
        write(&mut log, Kind::Entry, index, &payload);
        write(&mut log, Kind::Entry, index + 1, &payload[..index as usize * 7]);
        write(&mut log, Kind::Truncate, index + 1, b"");
        log.release(meta, index.saturating_sub(8));
    }
    if closed {
        log.close();
        run_until_idle(&mut disk, &mut log).expect("a sound disk");
    }
    disk.after_crash(Keep::All)
}

fn base(closed: bool) -> SimDisk {
    thread_local! {
        static BASES: OnceLock<[SimDisk; 2]> = const { OnceLock::new() };
    }
    BASES
        .with(|bases| bases.get_or_init(|| [history(false), history(true)])[usize::from(closed)].after_crash(Keep::All))
}

fn segments(disk: &SimDisk) -> Vec<FileName> {
    let mut names: Vec<_> = disk.names().into_iter().filter(|name| matches!(name, FileName::Segment(_))).collect();
    names.sort();
    names
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let mut disk = base(flags & 1 != 0);
    let names = segments(&disk);
    while !input.is_empty() {
        mutate(&mut disk, &names, &mut input);
    }
    if flags & 2 == 0 {
        let mut chain = 0;
        for name in &names {
            disk.tamper(*name, |content| reseal(content, &mut chain, flags & 4 != 0));
        }
    }
    // Everything is looked at, also what opening refuses.
    let _ = inspect_disk(&mut disk.after_crash(Keep::All), &mut std::io::sink());
    let mut seen = 0;
    let opened = Log::open(&mut disk, options(), &mut |record| seen += record.payload.len());
    let Ok((mut log, _)) = opened else { return };
    assert!(seen <= names.len() * (64 << 10), "more payload than the files have bytes");
    let record = Record { group: 9, kind: Kind::Entry, term: 1, index: 1, payload: b"after" };
    if log.append(record).is_ok() && run_until_idle(&mut disk, &mut log).is_ok() {
        let mut disk = disk.after_crash(Keep::All);
        let mut found = false;
        let reopened =
            Log::open(&mut disk, options(), &mut |record| found |= record.group == 9 && record.payload == b"after");
        assert!(reopened.is_ok() && found, "what was written behind it is not there: {:?}", reopened.err());
    }
}

fn mutate(disk: &mut SimDisk, names: &[FileName], input: &mut Input<'_>) {
    let name = names[input.byte() as usize % names.len()];
    let other = names[input.byte() as usize % names.len()];
    let kind = input.byte();
    let source = disk.bytes(other).unwrap_or_default().to_vec();
    disk.tamper(name, |content| {
        let blocks = content.len() / BLOCK_BYTES;
        if blocks == 0 {
            return;
        }
        let block = input.byte() as usize % blocks * BLOCK_BYTES;
        match kind % 8 {
            0 => content[block + input.below(BLOCK_BYTES)] ^= 1 << (input.byte() % 8),
            // Heads of blocks and of records are where the meaning is.
            1 => overwrite(content, block + input.byte() as usize % 80, input),
            2 => overwrite(content, block + input.below(BLOCK_BYTES), input),
            3 => content[block..block + BLOCK_BYTES].fill(input.byte()),
            // A file that was cut before may have no whole block.
            4 if source.len() >= BLOCK_BYTES => {
                let from = input.byte() as usize % (source.len() / BLOCK_BYTES) * BLOCK_BYTES;
                content[block..block + BLOCK_BYTES].copy_from_slice(&source[from..from + BLOCK_BYTES]);
            }
            5 => content.truncate(block + input.below(BLOCK_BYTES)),
            6 => content.resize(content.len() + input.below(3 * BLOCK_BYTES), input.byte()),
            _ => overwrite(content, input.byte() as usize, input),
        }
    });
}

fn overwrite(content: &mut [u8], at: usize, input: &mut Input<'_>) {
    let length = 1 + input.byte() as usize % 8;
    let bytes = input.bytes(length);
    let room = content.len().saturating_sub(at).min(bytes.len());
    content[at..at + room].copy_from_slice(&bytes[..room]);
}

fn get(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize
}

/// Makes the checksums of a segment's blocks and records right, and, with `chained`, the chain from unit to unit.
fn reseal(content: &mut [u8], chain: &mut u32, chained: bool) {
    seal_segment_header(content);
    let blocks = content.len() / BLOCK_BYTES;
    let mut at = 1;
    while at < blocks {
        let head = &content[at * BLOCK_BYTES..];
        if head[..BLOCK_HEADER_BYTES].iter().all(|byte| *byte == 0) {
            at += 1;
            continue;
        }
        let count = get(head, 32).clamp(1, blocks - at);
        reseal_unit(&mut content[at * BLOCK_BYTES..(at + count) * BLOCK_BYTES], chain, chained);
        at += count;
    }
}

fn reseal_unit(unit: &mut [u8], chain: &mut u32, chained: bool) {
    if chained {
        for block in unit.chunks_mut(BLOCK_BYTES) {
            block[36..40].copy_from_slice(&chain.to_le_bytes());
        }
    } else {
        *chain = get(unit, 36) as u32;
    }
    // Records go on from block to block.
    let mut payload = Vec::new();
    for block in unit.chunks(BLOCK_BYTES) {
        let bytes = usize::from(u16::from_le_bytes([block[6], block[7]])).min(BLOCK_BYTES - BLOCK_HEADER_BYTES);
        payload.extend_from_slice(&block[BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + bytes]);
    }
    let mut at = 0;
    while at + RECORD_HEADER_BYTES <= payload.len() {
        let end = at + RECORD_HEADER_BYTES + get(&payload, at + 4);
        if end > payload.len() {
            break;
        }
        let mut hasher = crc32fast::Hasher::new_with_initial(*chain);
        hasher.update(&payload[at + 4..end]);
        *chain = hasher.finalize();
        payload[at..at + 4].copy_from_slice(&chain.to_le_bytes());
        at = end;
    }
    let mut rest = &payload[..];
    for block in unit.chunks_mut(BLOCK_BYTES) {
        let bytes = usize::from(u16::from_le_bytes([block[6], block[7]])).min(BLOCK_BYTES - BLOCK_HEADER_BYTES);
        let (own, next) = rest.split_at(bytes);
        block[BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + bytes].copy_from_slice(own);
        rest = next;
        let mut hasher = crc32fast::Hasher::new_with_initial(IDENTITY.seed());
        hasher.update(&block[4..]);
        let crc = hasher.finalize();
        block[..4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// The first block's own checksum.
fn seal_segment_header(content: &mut [u8]) {
    const CRC_AT: usize = 12;
    if content.len() < BLOCK_BYTES {
        return;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&content[..CRC_AT]);
    hasher.update(&content[CRC_AT + 4..BLOCK_BYTES]);
    let crc = hasher.finalize();
    content[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1], vec![4], vec![5]];
    for kind in 0..8u8 {
        for flags in [1, 4, 5, 3] {
            seeds.push(vec![flags, 1, 0, kind, 3, 16, 7, 9, 1, 2, 3, 4, 0, 1, 1, kind, 5, 40, 3, 1, 1, 1, 1]);
        }
    }
    seeds
}
