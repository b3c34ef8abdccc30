//! etcd as a list of events, replayed for each question.

use std::collections::{BTreeMap, BTreeSet};

use ringstone_core::command::{Compare, DeleteRange, Op, Operand, Put, Range, Txn};
use ringstone_core::error::Error;
use ringstone_core::event::{Event, EventKind, Revision};
use ringstone_core::mvcc::{Answer, Applied};
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{
    CompactionResponse, DeleteRangeResponse, LeaseRevokeResponse, PutResponse, RangeResponse, ResponseHeader,
    ResponseOp, TxnResponse,
};
use ringstone_proto::mvccpb::KeyValue;

pub type Alive = BTreeMap<Vec<u8>, KeyValue>;

#[derive(Clone, Default)]
pub struct Model {
    pub revision: i64,
    pub compact: i64,
    /// Revision, key, value or none for a delete.
    pub events: Vec<(Revision, Vec<u8>, Option<KeyValue>)>,
    pub leases: BTreeSet<i64>,
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

fn inside(key: &[u8], end: &[u8], probe: &[u8]) -> bool {
    if end.is_empty() { probe == key } else { probe >= key && (end == [0] || probe < end) }
}

impl Model {
    pub fn new() -> Model {
        Model { revision: 1, compact: -1, ..Model::default() }
    }

    /// All keys alive at the end of main revision `main`.
    pub fn alive(&self, main: i64) -> Alive {
        let mut alive = Alive::new();
        for (revision, key, kv) in &self.events {
            if revision.main <= main {
                match kv {
                    Some(kv) => alive.insert(key.clone(), kv.clone()),
                    None => alive.remove(key),
                };
            }
        }
        alive
    }

    fn now(&self) -> Alive {
        self.alive(i64::MAX)
    }

    /// The event at `index` as a watch shows it.
    pub fn event(&self, index: usize) -> Event {
        let (revision, key, kv) = &self.events[index];
        let creates = kv.as_ref().is_some_and(|kv| kv.create_revision == revision.main);
        let prev_kv = if creates { None } else { self.alive(revision.main - 1).remove(key) };
        let gone = KeyValue { key: key.clone().into(), mod_revision: revision.main, ..KeyValue::default() };
        let kind = if kv.is_some() { EventKind::Put } else { EventKind::Delete };
        Event { revision: *revision, kind, kv: kv.clone().unwrap_or(gone), prev_kv }
    }

    fn applied(&mut self, before: usize, response: Result<Answer, Error>) -> Applied {
        let events: Vec<Event> = (before..self.events.len()).map(|index| self.event(index)).collect();
        if !events.is_empty() {
            self.revision += 1;
        }
        Applied { response, events }
    }

    /// The revision that responses inside a command show.
    fn shown(&self, before: usize) -> i64 {
        self.revision + i64::from(self.events.len() > before)
    }

    fn push(&mut self, before: usize, key: &[u8], kv: Option<KeyValue>) {
        let revision = Revision { main: self.revision + 1, sub: (self.events.len() - before) as i64 };
        self.events.push((revision, key.to_vec(), kv));
    }

    pub fn put(&mut self, put: &Put) -> Applied {
        let before = self.events.len();
        if put.lease != 0 && !self.leases.contains(&put.lease) {
            return self.applied(before, Err(Error::LeaseNotFound));
        }
        if (put.ignore_value || put.ignore_lease) && !self.now().contains_key(&put.key) {
            return self.applied(before, Err(Error::KeyNotFound));
        }
        let response = self.do_put(before, put);
        self.applied(before, Ok(Answer::Put(response)))
    }

    fn do_put(&mut self, before: usize, put: &Put) -> PutResponse {
        let old = self.now().remove(&put.key);
        let main = self.revision + 1;
        let kept = old.clone().unwrap_or_default();
        let kv = KeyValue {
            key: put.key.clone().into(),
            create_revision: old.as_ref().map_or(main, |old| old.create_revision),
            mod_revision: main,
            version: kept.version + 1,
            value: if put.ignore_value { kept.value } else { put.value.clone().into() },
            lease: if put.ignore_lease { kept.lease } else { put.lease },
        };
        self.push(before, &put.key, Some(kv));
        PutResponse { header: header(main), prev_kv: old.filter(|_| put.prev_kv) }
    }

