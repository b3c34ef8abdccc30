//! The store against a sequential model of etcd that keeps all events in a list and answers everything by replaying it.
//!
//! One history of puts, deletes, nested transactions, leases, compactions and sweep slices goes to the model, to two
//! stores that sweep at different times, and to one on the pager. Compared: each answer and each event; ranges with all options at all revisions;
//! histories; counts; hashes; in the end every byte of the trees. Two run on trees whose pages come and go, so that
//! every operation meets absent pages.
//!
//! Not checked here: checkpoints of the real pager, concurrency, the log, time.

use super::support::driver::{Pair, check_reads};
use super::support::strategy::{Action, actions};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_is_that_of_the_model(actions in actions(60)) {
        let mut pair = Pair::new();
        for (step, action) in actions.iter().enumerate() {
            pair.run(action);
            if step % 13 == 0 {
                check_reads(&pair);
            }
        }
        check_reads(&pair);
        pair.finish();
    }

    #[test]
    fn long_chains_of_one_key_are_walked_right(
        writes in 1..200usize, compact_at in 0..200usize, large in any::<bool>(),
    ) {
        let mut pair = Pair::new();
        for write in 0..writes {
            pair.run(&Action::put(b"k", if large && write % 3 == 0 { 2000 } else { 3 }));
            if write == compact_at {
                pair.run(&Action::Compact(50));
                pair.run(&Action::Sweep(3));
            }
            if write % 50 == 49 {
                pair.run(&Action::delete(b"k", b""));
            }
        }
        check_reads(&pair);
        pair.finish();
    }
}

/// etcd 3.7.3 ends with a fatal error here, and the value is gone though the key lives (etcd-surface 11.8).
#[test]
fn a_key_deleted_and_put_in_one_transaction_survives_a_compaction_there() {
    let mut pair = Pair::new();
    pair.run(&Action::put(b"k", 3));
    pair.run(&Action::delete_all_then_put(b"k"));
    let revision = pair.revision();
    pair.run(&Action::CompactAt(revision));
    check_reads(&pair);
    pair.run(&Action::put(b"other", 1));
    check_reads(&pair);
    pair.finish();
}

#[test]
fn a_tombstone_at_the_compacted_revision_is_still_seen() {
    let mut pair = Pair::new();
    pair.run(&Action::put(b"k", 2000));
    pair.run(&Action::delete(b"k", b""));
    let revision = pair.revision();
    pair.run(&Action::CompactAt(revision));
    pair.finish_sweeps();
    check_reads(&pair);
    pair.run(&Action::put(b"k", 1));
    check_reads(&pair);
    pair.finish();
}

#[test]
fn compact_of_zero_works_once_on_a_fresh_store() {
    let mut pair = Pair::new();
    pair.run(&Action::CompactAt(0));
    pair.run(&Action::CompactAt(0));
    pair.run(&Action::CompactAt(-1));
    pair.run(&Action::CompactAt(1));
    pair.run(&Action::CompactAt(2));
    pair.finish();
}
