//! The format document says what the code does: its tables are read and compared, and golden bytes stay as they are.

use ringstone_wal::format::{
    BLOCK_BYTES, BLOCK_PAYLOAD_BYTES, BlockHeader, BlockLayout, FORMAT_VERSION, Features, Identity, MAGIC,
    RecordLayout, SegmentHeader, SegmentLayout, UnitKind,
};
use ringstone_wal::{Kind, Record};

const DOCUMENT: &str = include_str!("../../docs/format-wal.md");

fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let rows = DOCUMENT.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |")));
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

fn compare(heading: &str, fields: &[(&str, usize, usize)]) {
    let written: Vec<_> = table(heading)
        .iter()
        .map(|row| (row[0], row[1].parse::<usize>().expect("an offset"), row[2].parse::<usize>().expect("a size")))
        .collect();
    assert_eq!(written, fields, "{heading}");
    let mut end = 0;
    for (name, offset, bytes) in written {
        assert_eq!(offset, end, "{name} follows the field before");
        end += bytes;
    }
}

#[test]
fn the_tables_are_the_codes() {
    compare("field of the segment header", SegmentLayout::FIELDS);
    compare("field of the block header", BlockLayout::FIELDS);
    compare("field of the record header", RecordLayout::FIELDS);
    let kinds = table("kind | name");
    assert_eq!(kinds.len(), 6);
    for row in kinds {
        let kind = Kind::from_code(row[0].parse().expect("a code")).expect("a known kind");
        assert_eq!(format!("{kind:?}"), row[1]);
    }
    assert!(DOCUMENT.contains(&format!("Format version {FORMAT_VERSION}.")));
    assert!(DOCUMENT.contains(&format!("`{}`", String::from_utf8_lossy(&MAGIC))));
    assert!(DOCUMENT.contains(&format!("blocks of {BLOCK_BYTES} bytes")));
    assert!(DOCUMENT.contains(&format!("{BLOCK_PAYLOAD_BYTES} in all blocks")));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A changed byte here is a new format version. The bytes were made by another program (Python's zlib and struct) from
/// the document.
#[test]
fn golden_bytes() {
    let identity = Identity(*b"0123456789abcdef");
    let mut block = vec![0; BLOCK_BYTES];
    let features = Features { ignore: 1, read_only: 2, refuse: 3 };
    SegmentHeader { identity, features, generation: 4, segment_blocks: 16 }.encode(&mut block);
    assert_eq!(hex(&block[..SegmentLayout::BYTES]), GOLDEN_SEGMENT);
    let record = Record { group: 1, kind: Kind::Entry, term: 2, index: 3, payload: b"four" };
    let (head, chain) = record.encode_head(identity.seed());
    assert_eq!(hex(&head), GOLDEN_RECORD);
    let mut block = vec![0; BLOCK_BYTES];
    block[BlockLayout::BYTES..][..RecordLayout::BYTES].copy_from_slice(&head);
    block[BlockLayout::BYTES + RecordLayout::BYTES..][..4].copy_from_slice(b"four");
    let header = BlockHeader {
        kind: UnitKind::Batch,
        payload_bytes: 36,
        generation: 4,
        number: 5,
        position: 6,
        ordinal: 0,
        count: 1,
        chain,
    };
    header.seal(identity.seed(), &mut block);
    assert_eq!(hex(&block[..BlockLayout::BYTES]), GOLDEN_BLOCK);
}

const GOLDEN_SEGMENT: &str = "52494e475357414c0100000071eb56e83031323334353637383961626364656601000000020000000300000000100000040000000000000010000000";
const GOLDEN_RECORD: &str = "d6d8a72404000000010000000100000002000000000000000300000000000000";
const GOLDEN_BLOCK: &str = "32a650630200240004000000000000000500000000000000060000000000000001000000d6d8a724";
