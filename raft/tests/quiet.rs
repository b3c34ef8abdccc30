//! What a group costs that has nothing to do: many of them live in one process.

use ringstone_raft::{Body, Config, Configuration, Index, Message, NodeId, Raft, SnapshotMetadata, Stable, Term};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Instant;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is the system allocator's own, with the same arguments; the counter is a plain cell of this thread,
// made without allocating and without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, and so from the system's, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn follower() -> Raft {
    let configuration = Configuration::new([1, 2, 3].map(NodeId), []).expect("valid");
    let snapshot = SnapshotMetadata { configuration, ..Default::default() };
    let mut raft = Raft::new(Config::new(NodeId(1), 1), Stable { snapshot, ..Default::default() }).expect("valid");
    hear(&mut raft);
    raft
}

fn hear(raft: &mut Raft) {
    let heartbeat = Message { term: Term(1), body: Body::Heartbeat { committed: Index(0), round: 0 } };
    raft.step(NodeId(2), heartbeat).expect("a correct message");
    let actions = raft.take_actions();
    if let Some(persist) = actions.persist {
        let _ = raft.persisted(persist.token);
    }
}

#[test]
fn a_quiet_tick_allocates_nothing_and_asks_for_nothing() {
    let mut groups: Vec<Raft> = (0..10_000).map(|_| follower()).collect();
    let start = Instant::now();
    let before = ALLOCATIONS.with(Cell::get);
    for random in 0..9 {
        for raft in &mut groups {
            raft.tick(random);
            assert!(raft.take_actions().is_empty());
        }
    }
    let allocations = ALLOCATIONS.with(Cell::get) - before;
    println!("{} ns a quiet tick", start.elapsed().as_nanos() / 90_000);
    assert_eq!(allocations, 0);
    // It counts at all.
    hear(&mut groups[0]);
    assert!(ALLOCATIONS.with(Cell::get) > before);
}
