//! Who speaks? The first bytes of the first stream, each way, before any byte of raft.
//!
//! A wrong "yes" lets a stranger's votes count; a wrong "no" keeps a member out. The hello proves nothing by itself:
//! that is the certificate's part. It keeps honest members from mistakes: another cluster, another member at the same
//! address, a second process of one member, a version that can't be understood.

use super::close::CloseCode;
use super::frame::WireError;
use std::fmt;

/// What each hello begins with.
pub const MAGIC: [u8; 8] = *b"RINGPEER";
/// Length of what this version knows of a hello.
pub const HELLO_BYTES: usize = 96;
/// Longest hello that is read; what a later version adds is skipped.
pub const HELLO_BYTES_MAX: usize = 1024;
/// The versions of the protocol that this build speaks.
pub const VERSIONS: (u16, u16) = (1, 1);

const LENGTH_AT: usize = 8;
const CRC_AT: usize = HELLO_BYTES - 4;

/// What a side uses, in three classes as ext4 has them, by what one does who doesn't know a bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Nothing.
    pub ignore: u64,
    /// It talks control and log, but neither takes nor gives snapshots: their content may be unknown.
    pub no_snapshots: u64,
    /// It refuses the connection.
    pub refuse: u64,
}

/// One side's first words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version that it speaks.
    pub version_min: u16,
    /// Highest one.
    pub version_max: u16,
    /// Its cluster.
    pub cluster_id: u64,
    /// Its member id.
    pub from: u64,
    /// Whom it means.
    pub to: u64,
    /// How often its data folder has been opened.
    pub incarnation: u64,
    /// Drawn at random by its process: tells two processes of one incarnation apart.
    pub process: u64,
    /// Number of this hello among those that its process has sent: orders two connections of one pair.
    pub sequence: u64,
    /// What it uses.
    pub features: Features,
}

/// What a process says of itself in every hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster_id: u64,
    /// Its member.
    pub member_id: u64,
    /// Grows each time the data folder is opened, durably, before the first connection.
    pub incarnation: u64,
    /// Random, new in each process.
    pub process: u64,
    /// What it uses.
    pub features: Features,
    /// What it knows, per class.
    pub known_features: Features,
}

/// What two hellos have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The highest version that both speak.
    pub version: u16,
    /// Both sides know what the other one's snapshots use.
    pub snapshots: bool,
}

/// Why a hello is refused. The text names both sides and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the machine.
    pub code: CloseCode,
    /// For people, at most [`Refusal::TEXT_BYTES_MAX`].
    pub text: String,
}

