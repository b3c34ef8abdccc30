//! Memory that O_DIRECT accepts: aligned to a block, a whole number of blocks long, never uninitialised.

use crate::format::BLOCK_BYTES;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

/// An owned run of blocks, aligned to [`BLOCK_BYTES`]. All bytes are initialised from the start.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    capacity: usize,
    length: usize,
}

// SAFETY: the buffer owns its memory exclusively, as a `Vec<u8>` does.
unsafe impl Send for AlignedBuffer {}

impl AlignedBuffer {
    /// A zeroed buffer of `blocks` blocks (at least one).
    #[must_use]
    pub fn zeroed(blocks: usize) -> AlignedBuffer {
        let capacity = blocks.max(1).checked_mul(BLOCK_BYTES).expect("a buffer's size fits in memory");
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero: there is at least one block.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        AlignedBuffer { start, capacity, length: capacity }
    }

    /// A buffer without memory, to leave in another one's place.
    #[must_use]
    pub fn empty() -> AlignedBuffer {
        AlignedBuffer { start: NonNull::dangling(), capacity: 0, length: 0 }
    }

    /// Bytes that fit without a new allocation.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes the first `length` bytes the content. Bytes that come into view are whatever was there before.
    ///
    /// # Panics
    /// If `length` exceeds the capacity.
    pub fn set_length(&mut self, length: usize) {
        assert!(length <= self.capacity, "the length of a buffer is within its capacity");
        self.length = length;
    }

    /// Makes the capacity at least `blocks` blocks; the content stays.
    pub fn reserve(&mut self, blocks: usize) {
        if blocks.saturating_mul(BLOCK_BYTES) <= self.capacity {
            return;
        }
        let mut larger = AlignedBuffer::zeroed(blocks.max(self.capacity / BLOCK_BYTES * 2));
        larger[..self.length].copy_from_slice(self);
        larger.set_length(self.length);
        *self = larger;
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK_BYTES).expect("a block is a power of two")
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: `start` came from `alloc_zeroed` with this very layout and is freed once, here.
            unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
        }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `length <= capacity` bytes from `start` are ours and initialised (zeroed at allocation).
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl core::fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "AlignedBuffer({} of {} bytes)", self.length, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_keeps_its_content_when_it_grows() {
        let mut buffer = AlignedBuffer::zeroed(1);
        assert_eq!(buffer.as_ptr() as usize % BLOCK_BYTES, 0);
        assert!(buffer.iter().all(|&byte| byte == 0));
        buffer[4095] = 7;
        buffer.reserve(3);
        assert!(buffer.capacity() >= 3 * BLOCK_BYTES);
        assert_eq!(buffer.len(), BLOCK_BYTES);
        assert_eq!(buffer[4095], 7);
        assert_eq!(buffer.as_ptr() as usize % BLOCK_BYTES, 0);
    }
}
