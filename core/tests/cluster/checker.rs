//! Is a history linearizable? etcd's answers carry revisions, so the order of all changes is known, and nothing has to be
//! searched for: every answer is compared with a model at its revision, and revisions with real time. O(n log n).
//!
//! What it takes for granted: that `History::changes` is the one order of changes (the simulator compares what each member
//! showed), and that values are different in each put.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Call, Change, History, Outcome, Request, Seen};

/// All versions of all keys.
struct Model {
    keys: BTreeMap<Vec<u8>, Vec<(i64, Option<Seen>)>>,
}

impl Model {
    /// Each change follows from the state before it.
    fn new(history: &History) -> Result<Model, String> {
        let mut model = Model { keys: BTreeMap::new() };
        for (&revision, changes) in &history.changes {
            for change in changes {
                let before = model.at(&change.key, revision - 1).cloned();
                let versions = model.keys.entry(change.key.clone()).or_default();
                let now = after(before.as_ref(), change, revision)?;
                versions.push((revision, now));
            }
        }
        Ok(model)
    }

    fn at(&self, key: &[u8], revision: i64) -> Option<&Seen> {
        let versions = self.keys.get(key)?;
        let until = versions.partition_point(|(of, _)| *of <= revision);
        versions[..until].last()?.1.as_ref()
    }

    fn range(&self, key: &[u8], range_end: &[u8], revision: i64) -> Vec<Seen> {
        if range_end.is_empty() {
            return self.at(key, revision).cloned().into_iter().collect();
        }
        let keys = self.keys.range(key.to_vec()..).take_while(|(at, _)| range_end == [0] || at.as_slice() < range_end);
        keys.filter_map(|(at, _)| self.at(at, revision).cloned()).collect()
    }
}

fn after(before: Option<&Seen>, change: &Change, revision: i64) -> Result<Option<Seen>, String> {
    let Some(value) = &change.value else {
        return before.map(|_| None).ok_or(format!("revision {revision} deletes what is not there: {change:?}"));
    };
    let (create_revision, version) =
        before.map_or((revision, 1), |before| (before.create_revision, before.version + 1));
    if (create_revision, version) != (change.create_revision, change.version) {
        return Err(format!("revision {revision}: {change:?} after {before:?}"));
    }
    let (key, value) = (change.key.clone(), value.clone());
    Ok(Some(Seen { key, value, create_revision, mod_revision: revision, version, lease: change.lease }))
}

/// The revision that a put or a won transaction of this value made.
fn revisions_of_values(history: &History) -> BTreeMap<&[u8], i64> {
    let changes = history.changes.iter().flat_map(|(revision, changes)| changes.iter().map(move |at| (revision, at)));
    changes.filter_map(|(revision, change)| Some((change.value.as_deref()?, *revision))).collect()
}

/// Says what is wrong first.
pub fn check(history: &History) -> Result<(), String> {
    let model = Model::new(history)?;
    let values = revisions_of_values(history);
    let mut made = BTreeSet::new();
    for call in &history.calls {
        check_answer(call, &model, history)?;
        let value = match &call.request {
            Request::Put { value, .. } | Request::Txn { value, .. } => value.as_slice(),
            _ => continue,
        };
        made.insert(value);
        let placed = values.get(value).copied();
        let expected = match &call.outcome {
            Outcome::Put { revision } | Outcome::Txn { revision, succeeded: true, .. } => Some(*revision),
            Outcome::Unknown => placed,
            _ => None,
        };
        if placed != expected {
            return Err(format!("it is at {placed:?} in the order of changes, expected {expected:?}: {call:?}"));
        }
    }
    check_deletes(history, &model)?;
    if let Some((value, revision)) = values.iter().find(|(value, _)| !made.contains(*value)) {
        return Err(format!("nobody asked for {} at {revision}", String::from_utf8_lossy(value)));
    }
    check_real_time(history, &values)
}

/// Whatever goes was deleted by somebody, or by its lease.
fn check_deletes(history: &History, model: &Model) -> Result<(), String> {
    let told: BTreeSet<i64> = history
        .calls
        .iter()
        .filter_map(|call| match call.outcome {
            Outcome::Deleted { revision, deleted } if deleted > 0 => Some(revision),
            _ => None,
        })
        .collect();
    let unknown = |key: &[u8]| {
        history.calls.iter().any(|call| match (&call.request, &call.outcome) {
            (Request::Delete { key: from, range_end }, Outcome::Unknown) => {
                from == key || (from.as_slice() < key && key < range_end.as_slice())
            }
            _ => false,
        })
    };
    for (revision, changes) in &history.changes {
        for change in changes.iter().filter(|change| change.value.is_none()) {
            let lease = model.at(&change.key, revision - 1).map_or(0, |before| before.lease);
            if lease == 0 && !told.contains(revision) && !unknown(&change.key) {
                return Err(format!("nobody deleted {:?} at {revision}", String::from_utf8_lossy(&change.key)));
            }
        }
    }
    Ok(())
}