    pub fn delete(&mut self, delete: &DeleteRange) -> Applied {
        let before = self.events.len();
        let response = self.do_delete(before, delete);
        self.applied(before, Ok(Answer::DeleteRange(response)))
    }

    fn do_delete(&mut self, before: usize, delete: &DeleteRange) -> DeleteRangeResponse {
        let gone: Vec<KeyValue> =
            self.now().into_values().filter(|kv| inside(&delete.key, &delete.range_end, &kv.key)).collect();
        gone.iter().for_each(|kv| self.push(before, &kv.key, None));
        DeleteRangeResponse {
            header: header(self.shown(before)),
            deleted: gone.len() as i64,
            prev_kvs: if delete.prev_kv { gone } else { vec![] },
        }
    }

    pub fn revoke(&mut self, id: i64) -> Applied {
        let before = self.events.len();
        if !self.leases.remove(&id) {
            return self.applied(before, Err(Error::LeaseNotFound));
        }
        let keys: Vec<Vec<u8>> = self.now().into_iter().filter(|(_, kv)| kv.lease == id).map(|(key, _)| key).collect();
        keys.iter().for_each(|key| self.push(before, key, None));
        let response = LeaseRevokeResponse { header: header(self.shown(before)) };
        self.applied(before, Ok(Answer::LeaseRevoke(response)))
    }

    pub fn compact(&mut self, revision: i64) -> Applied {
        let before = self.events.len();
        let response = if revision <= self.compact {
            Err(Error::Compacted)
        } else if revision > self.revision {
            Err(Error::FutureRevision)
        } else {
            self.compact = revision;
            Ok(Answer::Compact(CompactionResponse { header: header(self.revision) }))
        };
        self.applied(before, response)
    }

    pub fn txn(&mut self, txn: &Txn) -> Applied {
        let before = self.events.len();
        let pre = self.now();
        // Execute on a copy: a refusal has no effect.
        let mut copy = self.clone();
        if let Err(error) = self.check(txn, &pre) {
            return self.applied(before, Err(error));
        }
        match copy.do_txn(before, txn, &pre) {
            Ok(mut response) => {
                *self = copy;
                response.header = header(self.shown(before));
                self.applied(before, Ok(Answer::Txn(response)))
            }
            Err(error) => self.applied(before, Err(error)),
        }
    }

