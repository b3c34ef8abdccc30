//! The trees against a naive map, through a view that faults at random before and between steps.

use std::cell::Cell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use ringstone_pager::api::{KeyRange, PageRun, Visitor};
use ringstone_pager::model::ModelTrees;

use super::*;

/// Trees that answer [`Fault::Absent`] on some calls, driven by a counter of pseudo-random bits.
pub(crate) struct FaultyTrees {
    inner: ModelTrees,
    bits: Cell<u64>,
}

impl FaultyTrees {
    pub(crate) fn new(seed: u64) -> FaultyTrees {
        FaultyTrees { inner: ModelTrees::new(&TREE_SPECS), bits: Cell::new(seed) }
    }

    fn fault(&self) -> Access<()> {
        // A seed of 0 never faults.
        let bits = self.bits.get();
        if bits == 0 {
            return Ok(());
        }
        let next = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.bits.set(next.max(1));
        if next >> 61 == 0 { Err(Fault::Absent(PageRun { first: 9, pages: 1 })) } else { Ok(()) }
    }
}

impl ReadTrees for FaultyTrees {
    fn get(&self, tree: TreeId, key: &[u8]) -> Access<Option<&[u8]>> {
        self.fault()?;
        self.inner.get(tree, key)
    }

    fn visit(
        &self,
        tree: TreeId,
        range: KeyRange<'_>,
        direction: Direction,
        skip_uncounted: bool,
        visitor: &mut Visitor<'_>,
    ) -> Access<()> {
        self.fault()?;
        self.inner.visit(tree, range, direction, skip_uncounted, visitor)
    }

    fn aggregate(&self, tree: TreeId, range: KeyRange<'_>) -> Access<Aggregate> {
        self.fault()?;
        self.inner.aggregate(tree, range)
    }

    fn attributes(&self) -> &[u8] {
        self.inner.attributes()
    }
}

impl WriteTrees for FaultyTrees {
    fn put(&mut self, tree: TreeId, key: &[u8], value: &[&[u8]]) -> Access<()> {
        self.fault()?;
        self.inner.put(tree, key, value)
    }

    fn delete(&mut self, tree: TreeId, key: &[u8]) -> Access<bool> {
        self.fault()?;
        self.inner.delete(tree, key)
    }

    fn delete_front(&mut self, tree: TreeId, range: KeyRange<'_>, entries_max: usize) -> Access<bool> {
        self.fault()?;
        self.inner.delete_front(tree, range, entries_max.min(2))
    }

    fn set_attributes(&mut self, attributes: &[u8]) {
        self.inner.set_attributes(attributes);
    }
}

/// Calls again until no page is absent, as the shard does.
pub(crate) fn retry<T>(mut step: impl FnMut() -> Access<T>) -> T {
    loop {
        match step() {
            Ok(value) => return value,
            Err(Fault::Absent(_)) => {}
            Err(Fault::Damaged(damage)) => panic!("{damage}"),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Grant { id: i64, ttl_s: i64 },
    Renew { ids: Vec<i64> },
    Attach { id: i64, key: u8 },
    Detach { id: i64, key: u8 },
    Revoke { id: i64 },
    Advance { ms: u64 },
}

fn any_id() -> impl Strategy<Value = i64> {
    prop_oneof![Just(-1), Just(i64::MIN), Just(1), Just(2), Just(i64::MAX), 3..9_i64]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any_id(), prop_oneof![-1..6_i64, Just(TTL_S_MAX), Just(i64::MAX)])
            .prop_map(|(id, ttl_s)| Step::Grant { id, ttl_s }),
        2 => proptest::collection::vec(any_id(), 0..5).prop_map(|ids| Step::Renew { ids }),
        3 => (any_id(), any::<u8>()).prop_map(|(id, key)| Step::Attach { id, key }),
        1 => (any_id(), any::<u8>()).prop_map(|(id, key)| Step::Detach { id, key }),
        1 => any_id().prop_map(|id| Step::Revoke { id }),
        2 => (0..4000_u64).prop_map(|ms| Step::Advance { ms }),
    ]
}

#[derive(Default)]
struct Naive {
    leases: BTreeMap<i64, NaiveLease>,
}

struct NaiveLease {
    record: LeaseRecord,
    keys: BTreeSet<Vec<u8>>,
}

