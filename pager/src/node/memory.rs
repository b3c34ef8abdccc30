//! Whose memory is a node's, and who may change it while it is read?
//!
//! A node is read through raw memory, because one word of it may change under a reader: the reference of a child that a
//! checkpoint has written is switched from the frame to the page (see `checkpoint/switch.rs`). That word is loaded
//! atomically here and stored atomically there, and no slice handed out covers it: slices are made of keys and values
//! only. All other bytes of a published node never change while a pin reaches it.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

/// The memory of one node, readable for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct NodeMemory<'a> {
    start: NonNull<u8>,
    bytes: usize,
    life: PhantomData<&'a [u8]>,
}

impl<'a> NodeMemory<'a> {
    /// # Safety
    /// `bytes` bytes from `start` stay readable for `'a`; nobody writes them meanwhile, but for atomic stores of aligned
    /// words that are only read by [`NodeMemory::word`]. `start` is a multiple of 8.
    pub unsafe fn new(start: NonNull<u8>, bytes: usize) -> NodeMemory<'a> {
        debug_assert_eq!(start.as_ptr() as usize % 8, 0);
        NodeMemory { start, bytes, life: PhantomData }
    }

    /// Memory that somebody owns.
    pub fn of(bytes: &'a [u8]) -> NodeMemory<'a> {
        assert_eq!(bytes.as_ptr() as usize % 8, 0, "a node's memory is aligned to words");
        NodeMemory { start: NonNull::from(bytes).cast(), bytes: bytes.len(), life: PhantomData }
    }

    /// Size of the run in bytes.
    pub fn len(self) -> usize {
        self.bytes
    }

    fn address(self, offset: usize, bytes: usize) -> *const u8 {
        assert!(offset <= self.bytes && bytes <= self.bytes - offset, "a node's fields stand inside of it");
        // SAFETY: just checked to stay inside of the memory.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// Bytes of a key, a value, or of a node without child references.
    pub fn slice(self, offset: usize, bytes: usize) -> &'a [u8] {
        // SAFETY: inside of memory that lives for 'a; callers ask for keys and values, which nobody writes.
        unsafe { core::slice::from_raw_parts(self.address(offset, bytes), bytes) }
    }

    pub fn u8(self, offset: usize) -> u8 {
        // SAFETY: one byte inside of the memory.
        unsafe { self.address(offset, 1).read() }
    }

    pub fn u32(self, offset: usize) -> u32 {
        // SAFETY: four bytes inside of the memory; unaligned reads are fine.
        u32::from_le_bytes(unsafe { self.address(offset, 4).cast::<[u8; 4]>().read() })
    }

    pub fn u64(self, offset: usize) -> u64 {
        // SAFETY: eight bytes inside of the memory; unaligned reads are fine.
        u64::from_le_bytes(unsafe { self.address(offset, 8).cast::<[u8; 8]>().read() })
    }

    /// A word that may be switched under the reader.
    pub fn word(self, offset: usize) -> u64 {
        assert_eq!(offset % 8, 0, "switched words are aligned");
        // SAFETY: an aligned word inside of the memory (the start is aligned). Atomic, because the writer may store it.
        // The memory may be mapped read-only: a relaxed or acquire load of 8 bytes is a plain load on 64-bit machines.
        let word = unsafe { &*self.address(offset, 8).cast::<AtomicU64>() };
        u64::from_le(word.load(Ordering::Acquire))
    }
}
