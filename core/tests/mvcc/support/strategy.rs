//! Random requests over few keys, so that they meet.

use proptest::prelude::*;
use ringstone_core::command::{Compare, DeleteRange, Op, Operand, Put, Range, Txn};

#[derive(Clone, Debug)]
pub enum Action {
    Put(Put),
    Delete(DeleteRange),
    Txn(Txn),
    /// So many hundredths of the way from the last compaction to now.
    Compact(i64),
    CompactAt(i64),
    /// Records of one slice of the first store.
    Sweep(usize),
    /// The second store sweeps to its end.
    SweepOther,
    Grant(i64),
    Revoke(i64),
    /// The state goes through its attributes, as in a restart.
    Restart,
}

impl Action {
    pub fn put(key: &[u8], length: usize) -> Action {
        Action::Put(Put { key: key.to_vec(), value: vec![b'v'; length], ..Put::default() })
    }

    pub fn delete(key: &[u8], range_end: &[u8]) -> Action {
        Action::Delete(DeleteRange { key: key.to_vec(), range_end: range_end.to_vec(), prev_kv: true })
    }

    pub fn delete_all_then_put(key: &[u8]) -> Action {
        let delete = DeleteRange { key: b"\0".to_vec(), range_end: b"\0".to_vec(), prev_kv: false };
        let put = Put { key: key.to_vec(), value: b"again".to_vec(), ..Put::default() };
        Action::Txn(Txn { success: vec![Op::DeleteRange(delete), Op::Put(put)], ..Txn::default() })
    }
}

pub fn actions(most: usize) -> impl Strategy<Value = Vec<Action>> {
    proptest::collection::vec(action(), 1..most)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        10 => put().prop_map(Action::Put),
        3 => delete().prop_map(Action::Delete),
        6 => txn(2).prop_map(Action::Txn),
        2 => (0..101i64).prop_map(Action::Compact),
        1 => (-1..40i64).prop_map(Action::CompactAt),
        6 => (1..6usize).prop_map(Action::Sweep),
        1 => Just(Action::SweepOther),
        2 => lease().prop_map(Action::Grant),
        1 => lease().prop_map(Action::Revoke),
        1 => Just(Action::Restart),
    ]
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![&b"a"[..], b"ab", b"b", b"c", b"\0", b"\xff"]).prop_map(<[u8]>::to_vec)
}

fn range_end() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => Just(vec![]), 2 => Just(vec![0]), 3 => key()]
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![Just(7i64), Just(-9)]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![6 => 0..5usize, 1 => Just(1024usize), 2 => 1025..1100usize];
    (length, any::<u8>()).prop_map(|(length, byte)| vec![byte; length])
}

fn put() -> impl Strategy<Value = Put> {
    let flags = (any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let lease = prop_oneof![3 => Just(0i64), 1 => lease()];
    (key(), value(), lease, flags).prop_map(|(key, value, lease, (prev_kv, ignore_value, ignore_lease))| Put {
        key,
        value: if ignore_value { vec![] } else { value },
        lease: if ignore_lease { 0 } else { lease },
        prev_kv,
        ignore_value,
        ignore_lease,
    })
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRange { key, range_end, prev_kv })
}

/// Revisions are small numbers, so that most of them exist.
pub fn range() -> impl Strategy<Value = Range> {
    let revision = prop_oneof![3 => Just(0i64), 1 => -1..30i64];
    let bound = || prop_oneof![5 => Just(0i64), 1 => 1..30i64];
    let options = (0..5i64, 0..3i32, 0..5i32, prop::bool::weighted(0.3), prop::bool::weighted(0.2));
    (key(), range_end(), revision, options, (bound(), bound(), bound(), bound())).prop_map(
        |(key, range_end, revision, (limit, sort_order, sort_target, keys_only, count_only), bounds)| Range {
            key,
            range_end,
            limit,
            revision,
            sort_order,
            sort_target,
            serializable: false,
            keys_only,
            count_only,
            min_mod_revision: bounds.0,
            max_mod_revision: bounds.1,
            min_create_revision: bounds.2,
            max_create_revision: bounds.3,
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let operand = prop_oneof![
        (0..3i64).prop_map(Operand::Version),
        (0..20i64).prop_map(Operand::Create),
        (0..20i64).prop_map(Operand::Mod),
        value().prop_map(Operand::Value),
        lease().prop_map(Operand::Lease),
        Just(Operand::Unknown(9)),
    ];
    (0..5i32, key(), range_end(), operand).prop_map(|(result, key, range_end, operand)| Compare {
        result,
        key,
        range_end,
        operand,
    })
}

/// Also such as the check of overlaps would refuse: apply must not depend on it.
fn txn(depth: u32) -> impl Strategy<Value = Txn> {
    let leaf = prop_oneof![
        3 => put().prop_map(Op::Put),
        2 => delete().prop_map(Op::DeleteRange),
        2 => range().prop_map(Op::Range),
    ]
    .boxed();
    let ops = if depth == 0 { leaf } else { prop_oneof![4 => leaf, 1 => txn(depth - 1).prop_map(Op::Txn)].boxed() };
    let branch = || proptest::collection::vec(ops.clone(), 0..4);
    (proptest::collection::vec(compare(), 0..2), branch(), branch())
        .prop_map(|(compare, success, failure)| Txn { compare, success, failure })
        .boxed()
}
