//! Large answers to Range, encoded in pieces while they are read: a shard is not kept by one of a million records, and the
//! records are not held beside their encoding.

use bytes::{BufMut, Bytes};
use ringstone_net::{Claim, Code, Framed, Status};
use ringstone_proto::etcdserverpb::RangeResponse;
use ringstone_proto::mvccpb::KeyValue;
use ringstone_proto::prost::Message as _;

/// What is encoded so far.
pub(super) struct Pieces {
    pieces: Vec<Bytes>,
    bytes: usize,
    claim: Claim,
}

impl Pieces {
    /// None, with what they will hold taken from `claim`.
    pub fn new(claim: Claim) -> Pieces {
        Pieces { pieces: Vec::new(), bytes: 0, claim }
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Encodes the next records.
    ///
    /// # Errors
    /// They are more than `bytes_max`, with those before them, or than there is memory for.
    pub fn push(&mut self, kvs: Vec<KeyValue>, bytes_max: usize) -> Result<(), Status> {
        let piece = RangeResponse { kvs, ..RangeResponse::default() }.encode_to_vec();
        self.bytes += piece.len();
        if self.bytes > bytes_max {
            return Err(too_large(bytes_max));
        }
        self.claim.grow(piece.len())?;
        self.pieces.push(piece.into());
        Ok(())
    }

    /// The whole message. `last` has the header, the count, and the records that are not encoded yet.
    pub fn finish(mut self, last: RangeResponse) -> Framed {
        let head = RangeResponse { header: last.header, ..RangeResponse::default() };
        let tail = RangeResponse { header: None, ..last }.encode_to_vec();
        let message_bytes = head.encoded_len() + self.bytes + tail.len();
        let mut first = Vec::with_capacity(5 + head.encoded_len());
        first.put_u8(0);
        first.put_u32(u32::try_from(message_bytes).expect("bounded far below"));
        head.encode(&mut first).expect("a Vec takes all");
        self.pieces.push(tail.into());
        Framed::from_pieces(std::iter::once(first.into()).chain(self.pieces), 1)
    }
}

/// An answer that is not given.
pub(super) fn too_large(bytes_max: usize) -> Status {
    let text = format!(
        "ringstone: the answer has more than {bytes_max} bytes, a quarter of what the server may use: ask for less at a time, with a limit or by RangeStream"
    );
    Status::new(Code::ResourceExhausted, text)
}

#[cfg(test)]
mod tests {
    use ringstone_net::{Memory, ShardMemory};
    use ringstone_proto::etcdserverpb::ResponseHeader;

    use super::*;

    fn pieces() -> Pieces {
        Pieces::new(ShardMemory::new(Memory::new(1 << 20, 1)).claim())
    }

    fn records(from: usize, count: usize) -> Vec<KeyValue> {
        let record = |number| KeyValue { key: format!("k{number}").into(), version: 1, ..KeyValue::default() };
        (from..from + count).map(record).collect()
    }

    #[test]
    fn the_pieces_are_one_message() {
        let mut pieces = pieces();
        pieces.push(records(0, 10), 1000).expect("few bytes");
        pieces.push(records(10, 5), 1000).expect("few bytes");
        let header = Some(ResponseHeader { revision: 7, ..ResponseHeader::default() });
        let last = RangeResponse { header, kvs: records(15, 2), more: true, count: 99 };
        let want = RangeResponse { kvs: records(0, 17), ..last.clone() };
        let whole = pieces.finish(last);
        assert_eq!(whole.message_bytes(), want.encoded_len());
        let bytes: Vec<u8> = whole.into_pieces().flatten().collect();
        assert_eq!(bytes[..5], [&[0][..], &(want.encoded_len() as u32).to_be_bytes()].concat());
        assert_eq!(bytes[5..], want.encode_to_vec());
    }

    #[test]
    fn too_much_is_refused_before_it_is_held() {
        let mut pieces = pieces();
        let refused = pieces.push(records(0, 100), 200).expect_err("more than 200 bytes");
        assert_eq!(refused.code, Code::ResourceExhausted);
    }
}
