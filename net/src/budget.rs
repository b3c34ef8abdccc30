use bytes::{Buf, Bytes};
use std::cell::Cell;
use std::rc::Rc;

/// What one connection holds in memory for its client: bytes of answers that the client has not read, and of requests
/// that are not complete.
#[derive(Default)]
pub(crate) struct Budget {
    outgoing_bytes: Cell<usize>,
    incoming_bytes: Cell<usize>,
}

impl Budget {
    pub(crate) fn outgoing_bytes(&self) -> usize {
        self.outgoing_bytes.get()
    }

    pub(crate) fn incoming_bytes(&self) -> usize {
        self.incoming_bytes.get()
    }
}

/// Bytes on their way to the client, counted from here until h2 has written and dropped them.
pub(crate) struct Outgoing {
    bytes: Bytes,
    counted: usize,
    budget: Rc<Budget>,
}

impl Outgoing {
    pub(crate) fn new(bytes: Bytes, budget: &Rc<Budget>) -> Self {
        let counted = bytes.len();
        budget.outgoing_bytes.set(budget.outgoing_bytes.get() + counted);
        Outgoing { bytes, counted, budget: budget.clone() }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the first `at` bytes out, without copying.
    pub(crate) fn split_to(&mut self, at: usize) -> Outgoing {
        let bytes = self.bytes.split_to(at);
        self.counted -= at;
        Outgoing { bytes, counted: at, budget: self.budget.clone() }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.budget.outgoing_bytes.set(self.budget.outgoing_bytes.get() - self.counted);
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// A part of the incoming count, given back when it is dropped.
pub(crate) struct IncomingShare {
    counted: usize,
    budget: Rc<Budget>,
}

impl IncomingShare {
    pub(crate) fn new(budget: &Rc<Budget>) -> Self {
        IncomingShare { counted: 0, budget: budget.clone() }
    }

    pub(crate) fn set(&mut self, bytes: usize) {
        let total = self.budget.incoming_bytes.get() - self.counted + bytes;
        self.budget.incoming_bytes.set(total);
        self.counted = bytes;
    }
}

impl Drop for IncomingShare {
    fn drop(&mut self) {
        self.set(0);
    }
}
