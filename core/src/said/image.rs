//! What the receiver of an image says to its sender, beside the stream (docs/peers.md).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// What a receiver says beside the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// A map instead of the image of this id.
    Map([u8; 16]),
    /// These runs of the map of this id.
    Wants([u8; 16], Bytes),
}

impl Word {
    /// Its bytes: a kind, the id, and the runs.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, id, rest) = match self {
            Word::Map(id) => (1, id, &[][..]),
            Word::Wants(id, runs) => (2, id, &runs[..]),
        };
        let mut bytes = BytesMut::with_capacity(17 + rest.len());
        bytes.put_u8(kind);
        bytes.put_slice(id);
        bytes.put_slice(rest);
        bytes.freeze()
    }

    /// Reads it; None: it is of another form or kind than this version knows.
    #[must_use]
    pub fn decode(mut bytes: Bytes) -> Option<Word> {
        let kind = bytes.try_get_u8().ok()?;
        let mut id = [0; 16];
        bytes.try_copy_to_slice(&mut id).ok()?;
        match kind {
            1 if bytes.is_empty() => Some(Word::Map(id)),
            2 => Some(Word::Wants(id, bytes)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_and_others_are_refused() {
        for word in
            [Word::Map([7; 16]), Word::Wants([8; 16], Bytes::new()), Word::Wants([8; 16], Bytes::from_static(b"ab"))]
        {
            assert_eq!(Word::decode(word.encode()), Some(word));
        }
        let map = Word::Map([7; 16]).encode();
        assert_eq!(Word::decode(map.slice(..16)), None);
        assert_eq!(Word::decode([&map[..], b"x"].concat().into()), None);
        assert_eq!(Word::decode([&[3][..], &map[1..]].concat().into()), None);
    }
}
