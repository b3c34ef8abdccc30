//! Log entries: whatever bytes follow a good checksum, reading them is an error or a command, and that can be applied.

use ringstone_core::command::{Command, DeleteRange, Member, Put};
use ringstone_core::entry::{Draft, ENVELOPE_BYTES, Entry, Envelope};

use crate::store::Store;

const CRC_AT: usize = 56;

pub fn run(data: &[u8]) {
    // As it is, then with its checksum made right.
    let _ = Entry::read(data);
    let mut bytes = data.to_vec();
    if bytes.len() < ENVELOPE_BYTES {
        return;
    }
    bytes[..2].copy_from_slice(&1u16.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC_AT]);
    hasher.update(&bytes[CRC_AT + 4..]);
    let crc = hasher.finalize();
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    let Ok(entry) = Entry::read(&bytes) else { return };
    let mut store = Store::new();
    store.apply_archived(entry.command);
    // Twice: the second one meets what the first one made.
    store.apply_archived(entry.command);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut commands = vec![
        Command::Put(Put { key: b"a".to_vec(), value: b"new".to_vec(), lease: 7, prev_kv: true, ..Put::default() }),
        Command::Put(Put { key: b"n".to_vec(), ignore_value: true, ..Put::default() }),
        Command::DeleteRange(DeleteRange { key: b"a".to_vec(), range_end: b"c".to_vec(), prev_kv: true }),
        Command::Compact { revision: 5 },
        Command::LeaseGrant { id: 9, ttl_s: 30 },
        Command::LeaseRevoke { id: 7, expired_renewal: None },
        Command::LeaseRevoke { id: 7, expired_renewal: Some(1) },
        Command::LeaseClock,
        Command::Alarm { activate: true, member_id: 5, alarm: 1 },
        Command::MemberAttributes { member_id: 5, name: "n".into(), client_urls: vec!["http://u".into()] },
        Command::Bootstrap(ringstone_core::command::Bootstrap {
            cluster_id: 1,
            hash_key: [3; 16],
            members: vec![Member {
                id: 5,
                name: "m".into(),
                peer_urls: vec![],
                client_urls: vec![],
                is_learner: false,
            }],
        }),
    ];
    commands.extend(crate::requests::sample_txns().into_iter().map(|txn| Command::try_from(txn).expect("valid")));
    let envelope = Envelope { user: "ann".into(), request_id: 3, ..Envelope::default() };
    commands.iter().map(|command| Draft::new(&envelope, command).seal(5, 6).to_vec()).collect()
}
