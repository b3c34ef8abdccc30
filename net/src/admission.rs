//! Who may call what? One entry per method, written by hand.
//!
//! A method that is missing here does not build: the match has no wildcard. The server asks [`crate::Handler::admit`] with
//! the entry before it looks at a single byte of the message.

use ringstone_proto::Method;

/// What kind of right a call needs. Which user has it is decided by the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// No identity needed: health, Authenticate, AuthStatus.
    Open,
    /// Rights on the keys that the request names.
    Kv,
    /// Rights on the keys of each watch.
    Watch,
    /// Any user; revoking needs rights on the lease's keys.
    Lease,
    /// The administrator, but for MemberList.
    Cluster,
    /// The administrator, but for Status and Alarm GET.
    Maintenance,
    /// The administrator, but for asking about oneself.
    Auth,
    /// Locks and elections: rights on the keys that they keep.
    Concurrency,
}

/// Whether a learner answers a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LearnerRule {
    /// Always.
    Answers,
    /// A serializable read only: to be decided after decoding.
    AnswersSerializable,
    /// Never: "etcdserver: rpc not supported for learner".
    Refuses,
}

/// The entry of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The right that is needed.
    pub admission: Admission,
    /// Whether a learner answers.
    pub on_learner: LearnerRule,
}

/// The entry of a method.
pub const fn admission(method: Method) -> Entry {
    use Admission::*;
    use LearnerRule::*;
    use Method as M;
    let (admission, on_learner) = match method {
        M::KvRange => (Kv, AnswersSerializable),
        M::KvRangeStream | M::KvPut | M::KvDeleteRange | M::KvTxn | M::KvCompact => (Kv, Refuses),
        M::Watch => (Watch, Refuses),
        M::LeaseGrant | M::LeaseRevoke | M::LeaseKeepAlive | M::LeaseTimeToLive | M::LeaseLeases => (Lease, Refuses),
        M::ClusterMemberAdd
        | M::ClusterMemberRemove
        | M::ClusterMemberUpdate
        | M::ClusterMemberList
        | M::ClusterMemberPromote => (Cluster, Refuses),
        M::MaintenanceStatus | M::MaintenanceSnapshot => (Maintenance, Answers),
        M::MaintenanceAlarm
        | M::MaintenanceDefragment
        | M::MaintenanceHash
        | M::MaintenanceHashKV
        | M::MaintenanceMoveLeader
        | M::MaintenanceDowngrade => (Maintenance, Refuses),
        M::Authenticate | M::AuthStatus => (Open, Refuses),
        M::AuthEnable
        | M::AuthDisable
        | M::AuthUserAdd
        | M::AuthUserGet
        | M::AuthUserList
        | M::AuthUserDelete
        | M::AuthUserChangePassword
        | M::AuthUserGrantRole
        | M::AuthUserRevokeRole
        | M::AuthRoleAdd
        | M::AuthRoleGet
        | M::AuthRoleList
        | M::AuthRoleDelete
        | M::AuthRoleGrantPermission
        | M::AuthRoleRevokePermission => (Auth, Refuses),
        M::Lock | M::LockUnlock => (Concurrency, Refuses),
        M::ElectionCampaign | M::ElectionProclaim | M::ElectionLeader | M::ElectionObserve | M::ElectionResign => {
            (Concurrency, Refuses)
        }
        M::HealthCheck | M::HealthWatch | M::HealthList => (Open, Refuses),
    };
    Entry { admission, on_learner }
}
