//! What foreign bytes may look like, checked before prost sees them.
//!
//! prost decodes and skips by recursion. Its own limit (100 messages) is below what etcd's clients may nest (a txn of 127
//! levels is 254 messages), so it is switched off, and the depth is bounded here: for messages within messages and for
//! unknown groups, which cost one byte a level. The walk also finds known fields with a foreign wire type: etcd takes
//! them as unknown fields, prost as errors, so [`without_foreign`] leaves them out. The walk reads tags and lengths only.

use crate::decode::{DECODE_DEPTH_MAX, DecodeError};

/// A message type whose wire form is known to the shape table.
pub trait Described {
    #[doc(hidden)]
    const SHAPE: &'static Shape;
}

#[doc(hidden)]
pub struct Shape {
    pub(crate) name: &'static str,
    /// By field number.
    kinds: &'static [Kind],
}

#[derive(Clone, Copy)]
enum Kind {
    Unknown,
    Varint,
    /// Repeated: packed or one by one.
    Varints,
    Bytes,
    Message(&'static Shape),
}

include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

const WIRE_VARINT: u64 = 0;
const WIRE_FIXED64: u64 = 1;
const WIRE_BYTES: u64 = 2;
const WIRE_GROUP: u64 = 3;
const WIRE_GROUP_END: u64 = 4;
const WIRE_FIXED32: u64 = 5;

impl Shape {
    fn kind(&self, number: u64) -> Kind {
        usize::try_from(number).ok().and_then(|number| self.kinds.get(number)).copied().unwrap_or(Kind::Unknown)
    }
}

/// One field: what the table says of it, and where its parts are.
struct Field<'a> {
    kind: Kind,
    /// Tag, length and payload.
    whole: &'a [u8],
    payload: &'a [u8],
    foreign: bool,
}

/// Takes one field off the front of `bytes`.
fn take_field<'a>(bytes: &mut &'a [u8], shape: &Shape, depth: usize) -> Result<Field<'a>, DecodeError> {
    let start = *bytes;
    let tag = take_varint(bytes)?;
    let (number, wire) = (tag >> 3, tag & 7);
    if number == 0 || tag > u64::from(u32::MAX) {
        return Err(DecodeError::Malformed);
    }
    let kind = shape.kind(number);
    let before_payload = *bytes;
    let mut payload: &[u8] = &[];
    match wire {
        WIRE_BYTES => {
            let length = take_varint(bytes)?;
            payload = take(bytes, length)?;
        }
        _ => skip_scalar(bytes, number, wire, depth)?,
    }
    let foreign = match kind {
        Kind::Unknown => false,
        Kind::Varint => wire != WIRE_VARINT,
        Kind::Varints => wire != WIRE_VARINT && wire != WIRE_BYTES,
        Kind::Bytes | Kind::Message(_) => wire != WIRE_BYTES,
    };
    debug_assert!(bytes.len() <= before_payload.len());
    Ok(Field { kind, whole: &start[..start.len() - bytes.len()], payload, foreign })
}

fn skip_scalar(bytes: &mut &[u8], number: u64, wire: u64, depth: usize) -> Result<(), DecodeError> {
    match wire {
        WIRE_VARINT => take_varint(bytes).map(drop),
        WIRE_FIXED64 => take(bytes, 8).map(drop),
        WIRE_FIXED32 => take(bytes, 4).map(drop),
        WIRE_GROUP => skip_group(bytes, number, depth + 1),
        _ => Err(DecodeError::Malformed),
    }
}

fn skip_group(bytes: &mut &[u8], number: u64, depth: usize) -> Result<(), DecodeError> {
    if depth > DECODE_DEPTH_MAX {
        return Err(DecodeError::TooDeep);
    }
    loop {
        let tag = take_varint(bytes)?;
        match (tag >> 3, tag & 7) {
            (0, _) => return Err(DecodeError::Malformed),
            (end, WIRE_GROUP_END) if end == number => return Ok(()),
            (_, WIRE_BYTES) => {
                let length = take_varint(bytes)?;
                take(bytes, length)?;
            }
            (inner, wire) => skip_scalar(bytes, inner, wire, depth)?,
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], DecodeError> {
    let length = usize::try_from(length).map_err(|_| DecodeError::Malformed)?;
    let (head, rest) = bytes.split_at_checked(length).ok_or(DecodeError::Malformed)?;
    *bytes = rest;
    Ok(head)
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, DecodeError> {
    let mut value = 0u64;
    for (position, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte < 0x80 {
            // The tenth byte has room for one bit only.
            if position == 9 && byte > 1 {
                return Err(DecodeError::Malformed);
            }
            *bytes = &bytes[position + 1..];
            return Ok(value);
        }
    }
    Err(DecodeError::Malformed)
}

/// Walks `bytes` as a message of `shape`; true if a known field has a foreign wire type somewhere. `messages_left` is how
/// many messages there may be within it.
pub(crate) fn check(
    mut bytes: &[u8],
    shape: &Shape,
    depth: usize,
    messages_left: &mut usize,
) -> Result<bool, DecodeError> {
    if depth > DECODE_DEPTH_MAX {
        return Err(DecodeError::TooDeep);
    }
    let mut foreign = false;
    while !bytes.is_empty() {
        let field = take_field(&mut bytes, shape, depth)?;
        foreign |= field.foreign;
        if let Kind::Message(inner) = field.kind
            && !field.foreign
        {
            *messages_left = messages_left.checked_sub(1).ok_or(DecodeError::TooMany(0))?;
            foreign |= check(field.payload, inner, depth + 1, messages_left)?;
        }
    }
    Ok(foreign)
}

/// A copy of `bytes`, which passed [`check`], without the fields of foreign wire type. Two passes, each linear: lengths
/// of the nested messages first, in the order in which the second pass meets them.
pub(crate) fn without_foreign(bytes: &[u8], shape: &Shape) -> Result<Vec<u8>, DecodeError> {
    let mut lengths = Vec::new();
    let total = measure(bytes, shape, &mut lengths)?;
    let mut out = Vec::with_capacity(total);
    copy(bytes, shape, &mut lengths.into_iter(), &mut out)?;
    assert_eq!(out.len(), total);
    Ok(out)
}

fn measure(mut bytes: &[u8], shape: &Shape, lengths: &mut Vec<usize>) -> Result<usize, DecodeError> {
    let mut total = 0;
    while !bytes.is_empty() {
        let field = take_field(&mut bytes, shape, 0)?;
        match field.kind {
            _ if field.foreign => {}
            Kind::Message(inner) => {
                let slot = lengths.len();
                lengths.push(0);
                let length = measure(field.payload, inner, lengths)?;
                lengths[slot] = length;
                total += tag_length(field.whole) + prost::length_delimiter_len(length) + length;
            }
            _ => total += field.whole.len(),
        }
    }
    Ok(total)
}

fn copy(
    mut bytes: &[u8],
    shape: &Shape,
    lengths: &mut impl Iterator<Item = usize>,
    out: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    while !bytes.is_empty() {
        let field = take_field(&mut bytes, shape, 0)?;
        match field.kind {
            _ if field.foreign => {}
            Kind::Message(inner) => {
                out.extend_from_slice(&field.whole[..tag_length(field.whole)]);
                let length = lengths.next().expect("measured in the same order");
                prost::encode_length_delimiter(length, out).expect("a Vec takes all");
                copy(field.payload, inner, lengths, out)?;
            }
            _ => out.extend_from_slice(field.whole),
        }
    }
    Ok(())
}

fn tag_length(field: &[u8]) -> usize {
    field.iter().take_while(|&&byte| byte >= 0x80).count() + 1
}
