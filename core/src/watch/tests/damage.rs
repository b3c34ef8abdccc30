//! A page of the log is damaged: who needs its events is told, everybody else goes on.

use core::ops::ControlFlow;

use ringstone_pager::api::{Access, Damage, Fault};

use super::support::*;
use crate::event::{Event, Revision};
use crate::watch::history::History;
use crate::watch::hub::HubLimits;

/// The store, with one revision that can't be read.
struct Broken<'a>(&'a Store, i64);

impl History for Broken<'_> {
    fn revision(&self) -> i64 {
        self.0.revision()
    }

    fn compacted(&self) -> i64 {
        self.0.compacted()
    }

    fn visit_events(
        &self,
        from: Revision,
        to: i64,
        prev_kv: bool,
        visitor: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Access<()> {
        let is_met = (from.main..=to).contains(&self.1);
        self.0.visit_events(from, if is_met { self.1 - 1 } else { to }, prev_kv, visitor)?;
        let damage = Damage { page: 9, tree: 4, what: "its CRC does not fit its content" };
        if is_met { Err(Fault::Damaged(damage)) } else { Ok(()) }
    }
}

/// The window that met the damage stayed open for ever: all watches of the shard that were behind waited, and were told
/// nothing.
#[test]
fn watches_that_need_a_damaged_page_end_and_others_go_on() {
    let mut shard = Shard::new(HubLimits { recent_bytes: 0, ..HubLimits::default() }, 0);
    let (behind, later, live) = (shard.open(), shard.open(), shard.open());
    for _ in 0..10 {
        shard.put("a");
    }
    shard.create(behind, watch_from("a", 3));
    shard.create(later, watch_from("a", 8));
    shard.create(live, watch("a"));
    let mut ended = 0;
    for _ in 0..100 {
        let streams = [behind, later, live];
        streams.into_iter().for_each(|stream| while shard.write_once(stream, 1000) {});
        if !shard.hub.needs_catch_up() {
            break;
        }
        let broken = Broken(&shard.store, 6);
        if let Err(fault) = shard.hub.catch_up(&broken, 7) {
            shard.hub.give_up_window(&fault.to_string());
            ended += 1;
        }
    }
    assert_eq!(ended, 1);
    shard.put("a");
    let responses = shard.drain(behind);
    let last = responses.last().expect("it was told");
    assert!(last.canceled && last.cancel_reason.contains("page 9 (file offset 36864)"), "{last:?}");
    assert_eq!(keys(&shard.drain(later)).iter().map(|(_, revision)| *revision).collect::<Vec<_>>(), [8, 9, 10, 11, 12]);
    assert_eq!(keys(&shard.drain(live)).iter().map(|(_, revision)| *revision).collect::<Vec<_>>(), [12]);
    assert_eq!(shard.hub.stats().watchers, 2);
}
