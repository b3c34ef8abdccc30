//! `docs/format-pages.md` says what the code does: each row of its tables, and no row more.

use crate::freelist::map;
use crate::layout::{MAP_HEADER_BYTES, MAP_SLOTS_BYTES, PAGE_BYTES, REGION_PAGES, REGIONS_MAX};
use crate::meta::{TREES_MAX, header_at, meta_at, root_at};
use crate::node::{HEADER_BYTES, NODE_MAGIC, at, branch_at, leaf_at};

const DOCUMENT: &str = include_str!("../../docs/format-pages.md");

#[test]
fn the_tables_are_those_of_the_code() {
    // The size of a field is the distance to what follows it, or to the reserved bytes that do.
    let rows = [
        (header_at::MAGIC, header_at::CRC, "header magic"),
        (header_at::CRC, header_at::FORMAT, "header crc"),
        (header_at::FORMAT, header_at::FILE_ID, "format version"),
        (header_at::FILE_ID, header_at::OWNER_ID, "file identity"),
        (header_at::OWNER_ID, header_at::PAGE_BYTES, "owner identity"),
        (header_at::PAGE_BYTES, header_at::RESERVED, "page bytes"),
        (header_at::COMPATIBLE, header_at::READ_ONLY, "compatible features"),
        (header_at::READ_ONLY, header_at::INCOMPATIBLE, "read-only features"),
        (header_at::INCOMPATIBLE, header_at::INCOMPATIBLE + 8, "incompatible features"),
        (meta_at::MAGIC, meta_at::CRC, "meta magic"),
        (meta_at::CRC, meta_at::TREES, "meta crc"),
        (meta_at::TREES, meta_at::RESERVED, "trees"),
        (meta_at::ATTRIBUTES_BYTES, meta_at::GENERATION, "attribute bytes"),
        (meta_at::GENERATION, meta_at::FILE_PAGES, "generation"),
        (meta_at::FILE_PAGES, meta_at::MAP_DIGEST, "file pages"),
        (meta_at::MAP_DIGEST, meta_at::FILE_ID, "map digest"),
        (meta_at::FILE_ID, meta_at::FILE_ID + 16, "file identity"),
        (meta_at::ROOTS, meta_at::ATTRIBUTES, "roots"),
        (meta_at::ATTRIBUTES, meta_at::MAP_SLOTS, "attributes"),
        (meta_at::MAP_SLOTS, meta_at::MAP_SLOTS + MAP_SLOTS_BYTES, "map slots"),
        (root_at::TREE, root_at::LEVEL, "root tree"),
        (root_at::LEVEL, root_at::RESERVED, "root level"),
        (root_at::PAGES, root_at::FIRST, "root pages"),
        (root_at::FIRST, root_at::GENERATION, "root first page"),
        (root_at::GENERATION, root_at::COUNT, "root generation"),
        (root_at::COUNT, root_at::SUM_BYTES, "root count"),
        (root_at::SUM_BYTES, root_at::HASH, "root sum bytes"),
        (root_at::HASH, root_at::BYTES, "root hash"),
        (map::at::MAGIC, map::at::CRC, "map magic"),
        (map::at::CRC, map::at::REGION, "map crc"),
        (map::at::REGION, map::at::GENERATION, "map region"),
        (map::at::GENERATION, map::at::FREE_PAGES, "map generation"),
        (map::at::FREE_PAGES, map::at::FREE_PAGES + 4, "map free pages"),
        (MAP_HEADER_BYTES, PAGE_BYTES, "map bits"),
        (at::MAGIC, at::CRC, "node magic"),
        (at::CRC, at::PAGE, "node crc"),
        (at::PAGE, at::GENERATION, "node page"),
        (at::GENERATION, at::PAGES, "node generation"),
        (at::PAGES, at::CELLS, "node pages"),
        (at::CELLS, at::TREE, "node cells"),
        (at::TREE, at::LEVEL, "node tree"),
        (at::LEVEL, at::FLAGS, "node level"),
        (at::FLAGS, at::RESERVED, "node flags"),
        (at::START, at::WASTE, "node start"),
        (at::WASTE, at::RESERVED_2, "node waste"),
        (at::SLOTS, at::SLOTS + crate::node::SLOT_BYTES, "node slots"),
        (leaf_at::KEY_BYTES, leaf_at::VALUE_BYTES, "leaf key bytes"),
        (leaf_at::VALUE_BYTES, leaf_at::KEY, "leaf value bytes"),
        (leaf_at::KEY, leaf_at::KEY, "leaf key"),
        (branch_at::REFERENCE, branch_at::GENERATION, "branch reference"),
        (branch_at::GENERATION, branch_at::COUNT, "branch generation"),
        (branch_at::COUNT, branch_at::BYTES, "branch count"),
        (branch_at::BYTES, branch_at::HASH, "branch sum bytes"),
        (branch_at::HASH, branch_at::PAGES, "branch hash"),
        (branch_at::PAGES, branch_at::KEY_BYTES, "branch pages"),
        (branch_at::KEY_BYTES, branch_at::KEY, "branch key bytes"),
        (branch_at::KEY, branch_at::KEY, "branch key"),
    ];
    let code: Vec<String> =
        rows.iter().map(|(from, to, name)| format!("| {from} | {} | {name} |", to - from)).collect();
    let is_row =
        |line: &&str| line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let document: Vec<&str> = DOCUMENT.lines().filter(is_row).collect();
    assert_eq!(document.len(), code.len());
    for (line, row) in document.iter().zip(&code) {
        assert!(line.starts_with(row.as_str()), "the document has {line:?}, the code {row:?}");
    }
}

