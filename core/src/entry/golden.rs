//! `tests/golden/entries-1.txt` holds an entry of each kind and of each part of a command, as version 1 writes them. A byte
//! that changes here is a new [`FORMAT_VERSION`] or a new kind: give it lines of its own, the old ones stay.

use rkyv::rancor;

use super::*;
use crate::command::{Bootstrap, Compare, DeleteRange, Member, Op, Operand, Put, Range, Txn};

const GOLDEN: &str = include_str!("../../../tests/golden/entries-1.txt");

fn put() -> Put {
    Put {
        key: b"key".to_vec(),
        value: b"a value".to_vec(),
        lease: -2,
        prev_kv: true,
        ignore_value: false,
        ignore_lease: true,
    }
}

fn range() -> Range {
    Range {
        key: b"a".to_vec(),
        range_end: b"b".to_vec(),
        limit: 1,
        revision: 2,
        sort_order: 2,
        sort_target: 4,
        serializable: true,
        keys_only: false,
        count_only: true,
        min_mod_revision: 5,
        max_mod_revision: 6,
        min_create_revision: 7,
        max_create_revision: 8,
    }
}

fn txn() -> Txn {
    let compare = |result, operand| Compare { result, key: b"c".to_vec(), range_end: vec![0], operand };
    let delete = DeleteRange { key: b"d".to_vec(), range_end: b"e".to_vec(), prev_kv: true };
    let inner = Txn { success: vec![Op::Put(put())], ..Txn::default() };
    Txn {
        compare: vec![
            compare(0, Operand::Version(1)),
            compare(1, Operand::Create(2)),
            compare(2, Operand::Mod(3)),
            compare(3, Operand::Value(b"four".to_vec())),
            compare(0, Operand::Lease(5)),
            compare(9, Operand::Unknown(99)),
        ],
        success: vec![Op::Range(range()), Op::Put(put()), Op::DeleteRange(delete)],
        failure: vec![Op::Txn(inner)],
    }
}

/// One of each kind, in the order of their numbers.
fn commands() -> Vec<Command> {
    let urls = |urls: &[&str]| urls.iter().map(|&url| url.to_owned()).collect::<Vec<_>>();
    let member = Member {
        id: 3,
        name: "a".to_owned(),
        peer_urls: urls(&["http://a:2380"]),
        client_urls: urls(&["http://a:2379", "http://b:2379"]),
        is_learner: true,
    };
    vec![
        Command::Bootstrap(Bootstrap { cluster_id: 1, hash_key: *b"0123456789abcdef", members: vec![member.clone()] }),
        Command::Put(put()),
        Command::DeleteRange(DeleteRange { key: b"d".to_vec(), range_end: b"e".to_vec(), prev_kv: false }),
        Command::Txn(txn()),
        Command::Compact { revision: 12 },
        Command::LeaseGrant { id: 7, ttl_s: 60 },
        Command::LeaseRevoke { id: 7, expired_renewal: Some(3) },
        Command::LeaseRenew { ids: vec![7, -8] },
        Command::LeaseClock,
        Command::Alarm { activate: true, member_id: 3, alarm: 1 },
        Command::MemberAttributes { member_id: 3, name: "a".to_owned(), client_urls: urls(&["http://a:2379"]) },
        Command::MemberAdd { member: Box::new(member) },
        Command::MemberPromote { id: 3 },
        Command::MemberRemove { id: 3 },
        Command::MemberUpdate { id: 3, peer_urls: urls(&["http://c:2380"]) },
        Command::KindsAgreed { kinds: 17 },
    ]
}

fn line(command: &Command) -> String {
    let envelope = Envelope {
        group: 1,
        proposer: 2,
        shard: 3,
        request_id: 4,
        user: "ann".to_owned(),
        auth_revision: 5,
        ..Envelope::default()
    };
    let entry = Draft::new(&envelope, command).seal(6, 7);
    let hex: String = entry.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {hex}", kind_of(command))
}

#[test]
fn entries_are_written_as_version_1_wrote_them() {
    let commands = commands();
    assert!(commands.iter().map(kind_of).eq(1..=KIND_MAX), "one of each kind");
    let lines: Vec<String> = commands.iter().map(line).collect();
    let golden: Vec<&str> = GOLDEN.lines().collect();
    assert_eq!(lines, golden, "the bytes of an entry changed: see the top of this file");
}

#[test]
fn entries_of_version_1_read_back() {
    for (line, command) in GOLDEN.lines().zip(commands()) {
        let (_, hex) = line.split_once(' ').expect("kind and bytes");
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        let entry = Entry::read(&bytes).expect("an entry");
        assert_eq!((entry.envelope.user.as_str(), entry.envelope.wall_time_ms), ("ann", 7));
        let read = rkyv::deserialize::<Command, rancor::Error>(entry.command).expect("a command");
        assert_eq!(read, command);
    }
}
