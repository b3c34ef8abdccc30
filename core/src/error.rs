//! Why a request is refused: one enum, one table from it to the gRPC code and the exact text that etcd's clients match.

use ringstone_pager::api::{Damage, Fault, PageRun};

/// gRPC status codes, by their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// The operation was cancelled.
    Canceled = 1,
    /// An error that the table of codes does not know.
    Unknown = 2,
    /// The request is wrong whatever the state.
    InvalidArgument = 3,
    /// The deadline has passed.
    DeadlineExceeded = 4,
    /// Something that was named does not exist.
    NotFound = 5,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A bound was met.
    ResourceExhausted = 8,
    /// The state does not allow it.
    FailedPrecondition = 9,
    /// Beyond the valid range.
    OutOfRange = 11,
    /// Not offered.
    Unimplemented = 12,
    /// Try again later.
    Unavailable = 14,
    /// Data are damaged.
    DataLoss = 15,
    /// No valid credentials.
    Unauthenticated = 16,
}

/// Why a request is refused. Deterministic where apply makes it: equal on all members.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
#[allow(missing_docs, reason = "the table below says what each one is")]
pub enum Error {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    InvalidClientApiVersion,
    InvalidSortOption,
    Compacted,
    FutureRevision,
    NoSpace,
    LeaseNotFound,
    LeaseExists,
    LeaseTtlTooLarge,
    WatchCanceled,
    MemberExists,
    PeerUrlsExist,
    MemberNotEnoughStarted,
    MemberBadUrls,
    MemberNotFound,
    MemberNotLearner,
    LearnerNotReady,
    TooManyLearners,
    ClusterIdMismatch,
    RequestTooLarge,
    TooManyRequests,
    RootUserNotExist,
    RootRoleNotExist,
    UserExists,
    UserEmpty,
    UserNotFound,
    RoleExists,
    RoleNotFound,
    RoleEmpty,
    AuthFailed,
    PermissionNotGiven,
    PermissionDenied,
    RoleNotGranted,
    PermissionNotGranted,
    AuthNotEnabled,
    InvalidAuthToken,
    InvalidAuthManagement,
    AuthOldRevision,
    NoLeader,
    NotLeader,
    LeaderChanged,
    NotCapable,
    Stopped,
    Timeout,
    TimeoutLeaderFailure,
    TimeoutConnectionLost,
    TimeoutWaitApplied,
    TimeoutLeaderTransfer,
    Unhealthy,
    Corrupt,
    NotSupportedForLearner,
    BadLeaderTransferee,
    DowngradeVersionFormat,
    DowngradeVersionInvalid,
    DowngradeVersionUnavailable,
    DowngradeInProgress,
    DowngradeNotInProgress,
    RequestCanceled,
    DeadlineExceeded,
    RangeStreamSort,
    RangeStreamFilter,
    NotPrimaryLessor,
    UnknownMethod,
    NoPasswordUser,
    ElectionNoLeader,
    ElectionNotLeader,
    ElectionLeaderMissing,
    SessionExpired,
    SnapshotMoved,
    /// A page of the store failed a check, and the other members have what it held.
    Mending,
    /// A page of the store failed a check: the answer can't be given here, and nothing wrong is given instead.
    Damaged(Damage),
}

impl Error {
    /// The gRPC code on the wire.
    #[must_use]
    pub fn code(&self) -> Code {
        self.row().0
    }