fn check_answer(call: &Call, model: &Model, history: &History) -> Result<(), String> {
    let wrong = |expected: &dyn std::fmt::Debug| Err(format!("expected {expected:?}: {call:?}"));
    let changes_at = |revision: &i64| history.changes.get(revision).map_or(&[][..], Vec::as_slice);
    match (&call.request, &call.outcome) {
        (Request::Put { key, value, lease }, Outcome::Put { revision }) => {
            let seen = model.at(key, *revision);
            let is_it = seen.is_some_and(|seen| seen.value == *value && seen.lease == *lease);
            if !is_it || changes_at(revision).len() != 1 { wrong(&seen) } else { Ok(()) }
        }
        (Request::Delete { key, range_end }, Outcome::Deleted { revision, deleted }) => {
            let at = if *deleted == 0 { *revision } else { *revision - 1 };
            let gone = model.range(key, range_end, at);
            let told = changes_at(revision).iter().filter(|change| change.value.is_none()).count();
            let is_told = *deleted == 0 || (told == gone.len() && model.range(key, range_end, *revision).is_empty());
            if gone.len() as i64 != *deleted || !is_told { wrong(&gone) } else { Ok(()) }
        }
        (Request::Txn { key, mod_revision, value }, Outcome::Txn { revision, succeeded, seen }) => {
            let at = if *succeeded { *revision - 1 } else { *revision };
            let before = model.at(key, at);
            let holds = before.map_or(0, |seen| seen.mod_revision) == *mod_revision;
            let won = model.at(key, *revision).is_some_and(|now| now.value == *value && now.mod_revision == *revision);
            let is_right = if *succeeded { won && seen.is_empty() } else { seen.first() == before };
            if holds != *succeeded || !is_right { wrong(&before) } else { Ok(()) }
        }
        (Request::Range { key, range_end, .. }, Outcome::Range { revision, seen }) => {
            let expected = model.range(key, range_end, *revision);
            if *seen == expected { Ok(()) } else { wrong(&expected) }
        }
        _ => Ok(()),
    }
}

