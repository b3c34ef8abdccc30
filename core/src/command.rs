//! What the log carries: commands, already validated as far as a request alone allows, with everything that depends on
//! settings, clocks or chance fixed before they are proposed. Apply reads these and the state, nothing else.

#![allow(missing_docs, reason = "the archived twins that rkyv derives carry none")]

use rkyv::{Archive, Deserialize, Serialize};

/// The body of an entry. A new variant is a new entry kind: golden bytes in `tests/golden/` pin these.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Command {
    /// The first entry of a log.
    Bootstrap(Bootstrap),
    /// etcd's Put.
    Put(Put),
    /// etcd's DeleteRange.
    DeleteRange(DeleteRange),
    /// etcd's Txn that writes (a read-only one never reaches the log).
    Txn(Txn),
    /// etcd's Compact.
    Compact {
        /// The revision asked for, as sent.
        revision: i64,
    },
    /// etcd's LeaseGrant; id and TTL are final (never 0).
    LeaseGrant {
        /// Lease id.
        id: i64,
        /// Granted time to live in seconds.
        ttl_s: i64,
    },
    /// etcd's LeaseRevoke, or an expiry.
    LeaseRevoke {
        /// Lease id.
        id: i64,
        /// For an expiry: the renewal number it was decided on; applies only if unchanged.
        expired_renewal: Option<u64>,
    },
    /// Keep-alives of one interval, in a batch.
    LeaseRenew {
        /// Ids that were kept alive.
        ids: Vec<i64>,
    },
    /// Moves the lease clock on; nothing else (the clock itself stands in the envelope).
    LeaseClock,
    /// etcd's Alarm with action ACTIVATE or DEACTIVATE.
    Alarm {
        /// True: activate.
        activate: bool,
        /// The member that it is about.
        member_id: u64,
        /// etcd's AlarmType: 1 NOSPACE, 2 CORRUPT.
        alarm: i32,
    },
    /// A member publishes its name and client URLs.
    MemberAttributes {
        /// Member id.
        member_id: u64,
        /// Its name.
        name: String,
        /// Its advertised client URLs.
        client_urls: Vec<String>,
    },
    /// etcd's MemberAdd: the context of the configuration that has the new member.
    MemberAdd {
        /// Boxed: no variant may be longer than those that are in logs already.
        member: Box<Member>,
    },
    /// etcd's MemberPromote: the context of the configuration in which the learner votes.
    MemberPromote {
        /// Member id.
        id: u64,
    },
    /// etcd's MemberRemove: the context of the configuration without the member.
    MemberRemove {
        /// Member id.
        id: u64,
    },
    /// etcd's MemberUpdate: an entry of its own, for who votes stays as it is.
    MemberUpdate {
        /// Member id.
        id: u64,
        /// Its new peer URLs.
        peer_urls: Vec<String>,
    },
    /// All members were known to apply entries up to this kind, and only such may be members from now on.
    KindsAgreed {
        /// The newest kind that may be proposed.
        kinds: u16,
    },
    /// A put by another name: what a later version could add. In no build but those of tests.
    #[cfg(feature = "next-kind")]
    NextPut(Put),
}

/// What every member must agree on before the first request.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// Cluster id.
    pub cluster_id: u64,
    /// Key of the per-record hashes.
    pub hash_key: [u8; 16],
    /// The members, ascending by id.
    pub members: Vec<Member>,
}

/// A member of the cluster.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Member {
    /// Member id.
    pub id: u64,
    /// Name; empty until it has started.
    pub name: String,
    /// Peer URLs.
    pub peer_urls: Vec<String>,
    /// Client URLs; empty until it has started.
    pub client_urls: Vec<String>,
    /// A learner does not vote.
    pub is_learner: bool,
}

/// etcd's PutRequest.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Put {
    /// Key, not empty.
    pub key: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
    /// Lease id, 0: none.
    pub lease: i64,
    /// Answer with the previous key-value.
    pub prev_kv: bool,
    /// Keep the value.
    pub ignore_value: bool,
    /// Keep the lease.
    pub ignore_lease: bool,
}

/// etcd's DeleteRangeRequest.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct DeleteRange {
    /// First key, not empty.
    pub key: Vec<u8>,
    /// End, as etcd has it: empty is one key, `\0` is from the key on.
    pub range_end: Vec<u8>,
    /// Answer with the previous key-values.
    pub prev_kv: bool,
}

/// etcd's RangeRequest inside a transaction.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Range {
    /// First key, not empty.
    pub key: Vec<u8>,
    /// End, as in [`DeleteRange`].
    pub range_end: Vec<u8>,
    /// Most keys in the answer, 0 or less: all.
    pub limit: i64,
    /// Revision, as sent.
    pub revision: i64,
    /// etcd's SortOrder, valid.
    pub sort_order: i32,
    /// etcd's SortTarget, valid.
    pub sort_target: i32,
    /// As sent; no effect inside a written transaction.
    pub serializable: bool,
    /// Leave values out.
    pub keys_only: bool,
    /// Leave keys and values out.
    pub count_only: bool,
    /// Inclusive bound, 0: none.
    pub min_mod_revision: i64,
    /// Inclusive bound, 0: none.
    pub max_mod_revision: i64,
    /// Inclusive bound, 0: none.
    pub min_create_revision: i64,
    /// Inclusive bound, 0: none.
    pub max_create_revision: i64,
}

/// etcd's TxnRequest, checked for size, empty keys, empty ops and overlaps before it was proposed.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
pub struct Txn {
    /// All must hold.
    pub compare: Vec<Compare>,
    /// Done where they do.
    #[rkyv(omit_bounds)]
    pub success: Vec<Op>,
    /// Done where they do not.
    #[rkyv(omit_bounds)]
    pub failure: Vec<Op>,
}

/// One operation of a transaction.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
pub enum Op {
    /// Read.
    Range(Range),
    /// Write.
    Put(Put),
    /// Remove.
    DeleteRange(DeleteRange),
    /// A nested transaction.
    Txn(#[rkyv(omit_bounds)] Txn),
}

/// etcd's Compare.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Compare {
    /// etcd's CompareResult as sent (unknown: the comparison holds).
    pub result: i32,
    /// Key, not empty.
    pub key: Vec<u8>,
    /// End, as in [`DeleteRange`]; the comparison must hold for every key.
    pub range_end: Vec<u8>,
    /// What is compared with what.
    pub operand: Operand,
}

/// The target of a comparison with the value given (unset: 0 or empty).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum Operand {
    /// Version.
    Version(i64),
    /// Create revision.
    Create(i64),
    /// Mod revision.
    Mod(i64),
    /// Value.
    Value(Vec<u8>),
    /// Lease id.
    Lease(i64),
    /// An unknown target of etcd's enum: compares like etcd does.
    Unknown(i32),
}
