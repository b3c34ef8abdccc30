//! How much may connections hold for their clients, all of them together, and who gives way when it is too much?
//!
//! Too little, and honest load is refused; too much, and the process outgrows its limit. A bound for each connection can't
//! answer it: ten thousand of them are allowed. So all that a client can make the server keep (sockets, open calls, requests
//! that are not complete, answers that are not read) is charged to its connection, and the charges of all connections to
//! one [`Memory`]. What a charge stands for is measured with the allocator's overhead, not exact.
//!
//! ```text
//! held of Memory   up to 3/4: everything goes
//!                  up to 7/8: calls of connections that hold more than their share are refused
//!                  up to 4/4: and so are new connections
//!                  above:     connections that hold the most are ended, until 3/4 are held
//!                  5/4:       no large answer is begun
//! ```
//!
//! Shards count by themselves and tell the process's counter in steps: no cache line is fought over for a call.

use crate::status::{Code, Status};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Waker;

/// Bytes by which a shard's count may differ from what it has told the process's.
const STEP_BYTES: usize = 256 << 10;
/// What every connection may hold, however little there is.
const SHARE_BYTES_MIN: usize = 128 << 10;

/// A socket that is served, with the futures that serve it.
pub(crate) const SOCKET_BYTES: usize = 8 << 10;
/// An HTTP/2 connection with its buffers and header tables.
pub(crate) const HTTP2_BYTES: usize = 28 << 10;
/// An open call with its stream in h2.
pub(crate) const CALL_BYTES: usize = 3 << 10;
/// A call that has ended while its last frames wait for the socket.
pub(crate) const ENDED_CALL_BYTES: usize = 1 << 10;
/// Beside the bytes of a piece of an answer.
pub(crate) const PIECE_BYTES: usize = 512;

/// What all connections of a process may hold.
#[derive(Debug)]
pub struct Memory {
    held_bytes: AtomicUsize,
    bytes_max: usize,
    shards: usize,
}

impl Memory {
    /// For a process of so many shards.
    #[must_use]
    pub fn new(bytes_max: usize, shards: usize) -> Arc<Memory> {
        Arc::new(Memory { held_bytes: AtomicUsize::new(0), bytes_max, shards: shards.max(1) })
    }

    /// Bytes that are charged now, up to 256 KiB a shard more or less.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.load(Relaxed)
    }

    /// The most that may be held, in bytes.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }
}

/// One shard's part of [`Memory`].
#[derive(Debug)]
pub struct ShardMemory {
    process: Arc<Memory>,
    held_bytes: Cell<usize>,
    /// Of it: for what handlers build, which belongs to no connection yet.
    claimed_bytes: Cell<usize>,
    told_bytes: Cell<usize>,
    connections: RefCell<BTreeMap<u64, Weak<Budget>>>,
    next_connection: Cell<u64>,
    /// What was held when it was last looked who has to go.
    looked_at_bytes: Cell<usize>,
}

impl ShardMemory {
    /// A shard that holds nothing yet.
    #[must_use]
    pub fn new(process: Arc<Memory>) -> Rc<ShardMemory> {
        Rc::new(ShardMemory {
            process,
            held_bytes: Cell::new(0),
            claimed_bytes: Cell::new(0),
            told_bytes: Cell::new(0),
            connections: RefCell::default(),
            next_connection: Cell::new(0),
            looked_at_bytes: Cell::new(0),
        })
    }

    /// Without a bound.
    pub(crate) fn unbounded() -> Rc<ShardMemory> {
        Self::new(Memory::new(usize::MAX / 8, 1))
    }

    /// The process's part.
    #[must_use]
    pub fn process(&self) -> &Memory {
        &self.process
    }

    /// For what a handler builds before it is an answer.
    #[must_use]
    pub fn claim(self: &Rc<Self>) -> Claim {
        Claim { memory: self.clone(), bytes: 0 }
    }

