//! Why a connection between members is closed: numbers for machines; the reason's text names both sides and the remedy.

/// The application error code of a QUIC close. Numbers never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CloseCode {
    /// The process stops.
    Shutdown = 0x01,
    /// Another connection of the pair stays.
    Tie = 0x02,
    /// A later process of the same member has connected.
    Superseded = 0x03,
    /// The other member is no longer in our list.
    MemberDropped = 0x04,
    /// The other side's process has ended, as far as this one can tell. Who hears it dials again.
    Ended = 0x05,
    /// What came first was not a hello.
    BadHello = 0x10,
    /// No common version of the protocol.
    Version = 0x11,
    /// The other side belongs to another cluster.
    ClusterId = 0x12,
    /// The hello was meant for another member, or came from another one than was dialled.
    WrongMember = 0x13,
    /// The other side is not in our list of members.
    UnknownMember = 0x14,
    /// The other side has been removed from the cluster.
    RemovedMember = 0x15,
    /// A later process, or another one of the same incarnation, has spoken for that member.
    Incarnation = 0x16,
    /// The other side uses a feature that we must know and don't.
    Feature = 0x17,
    /// No hello in time.
    HandshakeTimeout = 0x18,
    /// The dialler's certificate names other addresses than the one that it dials from.
    Address = 0x19,
    /// Bytes that are no frame.
    Protocol = 0x20,
    /// A frame longer than its limit.
    TooLarge = 0x21,
}

impl CloseCode {
    /// All of them.
    pub const ALL: [CloseCode; 17] = [
        CloseCode::Shutdown,
        CloseCode::Tie,
        CloseCode::Superseded,
        CloseCode::MemberDropped,
        CloseCode::Ended,
        CloseCode::BadHello,
        CloseCode::Version,
        CloseCode::ClusterId,
        CloseCode::WrongMember,
        CloseCode::UnknownMember,
        CloseCode::RemovedMember,
        CloseCode::Incarnation,
        CloseCode::Feature,
        CloseCode::HandshakeTimeout,
        CloseCode::Address,
        CloseCode::Protocol,
        CloseCode::TooLarge,
    ];

    /// The code of a number, if this version knows it.
    #[must_use]
    pub fn of(number: u64) -> Option<CloseCode> {
        CloseCode::ALL.into_iter().find(|code| u64::from(*code as u32) == number)
    }

    /// True if dialling again changes nothing until somebody has changed something.
    #[must_use]
    pub fn needs_operator(self) -> bool {
        use CloseCode::{Address, ClusterId, Feature, Incarnation, RemovedMember, Superseded, Version, WrongMember};
        matches!(self, Version | ClusterId | WrongMember | RemovedMember | Incarnation | Superseded | Feature | Address)
    }
}
