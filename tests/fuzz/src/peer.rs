//! Bytes of another member: hellos, frames on both streams, snapshots. However they are cut, the same is read from them, and
//! what is read is what the encoders would write.

use bytes::Buf;
use ringstone_net::peer::PeerLimits;
use ringstone_net::peer::chunk::{CHUNK_HEADER_BYTES, ChunkHeader, HEAD_BYTES, Head};
use ringstone_net::peer::frame::{Decoder, Frame, FrameKind, Grant, StreamKind, WireError, encode_header};
use ringstone_net::peer::hello::{Features, HELLO_BYTES, Hello, Identity};
use ringstone_net::peer::registry::{Latest, Live, choose};

const IDENTITY: Identity = Identity {
    cluster_id: 1,
    member_id: 2,
    incarnation: 3,
    process: 4,
    features: Features { ignore: 0, no_snapshots: 0, refuse: 0 },
    known_features: Features { ignore: 0, no_snapshots: 1, refuse: 1 },
};

/// First byte: what the rest is; second: how it is cut.
pub fn run(data: &[u8]) {
    let Some((&[kind, cut], data)) = data.split_first_chunk() else { return };
    match kind % 4 {
        0 => hello(data),
        1 => frames(StreamKind::Control, cut, data),
        2 => frames(StreamKind::Log, cut, data),
        _ => snapshot(data),
    }
}

fn hello(data: &[u8]) {
    let mut head = [0; HELLO_BYTES];
    let count = data.len().min(HELLO_BYTES);
    head[..count].copy_from_slice(&data[..count]);
    let _ = Hello::decode(&head);
    // With its checksum made right.
    let crc = crc32fast::hash(&head[..HELLO_BYTES - 4]);
    head[HELLO_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    let Ok(hello) = Hello::decode(&head) else { return };
    let again = Hello::decode(&hello.encode()).expect("what was read can be written");
    assert_eq!(again, hello);
    match IDENTITY.check(&hello, None) {
        Ok(_) => {
            let latest = Latest { incarnation: 3, process: Some(9) };
            let live = Live { dialled: false, process: 9, sequence: 5 };
            for dialled in [false, true] {
                let _ = choose(2, Some(latest), Some(live), &hello, dialled);
            }
        }
        Err(refusal) => assert!(refusal.text.len() <= ringstone_net::peer::hello::Refusal::TEXT_BYTES_MAX),
    }
}

fn read(stream: StreamKind, pieces: impl Iterator<Item = Vec<u8>>) -> (Vec<Frame>, Result<(), WireError>) {
    let limits = PeerLimits { control_frame_bytes_max: 300, log_frame_bytes_max: 3000, ..PeerLimits::default() };
    let mut decoder = Decoder::new(stream, &limits);
    let mut frames = Vec::new();
    for piece in pieces {
        let mut rest = &piece[..];
        loop {
            match decoder.take(&mut rest) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
        assert!(!rest.has_remaining());
    }
    (frames, decoder.finish())
}

fn frames(stream: StreamKind, cut: u8, data: &[u8]) {
    let whole = read(stream, std::iter::once(data.to_vec()));
    let cut = read(stream, data.chunks(usize::from(cut) + 1).map(<[u8]>::to_vec));
    assert_eq!(whole, cut, "what is read follows how it was cut");
    let mut written = Vec::new();
    for frame in &whole.0 {
        written.extend(encode_header(frame.kind, frame.group, frame.payload.len() as u32));
        written.extend(&frame.payload);
        if frame.kind == FrameKind::Grant {
            let grant = Grant::decode(&frame.payload).expect("its length was checked");
            assert_eq!(grant.encode(), frame.payload);
        }
    }
    assert!(data.starts_with(&written), "frames that were not there");
}

fn snapshot(data: &[u8]) {
    let Some((head, mut rest)) = data.split_first_chunk::<HEAD_BYTES>() else { return };
    let _ = Head::decode(head);
    let mut head = *head;
    let crc = crc32fast::hash(&head[..HEAD_BYTES - 4]);
    head[HEAD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    let head = Head::decode(&head).expect("its checksum is right");
    let mut offset = head.offset_min;
    while let Some((header, payload)) = rest.split_first_chunk::<CHUNK_HEADER_BYTES>() {
        let Ok(header) = ChunkHeader::decode(header, offset) else { return };
        let Some((payload, behind)) = payload.split_at_checked(header.length as usize) else { return };
        // With its checksum made right: then it is taken, and no other one is.
        let right = ChunkHeader::of(&head.id, offset, payload);
        assert!(right.check(&head.id, payload).is_ok());
        assert_eq!(header.check(&head.id, payload).is_ok(), header == right);
        offset += u64::from(header.length);
        rest = behind;
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let with = |kind: u8, cut: u8, bytes: &[u8]| [&[kind, cut], bytes].concat();
    let other = Identity { member_id: 7, ..IDENTITY };
    let hello = other.hello(2, 6);
    let mut seeds = vec![
        with(0, 0, &hello.encode()),
        with(0, 0, &Hello { cluster_id: 9, ..hello }.encode()),
        with(0, 0, &Hello { incarnation: 2, ..hello }.encode()),
        with(0, 0, &Hello { version_min: 2, version_max: 3, ..hello }.encode()),
        with(0, 0, &Hello { features: Features { ignore: 1, no_snapshots: 2, refuse: 4 }, ..hello }.encode()),
    ];
    let frame = |kind, payload: &[u8]| [&encode_header(kind, 5, payload.len() as u32)[..], payload].concat();
    let grant = Grant { serial: 1, consumed: 2, limit: 3 }.encode();
    let control =
        [frame(FrameKind::Control, b"vote"), frame(FrameKind::Heartbeat, b""), frame(FrameKind::Grant, &grant)];
    seeds.push(with(1, 0, &control.concat()));
    seeds.push(with(1, 20, &control.concat()));
    seeds.push(with(1, 255, &frame(FrameKind::Control, &[1; 301])));
    seeds.push(with(2, 99, &[frame(FrameKind::Log, &[2; 2500]), frame(FrameKind::Log, b"x")].concat()));
    seeds.push(with(2, 3, &frame(FrameKind::Control, b"x")));
    let head = Head { serial: 1, group: 2, id: [3; 16], length: 9, offset_min: 4 };
    let chunk = |offset, payload: &[u8]| [&ChunkHeader::of(&head.id, offset, payload).encode()[..], payload].concat();
    seeds.push(with(3, 0, &[&head.encode()[..], &chunk(4, b"abc"), &chunk(7, b"de"), &chunk(9, b"")].concat()));
    seeds.push(with(3, 0, &[&head.encode()[..], &chunk(4, b"abc"), &chunk(8, b"de")].concat()));
    seeds
}