/// Nobody sees a revision lower than one that was told before he asked; a change has a higher one.
fn check_real_time(history: &History, values: &BTreeMap<&[u8], i64>) -> Result<(), String> {
    let mut answers: Vec<(u64, i64)> =
        history.calls.iter().filter_map(|call| Some((call.returned, call.outcome.revision()?))).collect();
    answers.sort_unstable();
    let mut calls: Vec<&Call> = history.calls.iter().collect();
    calls.sort_by_key(|call| call.called);
    let (mut told, mut next) = (0, 0);
    for call in calls {
        while let Some((_, revision)) = answers.get(next).filter(|(returned, _)| *returned < call.called) {
            told = told.max(*revision);
            next += 1;
        }
        if matches!(call.request, Request::Range { serializable: true, .. }) {
            continue;
        }
        let (revision, changes) = match (&call.outcome, &call.request) {
            (Outcome::Put { revision } | Outcome::Txn { revision, succeeded: true, .. }, _) => (*revision, true),
            (Outcome::Deleted { revision, deleted }, _) => (*revision, *deleted > 0),
            (Outcome::Unknown, Request::Put { value, .. } | Request::Txn { value, .. }) => {
                match values.get(value.as_slice()) {
                    Some(revision) => (*revision, true),
                    None => continue,
                }
            }
            (outcome, _) => match outcome.revision() {
                Some(revision) => (revision, false),
                None => continue,
            },
        };
        if revision < told + i64::from(changes) {
            return Err(format!("revision {told} was told before {call:?}, which is at {revision}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: Option<&str>, create_revision: i64, version: i64) -> Change {
        let value = value.map(|value| value.as_bytes().to_vec());
        Change { key: key.into(), value, lease: 0, create_revision, version }
    }

    fn seen(key: &str, value: &str, create_revision: i64, mod_revision: i64, version: i64) -> Seen {
        Seen { key: key.into(), value: value.into(), create_revision, mod_revision, version, lease: 0 }
    }

    fn call(called: u64, returned: u64, request: Request, outcome: Outcome) -> Call {
        Call { called, returned, request, outcome }
    }

    fn put(key: &str, value: &str) -> Request {
        Request::Put { key: key.into(), value: value.into(), lease: 0 }
    }

    fn get(key: &str, serializable: bool) -> Request {
        Request::Range { key: key.into(), range_end: vec![], serializable }
    }

    /// Two clients; a put of unknown outcome that took effect, one that did not.
    fn sound() -> History {
        let changes = BTreeMap::from([
            (2, vec![change("a", Some("1"), 2, 1)]),
            (3, vec![change("a", Some("2"), 2, 2)]),
            (4, vec![change("a", Some("3"), 2, 3)]),
            (5, vec![change("a", None, 0, 0)]),
        ]);
        let txn = |mod_revision, value: &str| Request::Txn { key: "a".into(), mod_revision, value: value.into() };
        let calls = vec![
            call(0, 10, put("a", "1"), Outcome::Put { revision: 2 }),
            call(11, 20, put("a", "2"), Outcome::Unknown),
            call(30, 40, get("a", false), Outcome::Range { revision: 3, seen: vec![seen("a", "2", 2, 3, 2)] }),
            call(41, 50, txn(3, "3"), Outcome::Txn { revision: 4, succeeded: true, seen: vec![] }),
            call(
                42,
                60,
                txn(3, "4"),
                Outcome::Txn { revision: 4, succeeded: false, seen: vec![seen("a", "3", 2, 4, 3)] },
            ),
            call(45, 60, get("a", true), Outcome::Range { revision: 2, seen: vec![seen("a", "1", 2, 2, 1)] }),
            call(
                61,
                70,
                Request::Delete { key: "a".into(), range_end: vec![] },
                Outcome::Deleted { revision: 5, deleted: 1 },
            ),
            call(62, 80, put("a", "5"), Outcome::Unknown),
            call(81, 90, get("a", false), Outcome::Range { revision: 5, seen: vec![] }),
        ];
        History { calls, changes }
    }

    #[test]
    fn a_sound_history_passes() {
        assert_eq!(check(&sound()), Ok(()));
    }

    #[test]
    fn every_damage_is_found() {
        type Damage = fn(&mut History);
        let damages: [(&str, Damage); 14] = [
            ("an acknowledged put is lost", |h| {
                h.changes.remove(&2);
            }),
            ("an acknowledged put has another revision", |h| h.calls[0].outcome = Outcome::Put { revision: 3 }),
            ("a change that nobody asked for", |h| {
                h.changes.insert(6, vec![change("b", Some("x"), 6, 1)]);
            }),
            ("a refused put took effect", |h| h.calls[1].outcome = Outcome::Refused("no leader".into())),
            ("a put of unknown outcome took effect before it was asked for", |h| {
                (h.calls[1].called, h.calls[1].returned) = (85, 86);
                h.calls[2].called = 9;
            }),
            ("a stale read", |h| {
                h.calls[2].outcome = Outcome::Range { revision: 2, seen: vec![seen("a", "1", 2, 2, 1)] };
                h.calls[2].called = 61;
                h.calls[2].returned = 62;
            }),
            ("a read of another value", |h| {
                h.calls[2].outcome = Outcome::Range { revision: 3, seen: vec![seen("a", "1", 2, 2, 1)] };
            }),
            ("a serializable read of a state that never was", |h| {
                h.calls[5].outcome = Outcome::Range { revision: 2, seen: vec![] };
            }),
            ("both of two transactions win", |h| {
                h.calls[4].outcome = Outcome::Txn { revision: 4, succeeded: true, seen: vec![] };
            }),
            ("a transaction that should have won loses", |h| {
                h.calls[3].outcome =
                    Outcome::Txn { revision: 3, succeeded: false, seen: vec![seen("a", "2", 2, 3, 2)] };
            }),
            ("a loser sees what is not there", |h| {
                h.calls[4].outcome = Outcome::Txn { revision: 4, succeeded: false, seen: vec![] };
            }),
            ("a delete deletes nothing", |h| h.calls[6].outcome = Outcome::Deleted { revision: 5, deleted: 0 }),
            ("a version is missing", |h| h.changes.get_mut(&4).expect("there")[0].version = 4),
            ("revisions go back", |h| {
                h.calls[8].outcome = Outcome::Range { revision: 4, seen: vec![seen("a", "3", 2, 4, 3)] };
            }),
        ];
        for (what, damage) in damages {
            let mut history = sound();
            damage(&mut history);
            assert!(check(&history).is_err(), "{what}");
        }
    }
}
