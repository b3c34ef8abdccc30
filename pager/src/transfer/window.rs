//! Bytes that come, until there are enough of them; at an address that a disk can write from directly.

use crate::layout::PAGE_BYTES;

/// Bytes that are gathered before they are written.
pub(super) const WINDOW_BYTES: usize = 512 << 10;

pub(super) struct Window {
    /// Not shrunk: the room behind what is filled.
    memory: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Window {
    pub fn new() -> Window {
        let mut window = Window { memory: Vec::new(), start: 0, filled: 0 };
        window.make_room(WINDOW_BYTES);
        window
    }

    /// Room for so many bytes in all.
    pub fn make_room(&mut self, bytes: usize) {
        if self.memory.len() - self.start >= bytes {
            return;
        }
        let mut memory = vec![0; bytes + PAGE_BYTES];
        let start = memory.as_ptr().align_offset(PAGE_BYTES);
        memory[start..start + self.filled].copy_from_slice(self.bytes());
        (self.memory, self.start) = (memory, start);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.filled]
    }

    /// Adds bytes that there is room for.
    pub fn push(&mut self, bytes: &[u8]) {
        let at = self.start + self.filled;
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    /// These bytes instead of what was there.
    pub fn replace(&mut self, bytes: &[u8]) {
        self.filled = 0;
        self.make_room(bytes.len());
        self.push(bytes);
    }

    /// The first bytes have gone; what a long node needed does not stay.
    pub fn drop_front(&mut self, bytes: usize) {
        let rest = self.start + bytes..self.start + self.filled;
        if self.memory.len() > 2 * WINDOW_BYTES && rest.len() <= WINDOW_BYTES {
            let rest = self.memory[rest].to_vec();
            *self = Window::new();
            self.push(&rest);
            return;
        }
        self.filled = rest.len();
        self.memory.copy_within(rest, self.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_what_is_left_and_gives_its_room_back() {
        let mut window = Window::new();
        window.push(&[1; 100]);
        window.make_room(4 * WINDOW_BYTES);
        assert_eq!(window.bytes(), [1; 100]);
        window.push(&[2; 3 * WINDOW_BYTES]);
        assert_eq!(window.bytes().as_ptr() as usize % PAGE_BYTES, 0);
        window.drop_front(3 * WINDOW_BYTES + 50);
        assert_eq!((window.bytes(), window.memory.len()), (&[2; 50][..], WINDOW_BYTES + PAGE_BYTES));
        window.drop_front(20);
        window.replace(&[3; 7]);
        assert_eq!(window.bytes(), [3; 7]);
    }
}