#[test]
fn the_numbers_in_the_text_are_those_of_the_code() {
    assert!(DOCUMENT.contains(&format!("{REGION_PAGES} pages, 126 MiB")));
    assert!(DOCUMENT.contains(&format!("at most {REGIONS_MAX} regions, 488 GiB")));
    assert!(DOCUMENT.contains(&format!("{TREES_MAX} places of {} bytes", root_at::BYTES)));
    assert!(DOCUMENT.contains(&format!("`{}`", NODE_MAGIC.escape_ascii())));
    assert!(DOCUMENT.contains("    0            48                       start"));
    assert_eq!(HEADER_BYTES, 48);
}

#[test]
fn a_node_has_these_bytes() {
    use crate::api::Aggregate;
    use crate::node::{Child, LeafValue, NodeEdit, Reference};
    // A golden leaf and a golden branch: a changed byte is a changed format.
    let bytes = &mut *vec![0_u8; PAGE_BYTES];
    let mut edit = NodeEdit::format(bytes, 7, 0, 0x0102, 1);
    edit.insert_entry(0, b"ab", LeafValue::Many(&[b"x", b"yz"]));
    edit.set_page(0x99);
    assert_eq!(bytes[..4], *b"RNod");
    assert_eq!(bytes[8..16], [0x99, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[16..24], [2, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[24..36], [1, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!(bytes[36..52], [0xF3, 0x0F, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xF3, 0x0F, 0, 0]);
    assert_eq!(bytes[0xFF3..], [2, 0, 0, 0, 3, 0, 0, 0, b'a', b'b', b'x', b'y', b'z']);
    let mut edit = NodeEdit::format(bytes, 7, 1, 3, 1);
    let sum = Aggregate { count: 1, bytes: 2, hash: u64::MAX };
    edit.insert_child(0, b"sep", &Child { reference: Reference::page(5), generation: 3, pages: 1, sum });
    let mut cell = [0_u8; 56];
    (cell[0], cell[8], cell[16], cell[24], cell[40], cell[44]) = (11, 3, 1, 2, 1, 3);
    cell[32..40].fill(0xFF);
    cell[48..51].copy_from_slice(b"sep");
    assert_eq!(bytes[PAGE_BYTES - 56..], cell);
}