    fn check(&self, txn: &Txn, pre: &Alive) -> Result<(), Error> {
        for op in self.branch(txn, pre).1 {
            match op {
                Op::Range(range) if range.revision == 0 => {}
                Op::Range(range) if range.revision > self.revision => return Err(Error::FutureRevision),
                Op::Range(range) if range.revision < self.compact => return Err(Error::Compacted),
                Op::Put(put) if put.lease != 0 && !self.leases.contains(&put.lease) => {
                    return Err(Error::LeaseNotFound);
                }
                Op::Put(put) if (put.ignore_value || put.ignore_lease) && !pre.contains_key(&put.key) => {
                    return Err(Error::KeyNotFound);
                }
                Op::Txn(nested) => self.check(nested, pre)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn branch<'t>(&self, txn: &'t Txn, pre: &Alive) -> (bool, &'t [Op]) {
        let holds = txn.compare.iter().all(|compare| holds(compare, pre));
        (holds, if holds { &txn.success } else { &txn.failure })
    }

    fn do_txn(&mut self, before: usize, txn: &Txn, pre: &Alive) -> Result<TxnResponse, Error> {
        let (succeeded, ops) = self.branch(txn, pre);
        let mut responses = vec![];
        for op in ops {
            let response = match op {
                Op::Range(range) => Response::ResponseRange(self.range_at(range, self.shown(before))?),
                Op::Put(put) if (put.ignore_value || put.ignore_lease) && !self.now().contains_key(&put.key) => {
                    return Err(Error::KeyNotFound);
                }
                Op::Put(put) => Response::ResponsePut(self.do_put(before, put)),
                Op::DeleteRange(delete) => Response::ResponseDeleteRange(self.do_delete(before, delete)),
                Op::Txn(nested) => Response::ResponseTxn(self.do_txn(before, nested, pre)?),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }

    pub fn range(&self, range: &Range) -> Result<RangeResponse, Error> {
        self.range_at(range, self.revision)
    }

    fn range_at(&self, range: &Range, latest: i64) -> Result<RangeResponse, Error> {
        if range.revision > latest {
            return Err(Error::FutureRevision);
        }
        let revision = if range.revision <= 0 { latest } else { range.revision };
        if revision < self.compact {
            return Err(Error::Compacted);
        }
        let alive = self.alive(revision).into_values();
        let mut kvs: Vec<KeyValue> = alive.filter(|kv| inside(&range.key, &range.range_end, &kv.key)).collect();
        let count = kvs.len() as i64;
        if range.count_only {
            return Ok(RangeResponse { header: header(latest), count, ..RangeResponse::default() });
        }
        let bounds =
            [range.min_mod_revision, range.max_mod_revision, range.min_create_revision, range.max_create_revision];
        let limit = usize::try_from(range.limit).ok().filter(|limit| *limit > 0);
        if let (Some(limit), 0, [0, 0, 0, 0]) = (limit, range.sort_order, bounds) {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| {
            (bounds[0] == 0 || kv.mod_revision >= bounds[0])
                && (bounds[1] == 0 || kv.mod_revision <= bounds[1])
                && (bounds[2] == 0 || kv.create_revision >= bounds[2])
                && (bounds[3] == 0 || kv.create_revision <= bounds[3])
        });
        // Stable: ties stay in the order of the keys.
        kvs.sort_by(|left, right| {
            let order = match range.sort_target {
                0 => left.key.cmp(&right.key),
                1 => left.version.cmp(&right.version),
                2 => left.create_revision.cmp(&right.create_revision),
                3 => left.mod_revision.cmp(&right.mod_revision),
                _ => left.value.cmp(&right.value),
            };
            if range.sort_order == 2 { order.reverse() } else { order }
        });
        let more = limit.is_some_and(|limit| kvs.len() > limit);
        kvs.truncate(limit.unwrap_or(usize::MAX));
        if range.keys_only {
            for kv in &mut kvs {
                kv.value = bytes::Bytes::new();
                kv.lease = if range.sort_target == 4 { kv.lease } else { 0 };
            }
        }
        Ok(RangeResponse { header: header(latest), kvs, more, count })
    }

    /// Revisions whose large values something still needs.
    pub fn large_values(&self, larger_than: usize) -> BTreeSet<Revision> {
        let mut needed = BTreeSet::new();
        for (index, (revision, key, kv)) in self.events.iter().enumerate() {
            let large = kv.as_ref().is_some_and(|kv| kv.value.len() > larger_than);
            let successor = self.events[index + 1..].iter().find(|event| event.1 == *key);
            let still = revision.main >= self.compact || successor.is_none_or(|next| next.0.main > self.compact);
            if large && still {
                needed.insert(*revision);
            }
        }
        needed
    }
}

fn holds(compare: &Compare, pre: &Alive) -> bool {
    let kvs: Vec<&KeyValue> = pre.values().filter(|kv| inside(&compare.key, &compare.range_end, &kv.key)).collect();
    if kvs.is_empty() {
        return !matches!(compare.operand, Operand::Value(_)) && holds_for(compare, &KeyValue::default());
    }
    kvs.iter().all(|kv| holds_for(compare, kv))
}

fn holds_for(compare: &Compare, kv: &KeyValue) -> bool {
    let order = match &compare.operand {
        Operand::Version(given) => kv.version.cmp(given),
        Operand::Create(given) => kv.create_revision.cmp(given),
        Operand::Mod(given) => kv.mod_revision.cmp(given),
        Operand::Value(given) => kv.value[..].cmp(given),
        Operand::Lease(given) => kv.lease.cmp(given),
        Operand::Unknown(_) => std::cmp::Ordering::Equal,
    };
    match compare.result {
        0 => order.is_eq(),
        1 => order.is_gt(),
        2 => order.is_lt(),
        3 => order.is_ne(),
        _ => true,
    }
}
