//! The payloads that a group puts into its log beside entries. Little endian, pinned by tests.

use ringstone_raft::{HardState, NodeId, Term};

/// Term and vote: 8 bytes each; no vote is 0 behind a 0 flag byte.
pub fn hard_state(state: &HardState) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[..8].copy_from_slice(&state.term.0.to_le_bytes());
    if let Some(vote) = state.vote {
        bytes[8] = 1;
        bytes[9..].copy_from_slice(&vote.0.to_le_bytes());
    }
    bytes
}

/// Reads what [`hard_state`] wrote; none for other bytes.
pub fn read_hard_state(bytes: &[u8]) -> Option<HardState> {
    let bytes: &[u8; 17] = bytes.try_into().ok()?;
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let vote = match bytes[8] {
        0 => None,
        1 => Some(NodeId(word(9))),
        _ => return None,
    };
    Some(HardState { term: Term(word(0)), vote })
}

/// What a record says of the page file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFile {
    /// It has this generation; 0: another file has taken its place, of which the log knows none.
    Has(u64),
    /// It is about to be replaced.
    Switch(Switch),
}

/// Another page file is about to take the place of the one in use. Whether it has, only the page file itself says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// What the new one covers: the old one covers less.
    pub index: u64,
    /// The newest generation that the old one has.
    pub generation: u64,
}

/// A completed checkpoint: its generation in the page file.
pub fn checkpoint(generation: u64) -> [u8; 8] {
    generation.to_le_bytes()
}

/// The last word before a switch: 8 bytes each.
pub fn switch(switch: &Switch) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&switch.index.to_le_bytes());
    bytes[8..].copy_from_slice(&switch.generation.to_le_bytes());
    bytes
}

/// Reads what [`checkpoint`] or [`switch`] wrote.
pub fn read_checkpoint(bytes: &[u8]) -> Option<PageFile> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    match bytes.len() {
        8 => Some(PageFile::Has(word(0))),
        16 => Some(PageFile::Switch(Switch { index: word(0), generation: word(8) })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back() {
        for vote in [None, Some(NodeId(0)), Some(NodeId(7))] {
            let state = HardState { term: Term(3), vote };
            assert_eq!(read_hard_state(&hard_state(&state)), Some(state));
        }
        assert_eq!(read_checkpoint(&checkpoint(9)), Some(PageFile::Has(9)));
        let about = Switch { index: 600, generation: 7 };
        assert_eq!(read_checkpoint(&switch(&about)), Some(PageFile::Switch(about)));
        assert_eq!((read_hard_state(&[0; 16]), read_checkpoint(&[0; 7])), (None, None));
    }
}