    /// Bytes that are charged to this shard's connections now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.get()
    }

    fn total_bytes(&self) -> usize {
        let told = self.told_bytes.get();
        (self.process.held_bytes.load(Relaxed) + self.held_bytes.get()).saturating_sub(told)
    }

    fn change(&self, from: usize, to: usize) {
        let held = self.held_bytes.get() - from + to;
        self.held_bytes.set(held);
        let told = self.told_bytes.get();
        if held.abs_diff(told) > STEP_BYTES {
            match held > told {
                true => self.process.held_bytes.fetch_add(held - told, Relaxed),
                false => self.process.held_bytes.fetch_sub(told - held, Relaxed),
            };
            self.told_bytes.set(held);
        }
    }

    /// False while there is no room for one connection more.
    pub(crate) fn admits_connection(&self) -> bool {
        self.total_bytes() + SOCKET_BYTES + HTTP2_BYTES <= self.process.bytes_max / 8 * 7
    }

    /// Ends connections if too much is held: those of this shard that hold the most.
    pub(crate) fn relieve(&self) {
        let (total, bytes_max) = (self.total_bytes(), self.process.bytes_max);
        if total <= bytes_max {
            self.looked_at_bytes.set(0);
            return;
        }
        // Those that were told to go take a moment for it, and another shard may hold what is too much.
        if total < self.looked_at_bytes.get() + STEP_BYTES
            || self.held_bytes.get().saturating_mul(2 * self.process.shards) < bytes_max
        {
            return;
        }
        self.looked_at_bytes.set(total);
        // Down to where there is room for newcomers again.
        let mut excess = total - bytes_max / 4 * 3;
        let mut holders = Vec::new();
        // Modest ones go only if they are too many by themselves, and more of them are not let in then.
        let of_connections = self.held_bytes.get() - self.claimed_bytes.get();
        let modest_bytes = if of_connections > bytes_max / 8 * 9 { 0 } else { SHARE_BYTES_MIN };
        for budget in self.connections.borrow().values().filter_map(Weak::upgrade) {
            match budget.is_condemned() {
                true => excess = excess.saturating_sub(budget.held_bytes()),
                false if budget.held_bytes() > modest_bytes => holders.push((budget.held_bytes(), budget)),
                false => {}
            }
        }
        holders.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
        for (held, budget) in holders {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(held);
            budget.condemn();
        }
    }

    pub(crate) fn connect(self: &Rc<Self>) -> Rc<Budget> {
        let number = self.next_connection.get();
        self.next_connection.set(number + 1);
        let budget = Rc::new(Budget {
            memory: self.clone(),
            number,
            held_bytes: Cell::new(0),
            outgoing_bytes: Cell::new(0),
            incoming_bytes: Cell::new(0),
            condemned: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.connections.borrow_mut().insert(number, Rc::downgrade(&budget));
        budget
    }
}

impl Drop for ShardMemory {
    fn drop(&mut self) {
        self.process.held_bytes.fetch_sub(self.told_bytes.get(), Relaxed);
    }
}

/// Memory that a handler uses for an answer that it has not given yet. Given back when it is dropped.
#[derive(Debug)]
pub struct Claim {
    memory: Rc<ShardMemory>,
    bytes: usize,
}

impl Claim {
    /// Takes so many bytes more. Connections that hold much end for it; beyond that the claim is refused.
    ///
    /// # Errors
    /// `ResourceExhausted`.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Status> {
        self.memory.change(0, bytes);
        self.memory.claimed_bytes.set(self.memory.claimed_bytes.get() + bytes);
        self.bytes += bytes;
        self.memory.relieve();
        let bytes_max = self.memory.process.bytes_max;
        if self.memory.total_bytes() > bytes_max + bytes_max / 4 {
            let text = format!("grpc: all answers together hold more than {bytes_max} bytes");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.memory.change(self.bytes, 0);
        self.memory.claimed_bytes.set(self.memory.claimed_bytes.get() - self.bytes);
    }
}

/// What one connection holds in memory for its client.
#[derive(Debug)]
pub(crate) struct Budget {
    memory: Rc<ShardMemory>,
    number: u64,
    /// All that is charged.
    held_bytes: Cell<usize>,
    /// Of it: answers that the client has not read.
    outgoing_bytes: Cell<usize>,
    /// Of it: requests that are not complete, or that no handler has taken.
    incoming_bytes: Cell<usize>,
    condemned: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Budget {
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes.get()
    }

    pub(crate) fn outgoing_bytes(&self) -> usize {
        self.outgoing_bytes.get()
    }

    pub(crate) fn incoming_bytes(&self) -> usize {
        self.incoming_bytes.get()
    }

    pub(crate) fn memory(&self) -> &ShardMemory {
        &self.memory
    }

    /// True if the connection has to end for what it holds.
    pub(crate) fn is_condemned(&self) -> bool {
        self.condemned.get()
    }

    fn condemn(&self) {
        self.condemned.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Has `waker` woken when the connection is condemned.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut registered = self.waker.borrow_mut();
        if registered.as_ref().is_none_or(|registered| !registered.will_wake(waker)) {
            *registered = Some(waker.clone());
        }
    }

    /// False if the connection holds more than its share while there is little left: what it asks for is refused.
    pub(crate) fn admits_call(&self) -> bool {
        let (held, bytes_max) = (self.held_bytes.get(), self.memory.process.bytes_max);
        if held <= SHARE_BYTES_MIN {
            return true;
        }
        if held > bytes_max / 2 || self.condemned.get() {
            return false;
        }
        let share = bytes_max / 4 / (self.memory.connections.borrow().len() * self.memory.process.shards).max(1);
        held <= share || self.memory.total_bytes() <= bytes_max / 4 * 3
    }

    fn change(&self, kind: Kind, from: usize, to: usize) {
        let part = match kind {
            Kind::Incoming => Some(&self.incoming_bytes),
            Kind::Outgoing => Some(&self.outgoing_bytes),
            Kind::Other => None,
        };
        if let Some(part) = part {
            part.set(part.get() - from + to);
        }
        self.held_bytes.set(self.held_bytes.get() - from + to);
        self.memory.change(from, to);
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.memory.connections.borrow_mut().remove(&self.number);
    }
}

/// What a charge is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Incoming,
    Outgoing,
    Other,
}

