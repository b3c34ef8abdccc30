use crate::memory::{Budget, Charge, Kind, PIECE_BYTES};
use bytes::{Buf, Bytes};
use std::rc::Rc;

/// Bytes on their way to the client, counted from here until h2 has written and dropped them.
pub(crate) struct Outgoing {
    bytes: Bytes,
    charge: Charge,
}

impl Outgoing {
    pub(crate) fn new(bytes: Bytes, budget: &Rc<Budget>) -> Self {
        let charge = Charge::new(budget, Kind::Outgoing, bytes.len() + PIECE_BYTES);
        Outgoing { bytes, charge }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the first `at` bytes out, without copying.
    pub(crate) fn split_to(&mut self, at: usize) -> Outgoing {
        Outgoing { bytes: self.bytes.split_to(at), charge: self.charge.split(at) }
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
