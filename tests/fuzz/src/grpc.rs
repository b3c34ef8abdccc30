//! Bytes behind the preface of HTTP/2: the connection ends, and everything that was charged to it is given back.

use bytes::Bytes;
use prost::Message as _;
use ringstone_proto::etcdserverpb::{RangeRequest, WatchRequest};

use crate::serve::serve;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn run(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else { return };
    let (first, second) = data.split_at(data.len() * usize::from(cut) / 256);
    serve(&[PREFACE, first, second]);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn head(path: &str, extra: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in usual.iter().chain(extra) {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn message(bytes: Vec<u8>) -> Vec<u8> {
    [&[0][..], &u32::try_from(bytes.len()).expect("short").to_be_bytes(), &bytes].concat()
}

pub fn seeds() -> Vec<Vec<u8>> {
    const RANGE: &str = "/etcdserverpb.KV/Range";
    const WATCH: &str = "/etcdserverpb.Watch/Watch";
    let settings = frame(4, 0, 0, &[0, 4, 0, 1, 0, 0]);
    let range = |limit| {
        message(RangeRequest { key: Bytes::from_static(b"k"), limit, ..RangeRequest::default() }.encode_to_vec())
    };
    let watch = message(WatchRequest::default().encode_to_vec());
    let call = |path, extra: &[_], body: &[u8]| [frame(1, 4, 1, &head(path, extra)), frame(0, 1, 1, body)].concat();
    let bodies = [
        call(RANGE, &[], &range(0)),
        call(RANGE, &[], &range(2)),
        call(RANGE, &[], &range(100_000)),
        [call(RANGE, &[], &range(1)), frame(3, 0, 1, &[0, 0, 0, 8])].concat(),
        call(RANGE, &[("grpc-timeout", "5S")], &range(1)),
        call(RANGE, &[("grpc-encoding", "gzip")], &[1, 0, 0, 0, 2, 9, 9]),
        call(RANGE, &[("token", "bad")], &range(0)),
        call("/none", &[], &range(0)),
        [
            frame(1, 4, 1, &head(WATCH, &[])),
            frame(0, 0, 1, &watch),
            frame(8, 0, 1, &[0, 1, 0, 0]),
            frame(0, 1, 1, &watch),
        ]
        .concat(),
        [
            frame(1, 4, 1, &head(WATCH, &[])),
            frame(0, 0, 1, &watch[..2]),
            frame(0, 0, 1, &watch[2..]),
            frame(6, 0, 0, &[7; 8]),
        ]
        .concat(),
        [frame(1, 0, 1, &head(RANGE, &[])[..30]), frame(9, 4, 1, &head(RANGE, &[])[30..]), frame(0, 1, 1, &range(0))]
            .concat(),
        [frame(7, 0, 0, &[0; 8]), frame(2, 0, 1, &[0, 0, 0, 0, 1]), frame(0xf7, 9, 3, b"unknown")].concat(),
        frame(4, 0, 0, &[0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]),
    ];
    bodies.into_iter().zip((0u8..).step_by(20)).map(|(body, cut)| [&[cut][..], &settings, &body].concat()).collect()
}
