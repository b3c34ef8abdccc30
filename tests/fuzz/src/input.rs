//! Takes values off the front of a fuzzer's input; zeros when it is used up.

/// What is left.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn number<const N: usize>(&mut self) -> u64 {
        let taken = self.bytes(N);
        taken.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    pub fn byte(&mut self) -> u8 {
        self.number::<1>() as u8
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.number::<4>() as usize % bound
    }
}