/// A charge to a connection, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Rc<Budget>,
    kind: Kind,
    bytes: usize,
}

impl Charge {
    pub(crate) fn new(budget: &Rc<Budget>, kind: Kind, bytes: usize) -> Charge {
        budget.change(kind, 0, bytes);
        Charge { budget: budget.clone(), kind, bytes }
    }

    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.budget.change(self.kind, self.bytes, bytes);
            self.bytes = bytes;
        }
    }

    /// Takes a part out, to be given back by itself.
    pub(crate) fn split(&mut self, bytes: usize) -> Charge {
        self.bytes -= bytes;
        Charge { budget: self.budget.clone(), kind: self.kind, bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.change(self.kind, self.bytes, 0);
    }
}

/// What a handler holds for a call beside its messages, charged to the call's connection. Given back when it is dropped.
#[derive(Debug)]
pub struct Held(Charge);

impl Held {
    pub(crate) fn new(budget: &Rc<Budget>) -> Held {
        Held(Charge::new(budget, Kind::Other, 0))
    }

    /// It is so many bytes now.
    pub fn set(&mut self, bytes: usize) {
        self.0.set(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn those_that_hold_the_most_go_first_and_no_more_than_needed() {
        let memory = ShardMemory::new(Memory::new(16 * MIB, 1));
        let small: Vec<_> = (0..10).map(|_| memory.connect()).collect();
        let _small: Vec<_> = small.iter().map(|budget| Charge::new(budget, Kind::Outgoing, MIB / 8)).collect();
        let large: Vec<_> = (0..5).map(|_| memory.connect()).collect();
        let mut charges: Vec<_> = large.iter().map(|budget| Charge::new(budget, Kind::Outgoing, 2 * MIB)).collect();
        memory.relieve();
        assert!(large.iter().all(|budget| !budget.is_condemned()), "11.25 of 16 MiB");
        charges[3].set(7 * MIB);
        memory.relieve();
        let condemned: Vec<_> = large.iter().map(|budget| budget.is_condemned()).collect();
        assert_eq!(condemned, [false, false, false, true, false]);
        assert!(small.iter().all(|budget| !budget.is_condemned()));
        // It is still there, and will go: nobody else has to.
        charges[0].set(2 * MIB + MIB / 2);
        memory.relieve();
        assert_eq!(large.iter().filter(|budget| budget.is_condemned()).count(), 1);
        drop(charges);
        drop(_small);
        assert_eq!((memory.total_bytes(), small[0].held_bytes()), (0, 0));
    }

    #[test]
    fn a_shard_that_holds_little_gives_nothing_up_for_another() {
        let process = Memory::new(16 * MIB, 2);
        let (modest, greedy) = (ShardMemory::new(process.clone()), ShardMemory::new(process.clone()));
        let (here, there) = (modest.connect(), greedy.connect());
        let _here = Charge::new(&here, Kind::Incoming, MIB);
        let held = Charge::new(&there, Kind::Incoming, 20 * MIB);
        modest.relieve();
        greedy.relieve();
        assert_eq!((here.is_condemned(), there.is_condemned()), (false, true));
        drop(held);
        assert!(process.held_bytes() <= MIB);
    }

    #[test]
    fn under_pressure_calls_of_large_holders_are_refused() {
        let memory = ShardMemory::new(Memory::new(16 * MIB, 1));
        let (modest, greedy) = (memory.connect(), memory.connect());
        let mut held = Charge::new(&greedy, Kind::Other, 7 * MIB);
        let rest = memory.connect();
        assert!(greedy.admits_call());
        let _rest = Charge::new(&rest, Kind::Other, 6 * MIB);
        assert_eq!((modest.admits_call(), greedy.admits_call()), (true, false));
        drop(_rest);
        held.set(9 * MIB);
        assert!(!greedy.admits_call(), "more than a half, whatever is left");
    }

    #[test]
    fn modest_connections_do_not_go_for_what_handlers_build() {
        let memory = ShardMemory::new(Memory::new(4 * MIB, 1));
        let modest = memory.connect();
        let _held = Charge::new(&modest, Kind::Other, SHARE_BYTES_MIN / 2);
        let mut claim = memory.claim();
        let _ = claim.grow(8 * MIB);
        memory.relieve();
        assert!(!modest.is_condemned());
    }

    #[test]
    fn claims_are_refused_beyond_the_bound_and_given_back() {
        let memory = ShardMemory::new(Memory::new(4 * MIB, 1));
        let mut claim = memory.claim();
        assert!(claim.grow(5 * MIB).is_ok());
        assert_eq!(claim.grow(MIB).map_err(|status| status.code), Err(Code::ResourceExhausted));
        drop(claim);
        assert_eq!(memory.total_bytes(), 0);
    }
}