fn check(trees: &FaultyTrees, naive: &Naive, clock: LeaseTime) {
    let mut by_deadline: Vec<DeadlineEntry> =
        naive.leases.iter().map(|(&id, lease)| DeadlineEntry { deadline: lease.record.deadline, id }).collect();
    by_deadline.sort_by_key(|entry| (entry.deadline, entry.id.to_be_bytes()));
    let mut listed: Vec<DeadlineEntry> = Vec::new();
    loop {
        let page = retry(|| list(trees, listed.last().copied(), 2));
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    assert_eq!(listed, by_deadline);
    assert_eq!(retry(|| count(trees)), naive.leases.len() as u64);
    let due: Vec<i64> = by_deadline.iter().filter(|entry| entry.deadline <= clock).map(|entry| entry.id).collect();
    let found = retry(|| expired(trees, clock, 100, |_| false));
    assert_eq!(found.iter().map(|due| due.id).collect::<Vec<_>>(), due);
    for due in found {
        assert!(retry(|| may_expire(trees, clock, due.id, due.renewal)));
        assert!(!retry(|| may_expire(trees, clock, due.id, due.renewal + 1)));
        assert!(!retry(|| may_expire(trees, LeaseTime(0), due.id, due.renewal)));
    }
    for (&id, NaiveLease { record, keys }) in &naive.leases {
        assert_eq!(retry(|| get(trees, id)).as_ref(), Some(record));
        let mut read: Vec<Bytes> = Vec::new();
        loop {
            let page = retry(|| keys_after(trees, id, read.last().map(|key| &key[..]), 3));
            if page.is_empty() {
                break;
            }
            read.extend(page);
        }
        assert_eq!(read, keys.iter().map(|key| Bytes::copy_from_slice(key)).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn trees_follow_the_naive_model_whatever_faults(
        seed in any::<u64>(),
        steps in proptest::collection::vec(any_step(), 1..40),
    ) {
        let mut trees = FaultyTrees::new(seed);
        let mut naive = Naive::default();
        let mut clock = LeaseTime(0);
        for step in steps {
            match step {
                Step::Grant { id, ttl_s } => {
                    // A refusal must not hide behind a grant that a fault interrupted: the answer is the model's.
                    let answer = retry(|| grant(&mut trees, clock, id, ttl_s));
                    if !(1..=TTL_S_MAX).contains(&ttl_s) {
                        prop_assert_eq!(answer, Err(GrantRefusal::TtlOutOfRange));
                    } else if let Entry::Vacant(free) = naive.leases.entry(id) {
                        prop_assert_eq!(answer, Ok(()));
                        let deadline = LeaseTime(clock.0 + ttl_s as u64 * 1000 + RENEWAL_SLACK_MS);
                        let record = LeaseRecord { ttl_s, deadline, renewal: 1 };
                        free.insert(NaiveLease { record, keys: BTreeSet::new() });
                    } else {
                        prop_assert_eq!(answer, Err(GrantRefusal::Exists));
                    }
                }
                Step::Renew { ids } => {
                    let ttls = retry(|| renew(&mut trees, clock, &ids));
                    for (id, ttl_s) in ids.iter().zip(ttls) {
                        prop_assert_eq!(ttl_s, naive.leases.get(id).map_or(0, |lease| lease.record.ttl_s));
                        if let Some(NaiveLease { record, .. }) = naive.leases.get_mut(id) {
                            let later = LeaseTime(clock.0 + record.ttl_s as u64 * 1000 + RENEWAL_SLACK_MS);
                            if later > record.deadline {
                                record.deadline = later;
                                record.renewal += 1;
                            }
                        }
                    }
                }
                Step::Attach { id, key } => if let Some(NaiveLease { keys, .. }) = naive.leases.get_mut(&id) {
                    retry(|| attach(&mut trees, id, &[key]));
                    keys.insert(vec![key]);
                },
                Step::Detach { id, key } => {
                    retry(|| detach(&mut trees, id, &[key]));
                    if let Some(NaiveLease { keys, .. }) = naive.leases.get_mut(&id) {
                        keys.remove(&vec![key]);
                    }
                }
                Step::Revoke { id } => {
                    retry(|| revoke_record(&mut trees, id));
                    naive.leases.remove(&id);
                    prop_assert!(retry(|| keys_after(&trees, id, None, 1)).is_empty());
                }
                Step::Advance { ms } => clock.0 += ms,
            }
            check(&trees, &naive, clock);
        }
    }
}

#[test]
fn remaining_time_is_whole_seconds_within_the_ttl() {
    let record = LeaseRecord { ttl_s: 10, deadline: LeaseTime(11_000), renewal: 1 };
    assert_eq!(record.remaining_s(LeaseTime(0)), 10);
    assert_eq!(record.remaining_s(LeaseTime(1500)), 9);
    assert_eq!(record.remaining_s(LeaseTime(11_000)), 0);
    assert_eq!(record.remaining_s(LeaseTime(90_000)), 0);
    assert!(record.covers(LeaseTime(1000)));
    assert!(!record.covers(LeaseTime(1001)));
}

#[test]
fn a_record_that_cannot_be_one_is_damage_and_not_a_lease() {
    let mut trees = FaultyTrees::new(0);
    trees.put(LEASE, &7_i64.to_be_bytes(), &[b"short"]).expect("no faults");
    let Err(Fault::Damaged(damage)) = get(&trees, 7) else { panic!("a short record was taken for a lease") };
    assert_eq!(damage.tree, LEASE.0);
    trees.put(LEASE, &7_i64.to_be_bytes(), &[&[0; 24]]).expect("no faults");
    assert!(matches!(get(&trees, 7), Err(Fault::Damaged(_))));
}

/// The bytes of the record and of the deadline's key are part of the file format.
#[test]
fn golden_bytes() {
    let record = LeaseRecord { ttl_s: 2, deadline: LeaseTime(0x0102), renewal: 3 };
    assert_eq!(record.to_bytes(), [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
    let key = deadline_key(DeadlineEntry { deadline: LeaseTime(5), id: -2 });
    assert_eq!(key, [0, 0, 0, 0, 0, 0, 0, 5, 255, 255, 255, 255, 255, 255, 255, 254]);
}