impl Refusal {
    /// What fits into the packet that closes a connection, on any path.
    pub const TEXT_BYTES_MAX: usize = 600;
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Hello {
    /// The bytes, [`HELLO_BYTES`] of them.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&MAGIC);
        put(&(HELLO_BYTES as u16).to_le_bytes());
        put(&self.version_min.to_le_bytes());
        put(&self.version_max.to_le_bytes());
        put(&[0; 2]);
        let Features { ignore, no_snapshots, refuse } = self.features;
        let words = [self.cluster_id, self.from, self.to, self.incarnation, self.process, self.sequence];
        for word in words.into_iter().chain([ignore, no_snapshots, refuse]) {
            put(&word.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// How long the hello is that begins so; its sender may know more than we do.
    ///
    /// # Errors
    /// If it isn't one.
    pub fn length(head: &[u8; HELLO_BYTES]) -> Result<usize, WireError> {
        if head[..MAGIC.len()] != MAGIC {
            return Err(WireError::NotAHello);
        }
        let length = usize::from(u16::from_le_bytes([head[LENGTH_AT], head[LENGTH_AT + 1]]));
        match length {
            HELLO_BYTES..=HELLO_BYTES_MAX => Ok(length),
            _ => Err(WireError::HelloLength(length)),
        }
    }

    /// Reads the part of a hello that this version knows.
    ///
    /// # Errors
    /// If it isn't one, or its checksum is wrong.
    pub fn decode(head: &[u8; HELLO_BYTES]) -> Result<Hello, WireError> {
        Hello::length(head)?;
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let crc = u32::from_le_bytes(head[CRC_AT..].try_into().expect("four bytes"));
        if crc != crc32fast::hash(&head[..CRC_AT]) {
            return Err(WireError::HelloChecksum);
        }
        let hello = Hello {
            version_min: half(10),
            version_max: half(12),
            cluster_id: word(16),
            from: word(24),
            to: word(32),
            incarnation: word(40),
            process: word(48),
            sequence: word(56),
            features: Features { ignore: word(64), no_snapshots: word(72), refuse: word(80) },
        };
        if hello.version_min > hello.version_max { Err(WireError::HelloVersions) } else { Ok(hello) }
    }
}

impl Identity {
    /// What this process says to `to`.
    #[must_use]
    pub fn hello(&self, to: u64, sequence: u64) -> Hello {
        Hello {
            version_min: VERSIONS.0,
            version_max: VERSIONS.1,
            cluster_id: self.cluster_id,
            from: self.member_id,
            to,
            incarnation: self.incarnation,
            process: self.process,
            sequence,
            features: self.features,
        }
    }

    /// Checks what another side says of itself. `dialled`: whom we meant to reach, if it was us who dialled.
    ///
    /// # Errors
    /// The refusal that the other side is to get.
    pub fn check(&self, theirs: &Hello, dialled: Option<u64>) -> Result<Agreed, Refusal> {
        let ours = self.member_id;
        let (who, cluster) = (theirs.from, theirs.cluster_id);
        let refuse = |code, text: String| Err(Refusal { code, text });
        let version = theirs.version_max.min(VERSIONS.1);
        if version < theirs.version_min.max(VERSIONS.0) {
            let text = format!(
                "member {ours:x} speaks versions {} to {} of the peer protocol, member {who:x} versions {} to {}: run \
                 neighbouring releases, upgrade one release at a time",
                VERSIONS.0, VERSIONS.1, theirs.version_min, theirs.version_max
            );
            return refuse(CloseCode::Version, text);
        }
        if cluster != self.cluster_id {
            let text = format!(
                "member {ours:x} belongs to cluster {:x}, member {who:x} to cluster {cluster:x}: check the peer URLs in \
                 --initial-cluster and --initial-cluster-token of both, or remove the data folder that is of the wrong \
                 cluster",
                self.cluster_id
            );
            return refuse(CloseCode::ClusterId, text);
        }
        if theirs.to != ours || who == ours || dialled.is_some_and(|dialled| dialled != who) {
            let meant =
                dialled.map_or_else(|| format!("member {:x}", theirs.to), |dialled| format!("member {dialled:x}"));
            let text = format!(
                "a connection for {meant} joined member {ours:x} and member {who:x} of cluster {cluster:x}: the peer URL \
                 of {meant} leads to another member; correct it with `member update`"
            );
            return refuse(CloseCode::WrongMember, text);
        }
        let unknown = theirs.features.refuse & !self.known_features.refuse;
        if unknown != 0 {
            let text = format!(
                "member {who:x} uses features {unknown:#x} of the peer protocol that member {ours:x} does not know: \
                 upgrade member {ours:x}"
            );
            return refuse(CloseCode::Feature, text);
        }
        let snapshots = theirs.features.no_snapshots & !self.known_features.no_snapshots == 0;
        Ok(Agreed { version, snapshots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster_id: 0xc1,
            member_id: 1,
            incarnation: 3,
            process: 99,
            features: Features::default(),
            known_features: Features { ignore: 0, no_snapshots: 1, refuse: 1 },
        }
    }

    fn theirs() -> Hello {
        Identity { member_id: 2, ..identity() }.hello(1, 7)
    }

    #[test]
    fn golden_bytes() {
        let features = Features { ignore: 0x11, no_snapshots: 0x22, refuse: 0x33 };
        let bytes = Hello { features, ..theirs() }.encode();
        let hex = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let fixed = "52494e4750454552" // magic
            .to_owned()
            + "6000" // length
            + "010001000000" // versions, reserved
            + "c100000000000000" // cluster
            + "0200000000000000" // from
            + "0100000000000000" // to
            + "0300000000000000" // incarnation
            + "6300000000000000" // process
            + "0700000000000000" // sequence
            + "1100000000000000" // features
            + "2200000000000000"
            + "3300000000000000"
            + "00000000"; // reserved
        assert_eq!(hex(&bytes[..CRC_AT]), fixed);
        assert_eq!(Hello::decode(&bytes).expect("ours").features, features);
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let good = theirs().encode();
        assert_eq!(Hello::decode(&good), Ok(theirs()));
        for bit in 0..HELLO_BYTES * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Hello::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn each_mismatch_has_its_code_and_names_both_sides() {
        let good = theirs();
        let agreed = Agreed { version: 1, snapshots: true };
        assert_eq!(identity().check(&good, None), Ok(agreed));
        assert_eq!(identity().check(&good, Some(2)), Ok(agreed));
        let odd = Hello { features: Features { ignore: 8, no_snapshots: 2, refuse: 1 }, ..good };
        assert_eq!(identity().check(&odd, None), Ok(Agreed { snapshots: false, ..agreed }));
        let cases = [
            (Hello { version_min: 2, version_max: 9, ..good }, None, CloseCode::Version),
            (Hello { version_min: 0, version_max: 0, ..good }, None, CloseCode::Version),
            (Hello { cluster_id: 0xc2, ..good }, None, CloseCode::ClusterId),
            (Hello { to: 3, ..good }, None, CloseCode::WrongMember),
            (Hello { from: 1, ..good }, None, CloseCode::WrongMember),
            (good, Some(3), CloseCode::WrongMember),
            (Hello { features: Features { refuse: 2, ..Features::default() }, ..good }, None, CloseCode::Feature),
        ];
        for (hello, dialled, code) in cases {
            let refusal = identity().check(&hello, dialled).expect_err("a mismatch");
            assert_eq!(refusal.code, code);
            assert!(refusal.text.len() <= Refusal::TEXT_BYTES_MAX);
            assert!(refusal.text.contains("member 1") && refusal.text.contains(&format!("member {:x}", hello.from)));
        }
    }
}
