//! What was a key at an older revision?
//!
//! Start in `live` and follow the log back: by skip pointers while they stay behind the wanted revision, then by the
//! previous event. That is O(log versions) steps. The last step may leave the window; then the record stands beside.

use ringstone_pager::api::{Access, ReadTrees};
use ringstone_proto::mvccpb::KeyValue;

use super::record::{LiveRecord, LogRecord, Meta, Previous, Stored, damaged, event_at, parse_live, value_of};
use crate::event::Revision;
use crate::state::Window;
use crate::trees::{BESIDE, LIVE};

/// One version of a key, its value not fetched yet.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    /// Its fields; never a tombstone.
    pub meta: Meta,
    /// Its value.
    pub value: Stored<'a>,
}

impl<'a> Version<'a> {
    /// The bytes of its value.
    ///
    /// # Errors
    /// `Fault`.
    pub fn value<V: ReadTrees + ?Sized>(&self, view: &'a V) -> Access<&'a [u8]> {
        value_of(view, self.meta.revision, self.value)
    }

    /// As clients see it: key and value are copied.
    ///
    /// # Errors
    /// `Fault`.
    pub fn to_key_value<V: ReadTrees + ?Sized>(&self, view: &'a V, key: &[u8]) -> Access<KeyValue> {
        Ok(key_value(&self.meta, key, self.value(view)?))
    }
}

/// The wire's form of a version; one allocation holds key and value.
pub(crate) fn key_value(meta: &Meta, key: &[u8], value: &[u8]) -> KeyValue {
    let mut joined = Vec::with_capacity(key.len() + value.len());
    joined.extend_from_slice(key);
    joined.extend_from_slice(value);
    let mut key_bytes = bytes::Bytes::from(joined);
    let value = key_bytes.split_off(key.len());
    key_value_of(meta, key_bytes, value)
}

pub(crate) fn key_value_of(meta: &Meta, key: bytes::Bytes, value: bytes::Bytes) -> KeyValue {
    KeyValue {
        key,
        create_revision: meta.create,
        mod_revision: meta.revision.main,
        version: meta.version,
        value,
        lease: meta.lease,
    }
}

/// The key's current version.
///
/// # Errors
/// `Fault`.
pub fn current<'a, V: ReadTrees + ?Sized>(view: &'a V, key: &[u8]) -> Access<Option<Version<'a>>> {
    let Some(bytes) = view.get(LIVE, key)? else { return Ok(None) };
    let record = parse_live(LIVE, bytes)?;
    Ok((!record.meta.tombstone).then_some(Version { meta: record.meta, value: record.value }))
}

/// The key's version at `revision`, which lies in the window (`window.compact_revision` or later).
///
/// # Errors
/// `Fault`.
pub fn at_revision<'a, V: ReadTrees + ?Sized>(
    view: &'a V,
    window: Window,
    key: &[u8],
    revision: i64,
) -> Access<Option<Version<'a>>> {
    let Some(bytes) = view.get(LIVE, key)? else { return Ok(None) };
    version_at(view, window, &parse_live(LIVE, bytes)?, revision)
}

/// [`at_revision`] where the key's live record is at hand.
pub(crate) fn version_at<'a, V: ReadTrees + ?Sized>(
    view: &'a V,
    window: Window,
    live: &LiveRecord<'a>,
    revision: i64,
) -> Access<Option<Version<'a>>> {
    if live.meta.revision.main <= revision {
        return Ok((!live.meta.tombstone).then_some(Version { meta: live.meta, value: live.value }));
    }
    let mut event = event_at(view, live.meta.revision)?;
    loop {
        if let Some(jump) = event.jump
            && jump.to.main > revision
        {
            event = event_at(view, jump.to)?;
            continue;
        }
        let Some(previous) = event.previous else { return Ok(None) };
        if previous.revision.main <= revision {
            return version_before(view, window, &event, previous);
        }
        event = event_at(view, previous.revision)?;
    }
}

/// The version that `event` replaced. `event` lies behind the compacted revision.
pub(crate) fn version_before<'a, V: ReadTrees + ?Sized>(
    view: &'a V,
    window: Window,
    event: &LogRecord<'a>,
    previous: Previous,
) -> Access<Option<Version<'a>>> {
    if previous.put_hash.is_none() {
        return Ok(None);
    }
    // The log reaches back to `swept_revision` at least; for what is older, the sweep or the writer kept a copy.
    if previous.revision.main >= window.swept_revision {
        let record = event_at(view, previous.revision)?;
        return Ok(Some(Version { meta: record.meta, value: record.value }));
    }
    let bytes = view.get(BESIDE, &event.meta.revision.to_key())?;
    let bytes = bytes.ok_or_else(|| damaged(BESIDE, "a record that an event needs is missing"))?;
    let record = parse_live(BESIDE, bytes)?;
    if record.meta.revision != previous.revision {
        return Err(damaged(BESIDE, "a record stands beside the wrong event"));
    }
    Ok(Some(Version { meta: record.meta, value: record.value }))
}

/// What a watch shows as the key-value before `event`: the state one revision earlier, none for a creation and where
/// that has been compacted.
///
/// # Errors
/// `Fault`.
pub fn previous_key_value<V: ReadTrees + ?Sized>(
    view: &V,
    window: Window,
    event: &LogRecord<'_>,
) -> Access<Option<KeyValue>> {
    let main = event.meta.revision.main;
    if main <= window.compact_revision || event.meta.create == main {
        return Ok(None);
    }
    let mut at = *event;
    // Several changes of one key in one transaction are rare: step over them one by one.
    loop {
        let Some(previous) = at.previous else { return Ok(None) };
        if previous.revision.main < main {
            let Some(version) = version_before(view, window, &at, previous)? else { return Ok(None) };
            return Ok(Some(version.to_key_value(view, event.key)?));
        }
        at = event_at(view, previous.revision)?;
    }
}

/// The first and the last possible key of `log` in the main revisions `from..=to`.
pub(crate) fn revision_keys(from: i64, to: i64) -> ([u8; 16], [u8; 16]) {
    let first = Revision { main: from.max(0), sub: 0 };
    (first.to_key(), Revision { main: to.max(0), sub: i64::MAX }.to_key())
}
