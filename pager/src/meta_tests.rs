//! The table of `meta.rs`, line by line, over every combination of header, metas and length.

use super::*;

const FILE: FileId = FileId(*b"the file's own i");

fn header() -> FileHeader {
    FileHeader { file: FILE, owner: [9; 16], features: Features::default() }
}

fn meta(generation: u64) -> Meta {
    let root = |tree: u8| MetaRoot {
        tree: TreeId(tree),
        level: tree % 4,
        run: PageRun { first: 10 + u64::from(tree), pages: 1 },
        generation: generation - 1,
        sum: Aggregate { count: 1, bytes: u64::MAX, hash: u64::from(tree) },
    };
    let mut map_slots = Box::new([0; MAP_SLOTS_BYTES]);
    map_slots[MAP_SLOTS_BYTES - 1] = 0x81;
    Meta {
        generation,
        roots: (1..=TREES_MAX as u8).map(root).collect(),
        attributes: vec![0xA5; ATTRIBUTES_BYTES_MAX],
        space: Space { file_pages: 100, map_slots, map_digest: 77 },
    }
}

fn fix_crc(file: FileId, page: &mut [u8]) {
    let crc = crc_without_field(file, page, meta_at::CRC);
    set(page, meta_at::CRC, &crc.to_le_bytes());
}

#[test]
fn the_diagram_and_the_code_agree() {
    let (header, meta) = (header().encode(), meta(300).encode(FILE));
    assert_eq!(&header[..8], b"RngPages");
    assert_eq!((&header[16..32], &header[32..48]), (&FILE.0[..], &[9; 16][..]));
    assert_eq!((get_u32(&header, 12), get_u32(&header, 48)), (1, 4096));
    assert_eq!([header_at::COMPATIBLE, header_at::READ_ONLY, header_at::INCOMPATIBLE], [56, 64, 72]);
    assert_eq!((&meta[..8], meta[12], get_u64(&meta, 16), get_u64(&meta, 24)), (&b"RngMeta\n"[..], 63, 300, 100));
    assert_eq!((u16::from_le_bytes(get(&meta, 14)), get_u64(&meta, 32), &meta[40..56]), (512, 77, &FILE.0[..]));
    assert_eq!((meta[64], meta[65], get_u32(&meta, 68), get_u64(&meta, 72)), (1, 1, 1, 11));
    assert_eq!(
        (get_u64(&meta, 80), get_u64(&meta, 88), get_u64(&meta, 96), get_u64(&meta, 104)),
        (299, 1, u64::MAX, 1)
    );
    assert_eq!((meta[64 + 48], meta[3088], meta[3599], meta[3600], meta[4095]), (2, 0xA5, 0xA5, 0, 0x81));
}

#[test]
fn a_full_meta_survives_its_page_and_every_flipped_bit_is_seen() {
    let page = meta(5).encode(FILE);
    assert_eq!(Meta::decode(FILE, &page), Ok(meta(5)));
    let head = header().encode();
    for bit in 0..PAGE_BYTES * 8 {
        let flip = |page: &[u8]| {
            let mut page = page.to_vec();
            page[bit / 8] ^= 1 << (bit % 8);
            page
        };
        assert!(Meta::decode(FILE, &flip(&page)).is_err(), "bit {bit} of the meta");
        assert!(FileHeader::decode(&flip(&head)).is_err(), "bit {bit} of the header");
    }
}

/// All combinations: nine headers, six metas in each slot, four lengths.
#[test]
fn each_input_has_its_outcome() {
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut page = header().encode();
        change(&mut page);
        let crc = crc_without_field(FILE, &page, header_at::CRC);
        set(&mut page, header_at::CRC, &crc.to_le_bytes());
        page
    };
    let mut rotten = header().encode();
    rotten[100] ^= 1;
    let headers = [
        ("good", header().encode()),
        ("zeros", vec![0; PAGE_BYTES]),
        ("not ours", b"SQLite format 3\0".repeat(PAGE_BYTES / 16)),
        ("rotten", rotten),
        ("version", with(&|page| set(page, header_at::FORMAT, &2u32.to_le_bytes()))),
        ("incompatible", with(&|page| page[header_at::INCOMPATIBLE] = 4)),
        ("read only", with(&|page| page[header_at::READ_ONLY + 7] = 1)),
        ("compatible", with(&|page| page[header_at::COMPATIBLE] = 1)),
        ("page size", with(&|page| set(page, header_at::PAGE_BYTES, &8192u32.to_le_bytes()))),
    ];
    let mut torn = meta(9).encode(FILE);
    torn[512..].copy_from_slice(&meta(7).encode(FILE)[512..]);
    torn[1000] ^= 1;
    let metas = [
        (Ok(7), meta(7).encode(FILE)),
        (Ok(8), meta(8).encode(FILE)),
        (Err(MetaDamage::Blank), vec![0; PAGE_BYTES]),
        (Err(MetaDamage::NotAMeta), vec![0xFF; PAGE_BYTES]),
        (Err(MetaDamage::Checksum), torn),
        (Err(MetaDamage::Foreign), meta(9).encode(FileId([1; 16]))),
    ];
    let needed = 100 * PAGE_BYTES as u64;
    let mut inputs = 0;
    for (name, header_page) in &headers {
        for (first, first_page) in &metas {
            for (second, second_page) in &metas {
                let head = [&header_page[..], first_page, second_page].concat();
                for bytes in [0, 3 * PAGE_BYTES as u64 - 1, needed - 1, needed, needed + 5000] {
                    inputs += 1;
                    let expected = expect(name, *first, *second, bytes, needed);
                    let found = open(&head, bytes, Some(FILE));
                    match (&found, &expected) {
                        (Ok(found), Ok((generation, slot, older, is_read_only))) => {
                            assert_eq!((found.meta.generation, found.slot), (*generation, *slot), "{name}");
                            assert_eq!(found.older.as_ref().map(|meta| meta.generation), *older, "{name}");
                            assert_eq!(found.is_read_only, *is_read_only, "{name}");
                            let is_both = matches!(found.outcome, MetaOutcome::BothValid);
                            assert_eq!(is_both, older.is_some());
                        }
                        (Err(found), Err(expected)) => {
                            assert_eq!(found, expected, "{name} {first:?} {second:?} {bytes}")
                        }
                        _ => panic!("{name} {first:?} {second:?} {bytes}: {found:?}, not {expected:?}"),
                    }
                }
            }
        }
    }
    assert_eq!(inputs, 9 * 6 * 6 * 5);
}

