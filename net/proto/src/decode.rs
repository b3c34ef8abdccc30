use crate::shape::{Described, check, without_foreign};
use bytes::Bytes;

/// How many messages and groups may stand within each other. A txn of 127 levels is 254 of them; decoding uses stack in
/// proportion.
pub const DECODE_DEPTH_MAX: usize = 300;

/// Why bytes are not a message. The texts follow Go's, which clients print.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Bytes that are no protobuf: a length beyond the end, a varint over 64 bits, a stray end of group.
    #[error("proto: cannot parse invalid wire-format data")]
    Malformed,
    /// More than [`DECODE_DEPTH_MAX`] messages within each other.
    #[error("proto: exceeded maximum recursion depth")]
    TooDeep,
    /// More messages within it than [`decode_within`] was told to take.
    #[error("proto: more than {0} messages within one")]
    TooMany(usize),
    /// A string field of this message is not UTF-8.
    #[error("proto: {message} contains invalid UTF-8 in a string field")]
    NotUtf8 {
        /// Full name of the outermost message.
        message: &'static str,
    },
}

/// Decodes a message as etcd does: unknown fields and known ones of a foreign wire type are skipped, repeated
/// occurrences of one message merge. `bytes` fields share the memory of `bytes`. Stack use is bounded by
/// [`DECODE_DEPTH_MAX`], memory by a small multiple of the input.
///
/// # Errors
/// [`DecodeError`]; a gRPC server answers it with status 13.
pub fn decode<M: prost::Message + Default + Described>(bytes: Bytes) -> Result<M, DecodeError> {
    decode_within(bytes, usize::MAX)
}

