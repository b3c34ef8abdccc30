//! The trees of a group's page file: the one list of their numbers.

use ringstone_pager::api::TreeId;

/// key -> the key's current record, or its tombstone until compaction.
pub const LIVE: TreeId = TreeId(1);
/// revision (16 bytes) -> event record: the window from the compacted revision on.
pub const LOG: TreeId = TreeId(2);
/// revision (16 bytes) of an event in the window -> the record before it, where the window no longer holds that.
pub const BESIDE: TreeId = TreeId(3);
/// revision (16 bytes) of the write -> a value too large for a leaf, shared by `LIVE`, `LOG` and `BESIDE`.
pub const VALUE: TreeId = TreeId(4);
/// lease id (8 bytes) -> its record.
pub const LEASE: TreeId = TreeId(5);
/// lease id (8 bytes), key -> nothing.
pub const LEASE_KEY: TreeId = TreeId(6);
/// deadline on the lease clock (8 bytes), lease id (8 bytes) -> nothing.
pub const LEASE_DEADLINE: TreeId = TreeId(7);
/// member id (8 bytes) -> its record.
pub const MEMBER: TreeId = TreeId(8);
/// member id (8 bytes), alarm type (4 bytes) -> nothing.
pub const ALARM: TreeId = TreeId(9);
