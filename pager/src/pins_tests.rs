//! Pins on one thread; the races are in `pins_loom.rs`.

use std::cell::Cell;

use super::*;

#[test]
fn a_pin_holds_its_generation_and_only_what_that_sees() {
    let pins = Pins::new();
    let pinner = Pinner::new(pins.register());
    let (pin, place) = pinner.pin(|| (7, "root"));
    assert_eq!((pin.generation(), place), (7, "root"));
    let held = pins.scan(20);
    assert!(held.holds(3, 8) && held.holds(7, 8));
    assert!(!held.holds(8, 12), "born after the pin");
    assert!(!held.holds(3, 7), "freed before the pin");
    assert!(held.holds(3, 21) && held.holds(19, 21), "the published state still reaches it");
    assert!(!held.holds(19, 20));
    assert!(held.contains(7) && held.contains(20) && held.contains(99) && !held.contains(8));
    assert_eq!((held.oldest(), held.floor(), pinner.oldest()), (7, 20, Some(7)));
    drop(pin);
    assert_eq!(pins.scan(20), Held::only(20));
}

#[test]
fn a_pin_is_tried_again_until_the_root_stands_still() {
    let pins = Pins::new();
    let pinner = Pinner::new(pins.register());
    let asked = Cell::new(0);
    let answers = [1, 2, 3, 3];
    let (pin, place) = pinner.pin(|| {
        let generation = answers[asked.get()];
        asked.set(asked.get() + 1);
        (generation, generation * 10)
    });
    assert_eq!((pin.generation(), place, asked.get()), (3, 30, 4));
    assert_eq!(pins.scan(9).oldest(), 3, "the abandoned tries hold nothing");
}

#[test]
fn more_generations_than_words_are_held_by_the_floor() {
    let pins = Pins::new();
    let pinner = Pinner::new(pins.register());
    let pin_of = |generation: u64| pinner.pin(|| (generation, ())).0;
    let mut in_words: Vec<Pin> = (0..WORDS as u64).map(|index| pin_of(10 + index)).collect();
    let first_floored = pin_of(50);
    let shared = pin_of(50);
    let later = pin_of(60);
    let held = pins.scan(100);
    assert_eq!((held.floor(), held.oldest()), (50, 10));
    assert!(held.holds(55, 56) && !held.holds(30, 40));
    drop(in_words.remove(0));
    let again = pin_of(50);
    drop((first_floored, shared));
    let held = pins.scan(100);
    assert_eq!((held.floor(), held.contains(50), held.contains(10)), (60, true, false));
    drop((later, again));
    assert_eq!(pins.scan(100).floor(), 100);
    in_words.clear();
    assert_eq!(pins.scan(100), Held::only(100));
}

#[test]
fn a_slot_is_used_again_and_an_empty_slot_holds_nothing() {
    let pins = Pins::new();
    let pinner = Pinner::new(pins.register());
    let pin = pinner.pin(|| (1, ())).0;
    drop(pinner);
    assert!(pins.scan(5).contains(1), "the pin lives on without its pinner");
    drop(pin);
    let _again = pins.register();
    assert_eq!(pins.lock().len(), 1);
    let _second = pins.register();
    assert_eq!(pins.lock().len(), 2);
    assert_eq!(pins.scan(5), Held::only(5));
}

#[test]
fn other_holders_are_added_to_a_scan() {
    let mut held = Held::only(10);
    held.insert(4);
    held.insert(4);
    held.insert(12);
    assert_eq!((held.oldest(), held.floor(), held.holder(2, 9), held.holder(2, 4)), (4, 10, Some(4), None));
    assert_eq!(held.holder(9, 9), None, "it never was part of any state");
}
