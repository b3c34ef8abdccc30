//! Is a record one that its tree can hold? Whatever an image brings in is checked before any code relies on it.

use ringstone_pager::api::TreeId;
use rkyv::rancor;

use crate::command::ArchivedMember;
use crate::event::Revision;
use crate::lease::state::LeaseRecord;
use crate::mvcc::record::{LiveRecord, LogRecord};
use crate::state::State;
use crate::trees::{ALARM, BESIDE, LEASE, LEASE_DEADLINE, LEASE_KEY, LIVE, LOG, MEMBER, VALUE};

pub(super) fn record(tree: TreeId, key: &[u8], value: &[u8], state: &State) -> Result<(), &'static str> {
    let past = |revision: Revision| revision.main <= state.revision;
    let revision = || Revision::from_key(key).filter(|revision| past(*revision));
    match tree {
        LIVE => {
            let record = LiveRecord::parse(value).ok_or("a key's record can't be read")?;
            ensure(!key.is_empty() && past(record.meta.revision), "a key's record is of no revision of the store")
        }
        LOG => {
            let revision = revision().ok_or("an event is of no revision of the store")?;
            LogRecord::parse(revision, value).map(drop).ok_or("an event can't be read")
        }
        BESIDE => {
            let revision = revision().ok_or("a record beside an event is of no revision of the store")?;
            let record = LiveRecord::parse(value).ok_or("a record beside an event can't be read")?;
            ensure(record.meta.revision < revision, "a record beside an event is later than it")
        }
        VALUE => revision().map(drop).ok_or("a value is of no revision of the store"),
        LEASE => {
            ensure(key.len() == 8, "a lease's id is not 8 bytes long")?;
            LeaseRecord::from_bytes(value).map(drop).map_err(|_| "a lease's record can't be read")
        }
        LEASE_KEY => ensure(key.len() > 8 && value.is_empty(), "a lease's key can't be read"),
        LEASE_DEADLINE => ensure(key.len() == 16 && value.is_empty(), "a lease's deadline can't be read"),
        MEMBER => {
            ensure(key.len() == 8, "a member's id is not 8 bytes long")?;
            // The record may stand at any address; rkyv's types here are unaligned.
            rkyv::access::<ArchivedMember, rancor::Error>(value)
                .map(drop)
                .map_err(|_| "a member's record can't be read")
        }
        ALARM => ensure(key.len() == 12 && value.is_empty(), "an alarm can't be read"),
        _ => Err("a record of a tree that is unknown"),
    }
}

fn ensure(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}
