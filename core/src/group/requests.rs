//! What a group is asked, and what its turns give to the world.

use ringstone_proto::etcdserverpb::{AlarmMember, LeaseGrantResponse};
use ringstone_raft::{Message, NodeId, SnapshotMetadata};

use super::{ClockTold, Forward, KeptAlive, ReadReady, Sum, Verdict};
use crate::entry::Draft;
use crate::error::Error;
use crate::event::Event;
use crate::mvcc;

/// A request on its way into the log.
#[derive(Debug)]
pub struct Proposal {
    /// The entry, but for what only the group knows.
    pub draft: Draft,
    /// The shard that waits.
    pub shard: u32,
    /// Its request id.
    pub request_id: u64,
}

/// What came of a proposal.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A command of the store.
    Store(mvcc::Answer),
    /// LeaseGrant.
    LeaseGrant(LeaseGrantResponse),
    /// Alarm: the alarms touched.
    Alarm(Vec<AlarmMember>),
    /// Nothing to tell but that it is applied.
    Done,
}

/// An answer and whom it is for.
#[derive(Debug)]
pub struct Answer {
    /// The shard.
    pub shard: u32,
    /// Its request id.
    pub request_id: u64,
    /// What it gets.
    pub outcome: Result<Reply, Error>,
}

/// What a turn gives to the world. All of it is published.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Answers to requests.
    pub answers: Vec<Answer>,
    /// Answers to keep-alives.
    pub kept_alive: Vec<KeptAlive>,
    /// The time on the leader's lease clock.
    pub clocks: Vec<ClockTold>,
    /// The batch's events, in order, of whole revisions.
    pub events: Vec<Event>,
    /// Events up to this revision stand in the log only: they were too many to hand out.
    pub skipped_to: Option<i64>,
    /// A new root was published.
    pub published: bool,
    /// Messages for other members. What promises durability is here only once it is on disk.
    pub send: Vec<(NodeId, Message)>,
    /// What only the leader can take.
    pub forward: Vec<Forward>,
    /// Answers to [`Group::read_index`](super::Group::read_index).
    pub reads: Vec<ReadReady>,
    /// Members that need an image: [`Group::send_image`](super::Group::send_image).
    pub images_wanted: Vec<NodeId>,
    /// What this member's state adds up to, for the leader to compare.
    pub sums: Vec<Sum>,
    /// On a leader: members whose state differs, for all of them to be told, this one as well ([`Group::hear_verdict`](super::Group::hear_verdict)).
    pub verdicts: Vec<Verdict>,
    /// The image whose message was stepped takes the place of the page file now, and the group is opened anew.
    pub install: Option<SnapshotMetadata>,
    /// This member was removed from the cluster.
    pub removed: bool,
}
