//! Writer and readers together, without a file: readers pinned at old roots see what was published then.

use core::ops::Bound;
use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use crate::api::{Direction, KeyRange, ReadTrees, WriteTrees};
use crate::checkpoint::Checkpoints;
use crate::disk::SimDisk;
use crate::freelist::Freelist;
use crate::layout::FileId;
use crate::model::ModelTrees;
use crate::pager::Pager;
use crate::root::State;
use crate::shared::Shared;
use crate::tree_tests::{Action, SPECS, TREE, actions, bound, entries, key_of, value_of};

const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

fn pager() -> Pager {
    let mut state = State::empty();
    state.generation = 1;
    let file = FileId::default();
    let checkpoints = Checkpoints::new(Freelist::create(file), 0, 0, 0);
    Pager::assemble(file, Arc::new(Shared::new(Arc::new(SimDisk::new()), 0, SPECS)), state, checkpoints)
}

/// Does the same to both.
pub(crate) fn act(trees: &mut dyn WriteTrees, action: &Action) {
    let done = match action {
        Action::Put(key, bytes, fill) => trees.put(TREE, &key_of(*key), &[&value_of(*bytes, *fill)]),
        Action::Delete(key) => trees.delete(TREE, &key_of(*key)).map(|_| ()),
        Action::DeleteFront(low, high, most) => {
            let (low, high) = (low.map(key_of), high.map(key_of));
            let range = (bound(low.as_deref(), true), bound(high.as_deref(), false));
            while !trees.delete_front(TREE, range, *most).expect("all is in memory") {}
            Ok(())
        }
        Action::Publish => Ok(()),
    };
    done.expect("all is in memory");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]
    #[test]
    fn pinned_readers_see_the_state_of_their_pin(history in actions(400)) {
        let (mut pager, mut model) = (pager(), ModelTrees::new(SPECS));
        let readers: Vec<_> = (0..3).map(|_| pager.reader()).collect();
        let mut pins = VecDeque::new();
        for (number, action) in history.iter().enumerate() {
            act(&mut pager, action);
            act(&mut model, action);
            if number % 5 == 0 {
                let attributes = number.to_le_bytes();
                pager.set_attributes(&attributes);
                model.set_attributes(&attributes);
                pager.publish();
                pins.push_back((readers[number % 3].pin(), model.clone()));
            }
            if pins.len() > 6 {
                let (pin, then) = pins.remove(number % pins.len()).expect("there are that many");
                prop_assert_eq!(entries(&pin, ALL, Direction::Forward), entries(&then, ALL, Direction::Forward));
                prop_assert_eq!(pin.aggregate(TREE, ALL), then.aggregate(TREE, ALL));
                prop_assert_eq!(pin.attributes(), then.attributes());
            }
        }
        for (pin, then) in &pins {
            prop_assert_eq!(entries(pin, ALL, Direction::Backward), entries(then, ALL, Direction::Backward));
        }
        pins.clear();
        pager.publish();
        prop_assert_eq!(pager.limbo.pages(), 0);
        pager.set_attributes(&[]);
        pager.publish();
        prop_assert_eq!(pager.frame_bytes(), pager.dirty_bytes(), "without pins, only the state itself has frames");
    }
}

#[test]
fn readers_on_other_threads_see_whole_states() {
    // Each state has the same number in every entry and in the attributes.
    let mut pager = pager();
    let stop = Arc::new(AtomicBool::new(false));
    let write = |pager: &mut Pager, round: u64| {
        for key in 0..300_u64 {
            pager.put(TREE, &key.to_be_bytes(), &[&round.to_le_bytes(), &[7; 90]]).expect("in frames");
        }
        pager.set_attributes(&round.to_le_bytes());
        pager.publish();
    };
    write(&mut pager, 0);
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (reader, stop) = (pager.reader(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut seen = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let pin = reader.pin();
                    let round = u64::from_le_bytes(pin.attributes().try_into().expect("eight bytes"));
                    assert!(round >= seen, "states don't go back");
                    seen = round;
                    let entries = entries(&pin, ALL, Direction::Forward);
                    assert_eq!(entries.len(), 300);
                    assert!(entries.iter().all(|(_, value)| value[..8] == round.to_le_bytes()), "one state");
                }
                seen
            })
        })
        .collect();
    for round in 1..400 {
        write(&mut pager, round);
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("no reader saw a torn state");
    }
}

/// Shards are threads: the writer moves to its own once, each reader to its own.
#[test]
fn writer_and_readers_can_move_to_their_threads() {
    fn is_send<T: Send>() {}
    is_send::<Pager>();
    is_send::<crate::reader::Reader>();
}

/// Whoever looks a key up twice goes its way once: never an old one.
#[test]
fn a_key_that_is_looked_up_again_is_read_as_it_is_now() {
    let mut pager = pager();
    for number in 0..200 {
        act(&mut pager, &Action::Put(number, 100, 1));
    }
    pager.publish();
    let other = |pager: &mut Pager, round: usize| match round % 4 {
        0 => act(pager, &Action::Put(7, 50 + round, 2)),
        1 => act(pager, &Action::Put(8, 3000, 3)),
        2 => act(pager, &Action::Delete(7)),
        _ => drop(pager.publish()),
    };
    let key = key_of(7);
    let mut expected = Some(value_of(100, 1));
    for round in 0..40 {
        for _ in 0..2 {
            assert_eq!(pager.get(TREE, &key).expect("in memory"), expected.as_deref(), "round {round}");
            assert_eq!(pager.get(TREE, &key_of(100)).expect("in memory"), Some(&value_of(100, 1)[..]));
            assert_eq!(pager.get(TREE, &key).expect("in memory"), expected.as_deref(), "round {round}");
        }
        assert_eq!(pager.get(TREE, &key).expect("in memory"), expected.as_deref(), "round {round}");
        other(&mut pager, round);
        match round % 4 {
            0 => expected = Some(value_of(50 + round, 2)),
            2 => expected = None,
            _ => {}
        }
    }
}