/// [`decode`] for messages that may have any number of others in them: an empty one takes two bytes here and some hundred
/// in memory, so more than `messages_max` are refused before they are made.
///
/// # Errors
/// [`DecodeError`]
pub fn decode_within<M: prost::Message + Default + Described>(
    bytes: Bytes,
    messages_max: usize,
) -> Result<M, DecodeError> {
    let mut left = messages_max;
    let foreign = check(&bytes, M::SHAPE, 1, &mut left).map_err(|error| match error {
        DecodeError::TooMany(_) => DecodeError::TooMany(messages_max),
        other => other,
    })?;
    let bytes = if foreign { without_foreign(&bytes, M::SHAPE)?.into() } else { bytes };
    // What prost can still refuse after `check` is a string.
    M::decode(bytes).map_err(|_| DecodeError::NotUtf8 { message: M::SHAPE.name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcdserverpb::request_op::Request;
    use crate::etcdserverpb::{
        MemberAddRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
        watch_request,
    };
    use proptest::prelude::*;
    use prost::Message;

    /// A txn with `levels` txns within it, the innermost with one put.
    fn nested(levels: usize) -> Vec<u8> {
        let op = RequestOp { request: Some(Request::RequestPut(PutRequest { key: "k".into(), ..Default::default() })) };
        let mut bytes = TxnRequest { success: vec![op], ..Default::default() }.encode_to_vec();
        for _ in 0..levels {
            bytes = wrap(2, &wrap(4, &bytes));
        }
        bytes
    }

    fn wrap(number: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        prost::encode_length_delimiter(payload.len(), &mut out).expect("a Vec takes all");
        out.extend_from_slice(payload);
        out
    }

    fn depth_of(txn: &TxnRequest) -> usize {
        match txn.success.first().and_then(|op| op.request.as_ref()) {
            Some(Request::RequestTxn(inner)) => 1 + depth_of(inner),
            _ => 0,
        }
    }

    #[test]
    fn txns_nest_as_deep_as_etcd_lets_them() {
        for levels in [0, 1, 49, 50, 51, 127, 128] {
            let txn: TxnRequest = decode(nested(levels).into()).expect("within the limit");
            assert_eq!(depth_of(&txn), levels);
            assert_eq!(txn.encode_to_vec(), nested(levels));
        }
    }

    #[test]
    fn absurd_depth_is_an_error_and_not_an_overflow() {
        // Built from the inside out in one pass: lengths grow with the level.
        let mut reversed: Vec<u8> = Vec::new();
        for level in 0..100_000 {
            let mut head = vec![if level % 2 == 0 { 0x22 } else { 0x12 }];
            prost::encode_length_delimiter(reversed.len(), &mut head).expect("a Vec takes all");
            reversed.extend(head.into_iter().rev());
        }
        reversed.reverse();
        assert_eq!(decode::<TxnRequest>(reversed.into()), Err(DecodeError::TooDeep));
        let groups = vec![0x7b; 2 << 20];
        assert_eq!(decode::<PutRequest>(groups.clone().into()), Err(DecodeError::TooDeep));
        assert_eq!(decode::<WatchRequest>(wrap(1, &groups).into()), Err(DecodeError::TooDeep));
    }

    #[test]
    fn what_is_cheap_to_send_and_dear_to_hold_is_refused_before_it_is_made() {
        let wide: Vec<u8> = [0x12, 0].repeat(1000);
        let txn: TxnRequest = decode_within(wide.clone().into(), 1000).expect("as many as may be");
        assert_eq!(txn.success.len(), 1000);
        let refused = decode_within::<TxnRequest>(wide.clone().into(), 999);
        assert_eq!(refused, Err(DecodeError::TooMany(999)));
        // Within others they count the same.
        let inner = wrap(2, &wrap(4, &wide));
        assert_eq!(decode_within::<TxnRequest>(inner.into(), 1001), Err(DecodeError::TooMany(1001)));
    }

    #[test]
    fn oddities_are_taken_as_etcd_takes_them() {
        // The same message twice: merged.
        let mut twice = PutRequest { key: "a".into(), lease: 7, ..Default::default() }.encode_to_vec();
        twice.extend(PutRequest { value: "v".into(), ..Default::default() }.encode_to_vec());
        let put: PutRequest = decode(twice.into()).expect("valid");
        assert_eq!((&put.key[..], &put.value[..], put.lease), (&b"a"[..], &b"v"[..], 7));

        // The same member of a oneof twice: merged.
        let create = |create: WatchCreateRequest| wrap(1, &create.encode_to_vec());
        let mut twice = create(WatchCreateRequest { key: "a".into(), ..Default::default() });
        twice.extend(create(WatchCreateRequest { start_revision: 5, ..Default::default() }));
        let watch: WatchRequest = decode(twice.into()).expect("valid");
        let Some(watch_request::RequestUnion::CreateRequest(create)) = watch.request_union else { panic!() };
        assert_eq!((&create.key[..], create.start_revision), (&b"a"[..], 5));

        // bool 2 and 2^63, enum 2^32|2 and -1, int64 0xffffffff.
        let range: RangeRequest = decode(Bytes::from_static(&[0x38, 2])).expect("valid");
        assert!(range.serializable);
        let range: RangeRequest =
            decode(Bytes::from_static(b"\x38\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")).expect("valid");
        assert!(range.serializable);
        let range: RangeRequest = decode(Bytes::from_static(b"\x28\x82\x80\x80\x80\x10")).expect("valid");
        assert_eq!(range.sort_order, 2);
        let range: RangeRequest =
            decode(Bytes::from_static(b"\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")).expect("valid");
        assert_eq!(range.sort_order, -1);
        let range: RangeRequest = decode(Bytes::from_static(b"\x18\xff\xff\xff\xff\x0f")).expect("valid");
        assert_eq!(range.limit, 4_294_967_295);

        // Unknown group with content: skipped.
        let put: PutRequest = decode(Bytes::from_static(b"\x7b\x08\x01\x12\x01x\x7c\x0a\x01k")).expect("valid");
        assert_eq!(&put.key[..], b"k");
    }

    #[test]
    fn foreign_wire_types_are_skipped_at_every_level() {
        // key (1) as a varint, lease (3) as bytes, value (2) as a group: as if they were not there.
        let put: PutRequest = decode(Bytes::from_static(b"\x08\x05\x1a\x01x\x13\x08\x01\x14\x20\x01")).expect("valid");
        assert_eq!(put, PutRequest { prev_kv: true, ..Default::default() });

        let inner = b"\x0a\x01k\x10\x05\x1a\x00"; // key, value as a varint, lease as bytes
        let op = wrap(2, inner);
        let mut txn = wrap(2, &wrap(4, &wrap(2, &op)));
        txn.extend(b"\x08\x01"); // compare as a varint
        let txn: TxnRequest = decode(txn.into()).expect("valid");
        assert_eq!(txn.compare.len(), 0);
        let Some(Request::RequestTxn(inner)) = &txn.success[0].request else { panic!() };
        let Some(Request::RequestPut(put)) = &inner.success[0].request else { panic!() };
        assert_eq!(put, &PutRequest { key: "k".into(), ..Default::default() });
    }

    #[test]
    fn packed_and_single_filters_are_both_read() {
        let create: WatchCreateRequest = decode(Bytes::from_static(b"\x2a\x02\x00\x01\x28\x01")).expect("valid");
        assert_eq!(create.filters, [0, 1, 1]);
    }

    #[test]
    fn what_is_no_protobuf_is_an_error() {
        for bytes in [
            &b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"[..], // 65 bits
            b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0a\x05k",                                // cut short
            b"\x00\x00",                                 // field 0
            b"\x0c",                                     // end of a group that never began
            b"\x0b\x14",                                 // end of another group
            b"\x0b",                                     // group without an end
            b"\x0f",                                     // wire type 7
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", // absurd length
        ] {
            assert_eq!(decode::<PutRequest>(Bytes::copy_from_slice(bytes)), Err(DecodeError::Malformed), "{bytes:x?}");
        }
        let error = decode::<MemberAddRequest>(Bytes::from_static(b"\x0a\x01\xff")).expect_err("not UTF-8");
        assert_eq!(error.to_string(), "proto: etcdserverpb.MemberAddRequest contains invalid UTF-8 in a string field");
    }

    #[test]
    fn bytes_fields_share_the_request() {
        let bytes = Bytes::from(PutRequest { key: "key".into(), ..Default::default() }.encode_to_vec());
        let put: PutRequest = decode(bytes.clone()).expect("valid");
        assert_eq!(put.key.as_ptr(), bytes[2..].as_ptr());
    }

    proptest! {
        /// Whatever passes the walk is refused by prost only for a string, and nothing panics.
        #[test]
        fn the_walk_is_as_strict_as_prost(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let bytes = Bytes::from(bytes);
            if let Ok(foreign) = check(&bytes, TxnRequest::SHAPE, 1, &mut usize::MAX.to_owned()) {
                let clean = without_foreign(&bytes, TxnRequest::SHAPE).expect("checked");
                prop_assert!(TxnRequest::decode(&clean[..]).is_ok());
                if !foreign {
                    prop_assert_eq!(&clean[..], &bytes[..]);
                }
            }
        }
    }
}