    /// The text on the wire.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Error::Damaged(damage) => {
                format!("ringstone: page file: {damage}. Restore the member from a snapshot, or replace it")
            }
            _ => self.row().1.to_owned(),
        }
    }

    /// The table (etcd-surface 3.1 and 3.2). Two rows have code Unknown because etcd answers them so.
    fn row(&self) -> (Code, &'static str) {
        use Code::{
            Canceled, DataLoss, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, ResourceExhausted,
            Unauthenticated, Unavailable, Unimplemented, Unknown,
        };
        match self {
            Error::EmptyKey => (InvalidArgument, "etcdserver: key is not provided"),
            Error::KeyNotFound => (InvalidArgument, "etcdserver: key not found"),
            Error::ValueProvided => (InvalidArgument, "etcdserver: value is provided"),
            Error::LeaseProvided => (InvalidArgument, "etcdserver: lease is provided"),
            Error::TooManyOps => (InvalidArgument, "etcdserver: too many operations in txn request"),
            Error::DuplicateKey => (InvalidArgument, "etcdserver: duplicate key given in txn request"),
            Error::InvalidClientApiVersion => (InvalidArgument, "etcdserver: invalid client api version"),
            Error::InvalidSortOption => (InvalidArgument, "etcdserver: invalid sort option"),
            Error::Compacted => (OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
            Error::FutureRevision => (OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
            Error::NoSpace => (ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            Error::LeaseNotFound => (NotFound, "etcdserver: requested lease not found"),
            Error::LeaseExists => (FailedPrecondition, "etcdserver: lease already exists"),
            Error::LeaseTtlTooLarge => (OutOfRange, "etcdserver: too large lease TTL"),
            Error::WatchCanceled => (Canceled, "etcdserver: watch canceled"),
            Error::MemberExists => (FailedPrecondition, "etcdserver: member ID already exist"),
            Error::PeerUrlsExist => (FailedPrecondition, "etcdserver: Peer URLs already exists"),
            Error::MemberNotEnoughStarted => {
                (Unknown, "etcdserver: re-configuration failed due to not enough started members")
            }
            Error::MemberBadUrls => (InvalidArgument, "etcdserver: given member URLs are invalid"),
            Error::MemberNotFound => (NotFound, "etcdserver: member not found"),
            Error::MemberNotLearner => (FailedPrecondition, "etcdserver: can only promote a learner member"),
            Error::LearnerNotReady => {
                (FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader")
            }
            Error::TooManyLearners => (FailedPrecondition, "etcdserver: too many learner members in cluster"),
            Error::ClusterIdMismatch => (FailedPrecondition, "etcdserver: cluster ID mismatch"),
            Error::RequestTooLarge => (InvalidArgument, "etcdserver: request is too large"),
            Error::TooManyRequests => (Unknown, "etcdserver: too many requests"),
            Error::RootUserNotExist => (FailedPrecondition, "etcdserver: root user does not exist"),
            Error::RootRoleNotExist => (FailedPrecondition, "etcdserver: root user does not have root role"),
            Error::UserExists => (FailedPrecondition, "etcdserver: user name already exists"),
            Error::UserEmpty => (InvalidArgument, "etcdserver: user name is empty"),
            Error::UserNotFound => (FailedPrecondition, "etcdserver: user name not found"),
            Error::RoleExists => (FailedPrecondition, "etcdserver: role name already exists"),
            Error::RoleNotFound => (FailedPrecondition, "etcdserver: role name not found"),
            Error::RoleEmpty => (InvalidArgument, "etcdserver: role name is empty"),
            Error::AuthFailed => (InvalidArgument, "etcdserver: authentication failed, invalid user ID or password"),
            Error::PermissionNotGiven => (InvalidArgument, "etcdserver: permission not given"),
            Error::PermissionDenied => (Code::PermissionDenied, "etcdserver: permission denied"),
            Error::RoleNotGranted => (FailedPrecondition, "etcdserver: role is not granted to the user"),
            Error::PermissionNotGranted => (FailedPrecondition, "etcdserver: permission is not granted to the role"),
            Error::AuthNotEnabled => (FailedPrecondition, "etcdserver: authentication is not enabled"),
            Error::InvalidAuthToken => (Unauthenticated, "etcdserver: invalid auth token"),
            Error::InvalidAuthManagement => (InvalidArgument, "etcdserver: invalid auth management"),
            Error::AuthOldRevision => (InvalidArgument, "etcdserver: revision of auth store is old"),
            Error::NoLeader => (Unavailable, "etcdserver: no leader"),
            Error::NotLeader => (FailedPrecondition, "etcdserver: not leader"),
            Error::LeaderChanged => (Unavailable, "etcdserver: leader changed"),
            Error::NotCapable => (FailedPrecondition, "etcdserver: not capable"),
            Error::Stopped => (Unavailable, "etcdserver: server stopped"),
            Error::Timeout => (Unavailable, "etcdserver: request timed out"),
            Error::TimeoutLeaderFailure => {
                (Unavailable, "etcdserver: request timed out, possibly due to previous leader failure")
            }
            Error::TimeoutConnectionLost => {
                (Unavailable, "etcdserver: request timed out, possibly due to connection lost")
            }
            Error::TimeoutWaitApplied => {
                (Unavailable, "etcdserver: request timed out, waiting for the applied index took too long")
            }
            Error::TimeoutLeaderTransfer => (Unknown, "etcdserver: request timed out, leader transfer took too long"),
            Error::Unhealthy => (Unavailable, "etcdserver: unhealthy cluster"),
            Error::Corrupt => (DataLoss, "etcdserver: corrupt cluster"),
            Error::NotSupportedForLearner => (FailedPrecondition, "etcdserver: rpc not supported for learner"),
            Error::BadLeaderTransferee => (FailedPrecondition, "etcdserver: bad leader transferee"),
            Error::DowngradeVersionFormat => (InvalidArgument, "etcdserver: wrong downgrade target version format"),
            Error::DowngradeVersionInvalid => (InvalidArgument, "etcdserver: invalid downgrade target version"),
            Error::DowngradeVersionUnavailable => {
                (FailedPrecondition, "etcdserver: cluster version not found during downgrade")
            }
            Error::DowngradeInProgress => (FailedPrecondition, "etcdserver: cluster has a downgrade job in progress"),
            Error::DowngradeNotInProgress => (FailedPrecondition, "etcdserver: no inflight downgrade job"),
            Error::RequestCanceled => (Canceled, "etcdserver: request canceled"),
            Error::DeadlineExceeded => (Code::DeadlineExceeded, "etcdserver: context deadline exceeded"),
            Error::RangeStreamSort => (Unimplemented, "RangeStream does not support custom sort orders"),
            Error::RangeStreamFilter => (Unimplemented, "RangeStream does not support revision filters"),
            Error::NotPrimaryLessor => (Unknown, "not a primary lessor"),
            Error::UnknownMethod => (Unknown, "etcdserver: unknown method"),
            Error::NoPasswordUser => (Unknown, "auth: authentication failed, password was given for no password user"),
            Error::ElectionNoLeader => (Unknown, "election: no leader"),
            Error::ElectionNotLeader => (Unknown, "election: not leader"),
            Error::ElectionLeaderMissing => (Unknown, "\"leader\" field must be provided"),
            Error::SessionExpired => (Unknown, "mutex: session is expired"),
            Error::SnapshotMoved => {
                (Unavailable, "ringstone: the store moved on while its snapshot was read: ask for it again")
            }
            Error::Mending => (
                Unavailable,
                "ringstone: a page of this member is damaged, and it fetches its state from the others: ask another member",
            ),
            Error::Damaged(_) => (DataLoss, "ringstone: damaged page"),
        }
    }
}

/// Why a read gave no answer (yet).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFault {
    /// Bring these pages in and call again: the reader stands where it stood.
    #[error("pages {}+{} are not in memory", .0.first, .0.pages)]
    Absent(PageRun),
    /// The answer to the client.
    #[error(transparent)]
    Refused(#[from] Error),
}

impl From<Fault> for ReadFault {
    fn from(fault: Fault) -> ReadFault {
        match fault {
            Fault::Absent(run) => ReadFault::Absent(run),
            Fault::Damaged(damage) => ReadFault::Refused(Error::Damaged(damage)),
        }
    }
}

/// Why a command was not applied. (A command that the state refuses _is_ applied: its answer is the error.)
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyFault {
    /// Bring these pages in and apply again: nothing was changed.
    #[error("pages {}+{} are not in memory", .0.first, .0.pages)]
    Absent(PageRun),
    /// A page is damaged; nothing was changed. The member cannot go on.
    #[error("apply: {0}")]
    Damaged(Damage),
    /// A write failed behind the point of no return: the writer holds half a command and must be thrown away.
    #[error("apply stopped half-way: {0}")]
    HalfApplied(Fault),
}

impl ApplyFault {
    /// A fault met before anything was written.
    pub(crate) fn before(fault: Fault) -> ApplyFault {
        match fault {
            Fault::Absent(run) => ApplyFault::Absent(run),
            Fault::Damaged(damage) => ApplyFault::Damaged(damage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_see_the_code_and_text_of_etcd() {
        let rows = [
            (Error::EmptyKey, 3, "etcdserver: key is not provided"),
            (Error::Compacted, 11, "etcdserver: mvcc: required revision has been compacted"),
            (Error::NoSpace, 8, "etcdserver: mvcc: database space exceeded"),
            (Error::TooManyRequests, 2, "etcdserver: too many requests"),
            (Error::LeaseNotFound, 5, "etcdserver: requested lease not found"),
            (Error::InvalidAuthToken, 16, "etcdserver: invalid auth token"),
            (Error::RangeStreamSort, 12, "RangeStream does not support custom sort orders"),
        ];
        for (error, code, text) in rows {
            assert_eq!((error.code() as u8, error.to_string().as_str()), (code, text));
        }
    }
}