type Kind = Result<u64, MetaDamage>;

/// The table again, in another form: by the name of the input.
fn expect(
    header: &str,
    first: Kind,
    second: Kind,
    bytes: u64,
    needed: u64,
) -> Result<(u64, u8, Option<u64>, bool), OpenFailure> {
    let is_any_meta = |kind: Kind| matches!(kind, Ok(_) | Err(MetaDamage::Foreign));
    if bytes < 3 * 4096 {
        return Err(OpenFailure::TooShort { bytes });
    }
    match header {
        "zeros" if is_any_meta(first) || is_any_meta(second) => return Err(OpenFailure::HeaderDamaged),
        "zeros" => return Err(OpenFailure::NeverFinished),
        "not ours" => return Err(OpenFailure::NotOurs),
        "rotten" => return Err(OpenFailure::HeaderDamaged),
        "version" => return Err(OpenFailure::UnknownVersion { found: 2 }),
        "incompatible" => return Err(OpenFailure::UnknownFeatures { unknown: 4 }),
        "page size" => return Err(OpenFailure::OtherPageSize { found: 8192 }),
        _ => {}
    }
    let (generation, slot, older) = match (first, second) {
        (Ok(one), Ok(other)) if one == other => return Err(OpenFailure::SameGeneration { generation: one }),
        (Ok(one), Ok(other)) => (one.max(other), u8::from(other > one), Some(one.min(other))),
        (Ok(one), Err(_)) => (one, 0, None),
        (Err(_), Ok(other)) => (other, 1, None),
        (Err(first), Err(second)) => return Err(OpenFailure::BothDamaged { first, second }),
    };
    if bytes < needed {
        return Err(OpenFailure::Truncated { have: bytes, needed, generation });
    }
    Ok((generation, slot, older, header == "read only"))
}

#[test]
fn another_file_in_this_place_is_refused_and_any_file_taken_where_none_is_expected() {
    let head = [header().encode(), meta(1).encode(FILE), meta(2).encode(FILE)].concat();
    let other = FileId([1; 16]);
    let failure = open(&head, 1 << 20, Some(other));
    assert_eq!(failure, Err(OpenFailure::ForeignFile { found: FILE, expected: other }));
    assert_eq!(open(&head, 1 << 20, None).map(|opened| opened.meta), Ok(meta(2)));
    assert_eq!(open(&head[1..], 1 << 20, None), Err(OpenFailure::TooShort { bytes: 1 << 20 }));
}

/// Checksums that were made again over impossible content.
#[test]
fn impossible_content_with_a_right_checksum_is_refused() {
    let changes: [(&str, usize, &[u8]); 9] = [
        ("generation", meta_at::GENERATION, &[0xFF; 8]),
        ("file pages 0", meta_at::FILE_PAGES, &[0; 8]),
        ("file pages huge", meta_at::FILE_PAGES, &[0xFF; 8]),
        ("trees", meta_at::TREES, &[64]),
        ("attributes", meta_at::ATTRIBUTES_BYTES, &[1, 2]),
        ("tree twice", meta_at::ROOTS + root_at::BYTES, &[1]),
        ("tree 0", meta_at::ROOTS, &[0]),
        ("root in the header", meta_at::ROOTS + root_at::FIRST, &[0; 8]),
        ("root of no pages", meta_at::ROOTS + root_at::PAGES, &[0; 4]),
    ];
    for (name, at, bytes) in changes {
        let mut page = meta(5).encode(FILE);
        set(&mut page, at, bytes);
        fix_crc(FILE, &mut page);
        assert!(matches!(Meta::decode(FILE, &page), Err(MetaDamage::Content(_))), "{name}");
    }
    let mut page = meta(5).encode(FILE);
    set(&mut page, meta_at::ROOTS + root_at::GENERATION, &6u64.to_le_bytes());
    fix_crc(FILE, &mut page);
    assert!(matches!(Meta::decode(FILE, &page), Err(MetaDamage::Content("a root from a later generation"))));
}
