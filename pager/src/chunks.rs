//! A queue that grows without moving what it holds, and is joined to another one without copying: a hundred thousand
//! entries would be a millisecond of both.

use std::collections::VecDeque;

/// Entries of a chunk.
const CHUNK: usize = 512;

/// First in, first out. No chunk of it is empty.
pub(crate) struct Chunks<T> {
    chunks: VecDeque<VecDeque<T>>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Chunks<T> {
        Chunks { chunks: VecDeque::new() }
    }
}

impl<T> Chunks<T> {
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub fn push(&mut self, entry: T) {
        if self.chunks.back().is_none_or(|last| last.len() >= CHUNK) {
            self.chunks.push_back(VecDeque::with_capacity(CHUNK));
        }
        self.chunks.back_mut().expect("just looked at").push_back(entry);
    }

    pub fn front(&self) -> Option<&T> {
        self.chunks.front()?.front()
    }

    pub fn back(&self) -> Option<&T> {
        self.chunks.back()?.back()
    }

    pub fn pop(&mut self) -> Option<T> {
        let first = self.chunks.front_mut()?;
        let entry = first.pop_front();
        if first.is_empty() {
            self.chunks.pop_front();
        }
        entry
    }

    /// Takes all entries of another one over, behind its own.
    pub fn append(&mut self, other: &mut Chunks<T>) {
        self.chunks.append(&mut other.chunks);
    }

    /// Looks at all of them.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&T) -> bool) {
        self.chunks.iter_mut().for_each(|chunk| chunk.retain(&mut is_kept));
        self.chunks.retain(|chunk| !chunk.is_empty());
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_comes_out_in_order_across_chunks_and_joins() {
        let (mut all, mut more) = (Chunks::default(), Chunks::default());
        (0..3).for_each(|entry| all.push(entry));
        (3..1500).for_each(|entry| more.push(entry));
        all.append(&mut more);
        all.push(1500);
        assert!(more.is_empty() && more.pop().is_none());
        assert_eq!((all.front(), all.back()), (Some(&0), Some(&1500)));
        assert!(all.iter().copied().eq(0..=1500));
        all.retain(|entry| *entry < 3 || *entry >= 700);
        assert!((0..3).chain(700..=1500).all(|entry| all.pop() == Some(entry)));
        assert!(all.is_empty() && all.front().is_none() && all.back().is_none());
    }
}
