//! The bytes of messages: fixed, complete, and refused where no encoder wrote them.

#[path = "support/random.rs"]
mod random;

use bytes::{Bytes, BytesMut};
use random::Random;
use ringstone_raft::wire::{FORMAT, HEADER_BYTES, Limits, WireError, decode, encode, encoded_bytes, message_bytes};
use ringstone_raft::{Body, Configuration, Entry, EntryKind, Index, Message, NodeId, Snapshot, SnapshotMetadata, Term};

const GROUP: u64 = 0x0706_0504_0302_0100;

fn limits() -> Limits {
    Limits { message_bytes_max: 4096, entries_max: 16, handle_bytes_max: 64 }
}

fn entry(index: u64, term: u64, kind: EntryKind, payload: &'static [u8]) -> Entry {
    Entry { term: Term(term), index: Index(index), kind, payload: Bytes::from_static(payload) }
}

/// Each body, and the bytes behind the header in hexadecimal.
fn goldens() -> Vec<(Body, u8, u16, String)> {
    let word = |number: u64| number.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let words = |numbers: &[u64]| numbers.iter().map(|number| word(*number)).collect::<String>();
    let (last_index, last_term) = (Index(0x1122), Term(3));
    let configuration = Configuration::new([NodeId(1), NodeId(2)], [NodeId(9)]).expect("valid");
    let metadata = SnapshotMetadata { index: Index(8), term: Term(2), configuration };
    let entries = vec![
        entry(5, 2, EntryKind::Normal, b"ab"),
        entry(6, 3, EntryKind::Normal, b""),
        entry(7, 3, EntryKind::Configuration, b"\x01"),
    ];
    let append = Body::Append { previous_index: Index(4), previous_term: Term(2), committed: Index(3), entries };
    vec![
        (Body::PreVoteRequest { last_index, last_term }, 1, 0, words(&[0x1122, 3])),
        (Body::PreVoteResponse { granted: true }, 2, 1, String::new()),
        (Body::PreVoteResponse { granted: false }, 2, 0, String::new()),
        (Body::VoteRequest { last_index, last_term, forced: false }, 3, 0, words(&[0x1122, 3])),
        (Body::VoteRequest { last_index, last_term, forced: true }, 3, 1, words(&[0x1122, 3])),
        (Body::VoteResponse { granted: true }, 4, 1, String::new()),
        (
            append,
            5,
            0,
            words(&[4, 2, 3])
                + "03000000"
                + "00020000000200000000000000"
                + "6162"
                + "00000000000300000000000000"
                + "01010000000300000000000000"
                + "01",
        ),
        (Body::AppendAccepted { matched: Index(7) }, 6, 0, word(7)),
        (
            Body::AppendRejected { rejected: Index(7), hint_index: Index(5), hint_term: Term(1) },
            7,
            0,
            words(&[7, 5, 1]),
        ),
        (Body::Heartbeat { committed: Index(7), round: 9 }, 8, 0, words(&[7, 9])),
        (Body::HeartbeatResponse { round: 9, kinds_known: 0x0a0b }, 9, 0, word(9) + "0b0a0000"),
        (Body::NewerTerm, 10, 0, String::new()),
        (Body::ReadRequest { incarnation: 77, context: 5 }, 11, 0, words(&[77, 5])),
        (Body::ReadResponse { incarnation: 77, context: 5, index: Index(6) }, 12, 0, words(&[77, 5, 6])),
        (Body::TimeoutNow, 13, 0, String::new()),
        (
            Body::Snapshot(Snapshot { metadata, handle: Bytes::from_static(b"img") }),
            14,
            0,
            words(&[8, 2])
                + "1f000000"
                + "01"
                + "0200"
                + &words(&[1, 2])
                + "0000"
                + "0100"
                + &word(9)
                + "03000000"
                + "696d67",
        ),
        (Body::Commit { index: Index(7), entry_term: Term(1), committed: Index(5) }, 15, 0, words(&[7, 1, 5])),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoded(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    encode(GROUP, message, &mut out);
    out.freeze()
}

#[test]
fn every_message_has_its_bytes_and_comes_back() {
    let mut kinds = Vec::new();
    for (body, kind, flags, expected) in goldens() {
        kinds.push(kind);
        let message = Message { term: Term(0x0102_0304_0506_0708), body };
        let bytes = encoded(&message);
        let length = hex(&((expected.len() / 2) as u32).to_le_bytes());
        let header = format!("01{kind:02x}{}{length}00010203040506070807060504030201", hex(&flags.to_le_bytes()));
        assert_eq!(hex(&bytes), header + &expected, "{message:?}");
        assert_eq!(bytes.len(), encoded_bytes(&message));
        assert_eq!(message_bytes(bytes.first_chunk().expect("a header"), &limits()), Ok(bytes.len()));
        assert_eq!(decode(&bytes, &limits()), Ok((GROUP, message)));
    }
    kinds.dedup();
    assert_eq!(kinds, (1..=15).collect::<Vec<u8>>(), "a kind has no golden");
}

#[test]
fn payloads_are_slices_of_the_message() {
    let (body, ..) =
        goldens().into_iter().find(|(body, ..)| matches!(body, Body::Append { .. })).expect("there is one");
    let bytes = encoded(&Message { term: Term(3), body });
    let (_, message) = decode(&bytes, &limits()).expect("ours");
    let Body::Append { entries, .. } = message.body else { panic!("an append") };
    let range = bytes.as_ptr_range();
    assert!(range.contains(&entries[0].payload.as_ptr()), "copied");
}

#[test]
fn a_message_that_is_cut_or_goes_on_is_refused_at_every_byte() {
    for (body, ..) in goldens() {
        let bytes = encoded(&Message { term: Term(3), body });
        for cut in 0..bytes.len() {
            let outcome = decode(&bytes.slice(..cut), &limits());
            let expected = if cut < HEADER_BYTES { "header" } else { "body" };
            assert_eq!(outcome, Err(WireError::Short(expected)), "cut at {cut}");
            // With a length that agrees: what is missing is named by the body.
            if cut >= HEADER_BYTES {
                let mut shortened = bytes[..cut].to_vec();
                shortened[4..8].copy_from_slice(&((cut - HEADER_BYTES) as u32).to_le_bytes());
                let outcome = decode(&Bytes::from(shortened), &limits());
                assert!(matches!(outcome, Err(WireError::Short(_))), "shortened to {cut}: {outcome:?}");
            }
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(decode(&Bytes::from(longer.clone()), &limits()), Err(WireError::Trailing(1)));
        let body_bytes = (longer.len() - HEADER_BYTES) as u32;
        longer[4..8].copy_from_slice(&body_bytes.to_le_bytes());
        assert_eq!(decode(&Bytes::from(longer), &limits()), Err(WireError::Trailing(1)), "announced");
    }
}

#[test]
fn what_no_encoder_writes_is_refused_by_name() {
    let tampered = |body: Body, at: usize, with: &[u8]| {
        let mut bytes = encoded(&Message { term: Term(3), body }).to_vec();
        bytes[at..at + with.len()].copy_from_slice(with);
        decode(&Bytes::from(bytes), &limits())
    };
    let heartbeat = Body::Heartbeat { committed: Index(1), round: 1 };
    let append =
        |entries| Body::Append { previous_index: Index(0), previous_term: Term(0), committed: Index(0), entries };
    let one = || append(vec![entry(1, 1, EntryKind::Normal, b"abc")]);
    let image = || {
        let configuration = Configuration::new([NodeId(1)], []).expect("valid");
        let metadata = SnapshotMetadata { index: Index(1), term: Term(1), configuration };
        Body::Snapshot(Snapshot { metadata, handle: Bytes::from_static(b"x") })
    };
    let entries_at = HEADER_BYTES + 24;
    let head_at = entries_at + 4;
    let configuration_at = HEADER_BYTES + 16;
    let handle_at = configuration_at + 4 + 15;
    for (outcome, error) in [
        (tampered(heartbeat.clone(), 0, &[FORMAT + 1]), WireError::Format(2)),
        (tampered(heartbeat.clone(), 1, &[0]), WireError::Kind(0)),
        (tampered(heartbeat.clone(), 1, &[16]), WireError::Kind(16)),
        (tampered(heartbeat.clone(), 2, &[1]), WireError::Flags { kind: 8, flags: 1 }),
        (tampered(Body::VoteResponse { granted: true }, 3, &[1]), WireError::Flags { kind: 4, flags: 0x101 }),
        (tampered(heartbeat, 4, &[0xff; 4]), WireError::TooLong { bytes: 24 + u64::from(u32::MAX), limit: 4096 }),
        (tampered(one(), entries_at, &[17]), WireError::TooMany { what: "entries", count: 17, limit: 16 }),
        (tampered(one(), entries_at, &[2]), WireError::Short("entries")),
        (tampered(one(), entries_at, &[0]), WireError::Trailing(16)),
        (tampered(one(), head_at, &[2]), WireError::EntryKind(2)),
        (tampered(one(), head_at + 1, &[0xff; 4]), WireError::Short("payload")),
        (tampered(one(), head_at + 1, &[4]), WireError::Short("payload")),
        (tampered(one(), HEADER_BYTES, &[0xff; 8]), WireError::IndexOverflow),
        (
            tampered(image(), configuration_at, &[0xff; 4]),
            WireError::TooMany { what: "bytes of a configuration", count: u32::MAX, limit: 519 },
        ),
        // A shorter configuration: what is behind it is read as the handle's length.
        (tampered(image(), configuration_at, &[14]), WireError::Configuration),
        (tampered(image(), configuration_at + 4, &[9]), WireError::Configuration),
        (tampered(image(), configuration_at, &[16]), WireError::Configuration),
        (tampered(image(), handle_at, &[65]), WireError::TooMany { what: "bytes of a handle", count: 65, limit: 64 }),
        (tampered(image(), handle_at, &[2]), WireError::Short("handle")),
    ] {
        assert_eq!(outcome, Err(error));
    }
}

#[test]
fn whatever_a_member_may_send_is_within_the_limits_of_its_settings() {
    let limits = Limits::new(1000, 5000, 16);
    let payload = |length: usize| Bytes::from(vec![7; length]);
    let append = |lengths: &[usize]| {
        let entries = lengths
            .iter()
            .zip(1..)
            .map(|(length, index)| Entry { payload: payload(*length), ..entry(index, 1, EntryKind::Normal, b"") });
        let entries: Vec<Entry> = entries.collect();
        let weight: usize = entries.iter().map(Entry::weight_bytes).sum();
        let body = Body::Append { previous_index: Index(0), previous_term: Term(0), committed: Index(0), entries };
        (encoded(&Message { term: Term(1), body }), weight)
    };
    // As many as fit by weight, one that is as large as one may be; then one more of each.
    let (small, weight) = append(&[0; 31]);
    assert!(weight <= 1000 && decode(&small, &limits).is_ok());
    assert!(decode(&append(&[5000]).0, &limits).is_ok());
    assert!(matches!(decode(&append(&[0; 32]).0, &limits), Err(WireError::TooMany { .. })));
    assert!(matches!(decode(&append(&[5001]).0, &limits), Err(WireError::TooLong { .. })));
}

/// Chance, and messages with some bytes changed. What decodes must be what its encoding says, byte for byte: there are no
/// two ways to write a message.
#[test]
fn no_bytes_end_the_process_and_each_message_has_one_form() {
    let mut random = Random::new(1);
    let samples: Vec<Bytes> =
        goldens().into_iter().map(|(body, ..)| encoded(&Message { term: Term(3), body })).collect();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..200_000 {
        let mut bytes = samples[random.below(samples.len() as u64) as usize].to_vec();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = if random.chance(500) { random.below(4) as u8 } else { random.next() as u8 };
        }
        if random.chance(200) {
            bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        }
        let bytes = Bytes::from(bytes);
        match decode(&bytes, &limits()) {
            Ok((group, message)) => {
                let mut again = BytesMut::new();
                encode(group, &message, &mut again);
                assert_eq!(hex(&again), hex(&bytes));
                taken += 1;
            }
            Err(_) => refused += 1,
        }
    }
    println!("{taken} taken, {refused} refused");
    assert!(taken > 10_000 && refused > 10_000, "{taken} taken, {refused} refused");
}
