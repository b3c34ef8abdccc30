//! Whose is this frame, and is its memory still there?
//!
//! Frames are the writer's anonymous memory for nodes that are not in the file yet. Readers on other threads follow their
//! addresses, so memory goes back to the arena only through [`Frames::release`], which `limbo.rs` calls when no pin
//! reaches the frame, and the arena itself lives as long as the last reader. Frames of the unpublished generation belong
//! to the writer alone and are edited in place; all others are immutable, but for the words that `checkpoint/switch.rs`
//! switches.

mod slabs;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::alloc::Layout;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::node::{DELTA_BYTES, NodeMemory, NodeView, PAGE_BYTES, Reference};
use slabs::Slabs;

/// Frames that are taken from the system at once, as long as there are few.
const BLOCK_FRAMES: usize = 64;
/// And later: a huge page. Frames are copied from all over the pool, and with small pages each copy misses the processor's
/// tables of addresses, which a virtual machine pays for twice.
const HUGE_FRAMES: usize = HUGE_BYTES / PAGE_BYTES;
const HUGE_BYTES: usize = 2 << 20;

/// Owns the memory of all frames. Freed when writer and readers are gone.
#[derive(Default)]
pub(crate) struct Arena {
    allocations: Mutex<HashMap<usize, Layout>>,
}

impl Arena {
    fn allocate(&self, pages: usize) -> NonNull<u8> {
        let layout = Layout::from_size_align(pages * PAGE_BYTES, PAGE_BYTES).expect("a run's size is a legal layout");
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) });
        let Some(start) = start else { std::alloc::handle_alloc_error(layout) };
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner).insert(start.as_ptr() as usize, layout);
        start
    }

    /// Memory for [`HUGE_FRAMES`] frames, in one page of the system where it has such. It is not initialised.
    fn allocate_huge(&self) -> NonNull<u8> {
        let layout = Layout::from_size_align(HUGE_BYTES, HUGE_BYTES).expect("a huge page's size is a legal layout");
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { std::alloc::alloc(layout) });
        let Some(start) = start else { std::alloc::handle_alloc_error(layout) };
        // Advice: what the kernel does not follow costs speed only. Before the first touch, which decides.
        #[cfg(not(miri))]
        // SAFETY: the range was just allocated, and its content is not changed.
        unsafe {
            libc::madvise(start.as_ptr().cast(), HUGE_BYTES, libc::MADV_HUGEPAGE)
        };
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner).insert(start.as_ptr() as usize, layout);
        start
    }

    fn free(&self, start: NonNull<u8>) {
        let layout = self.allocations.lock().unwrap_or_else(PoisonError::into_inner).remove(&(start.as_ptr() as usize));
        let layout = layout.expect("only what was allocated is freed");
        // SAFETY: allocated above with this layout, and taken out of the map: freed once.
        unsafe { std::alloc::dealloc(start.as_ptr(), layout) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let allocations = self.allocations.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (start, layout) in allocations.drain() {
            // SAFETY: allocated by this arena with this layout; the last user of its memory has just gone.
            unsafe { std::alloc::dealloc(start as *mut u8, layout) }
        }
    }
}

/// A frame that no tree refers to yet.
pub(crate) struct Frame {
    start: NonNull<u8>,
    pages: u32,
    /// Of a delta.
    class: Option<usize>,
}

// SAFETY: a frame is owned memory; the arena that frees it is itself Send and Sync.
unsafe impl Send for Frame {}

impl Frame {
    pub fn pages(&self) -> u32 {
        self.pages
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = self.class.map_or(self.pages as usize * PAGE_BYTES, |class| DELTA_BYTES[class]);
        // SAFETY: taken from the pool and not linked yet: nobody else knows the address. Its memory was zeroed before its
        // first use, so all bytes are initialised.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), bytes) }
    }

    /// Gives it to a tree.
    pub fn link(self) -> Reference {
        Reference::frame(self.start.as_ptr() as u64, self.class)
    }
}

/// The writer's pool of frames.
pub(crate) struct Frames {
    arena: Arc<Arena>,
    free: Vec<NonNull<u8>>,
    /// Memory of frames that were never used: it is not initialised.
    unused: Vec<NonNull<u8>>,
    slabs: Slabs,
    bytes: u64,
}

// SAFETY: the pool owns the memory that its pointers lead to, through the arena, which is Send and Sync.
unsafe impl Send for Frames {}

impl Frames {
    pub fn new(arena: Arc<Arena>) -> Frames {
        Frames { arena, free: Vec::new(), unused: Vec::new(), slabs: Slabs::default(), bytes: 0 }
    }

    /// Bytes of all frames that are in use, readers' included; deltas by the pages that they stand in.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A frame of so many pages with any content.
    pub fn take(&mut self, pages: u32) -> Frame {
        if pages > 1 {
            self.bytes += u64::from(pages) * PAGE_BYTES as u64;
            return Frame { start: self.arena.allocate(pages as usize), pages, class: None };
        }
        Frame { start: self.take_page(), pages, class: None }
    }

    /// A frame for a delta of a class, with any content.
    pub fn take_delta(&mut self, class: usize) -> Frame {
        if !self.slabs.has_room(class) {
            let page = self.take_page();
            // SAFETY: a page of the pool, which is in no other use until the slab is given back.
            unsafe { self.slabs.add(class, page) };
        }
        Frame { start: self.slabs.take(class), pages: 1, class: Some(class) }
    }

    fn take_page(&mut self) -> NonNull<u8> {
        self.bytes += PAGE_BYTES as u64;
        if let Some(page) = self.free.pop() {
            return page;
        }
        if self.unused.is_empty() {
            let is_small = self.bytes < HUGE_BYTES as u64;
            let (block, frames) = if is_small {
                (self.arena.allocate(BLOCK_FRAMES), BLOCK_FRAMES)
            } else {
                (self.arena.allocate_huge(), HUGE_FRAMES)
            };
            for index in (0..frames).rev() {
                // SAFETY: inside of the block that was just allocated.
                self.unused.push(unsafe { block.add(index * PAGE_BYTES) });
            }
        }
        let page = self.unused.pop().expect("just filled");
        // Each in its turn: two MiB at once would take as long as some hundred puts.
        // SAFETY: the memory of a frame that nobody else has.
        unsafe { page.write_bytes(0, PAGE_BYTES) };
        page
    }

    /// Takes memory back.
    ///
    /// # Safety
    /// `reference` came from [`Frame::link`] of this pool with `pages` pages, is released once, and no reader or tree
    /// reaches it any more.
    pub unsafe fn release(&mut self, reference: Reference, pages: u32) {
        debug_assert!(reference.is_frame());
        let mut start = NonNull::new(reference.address() as *mut u8).expect("a frame's reference is its address");
        if reference.is_delta() {
            // SAFETY: the caller's promise: it came from the slabs, and is released once.
            let Some(slab) = (unsafe { self.slabs.release(start) }) else { return };
            start = slab;
        }
        self.bytes -= u64::from(pages) * PAGE_BYTES as u64;
        if pages > 1 { self.arena.free(start) } else { self.free.push(start) }
    }

    /// The bytes of a linked frame, to be edited.
    ///
    /// # Safety
    /// The frame is of the unpublished generation (so nobody else reaches it), lives, has `pages` pages and is no delta. No
    /// view of it is alive.
    pub unsafe fn bytes_mut(&mut self, reference: Reference, pages: u32) -> &mut [u8] {
        debug_assert!(reference.is_frame() && !reference.is_delta());
        // SAFETY: the caller's promise; `&mut self` keeps a second slice from being made meanwhile.
        unsafe { core::slice::from_raw_parts_mut(reference.0 as *mut u8, pages as usize * PAGE_BYTES) }
    }
}

/// A look at a frame; at a delta without its base, so that only its header means something.
///
/// # Safety
/// The frame lives for `'a`, has `pages` pages, and is not edited meanwhile.
pub(crate) unsafe fn view_frame<'a>(reference: Reference, pages: u32) -> NodeView<'a> {
    debug_assert!(reference.is_frame());
    let start = NonNull::new(reference.address() as *mut u8).expect("a frame's reference is its address");
    // SAFETY: the caller's promise; frames are aligned to pages, deltas to words.
    NodeView::new(unsafe { NodeMemory::new(start, reference.bytes(pages)) })
}

/// Stores one word of a frame that readers may be reading.
///
/// # Safety
/// The frame lives, `offset` is a multiple of 8 inside of it, and readers read that word by [`NodeMemory::word`] only.
pub(crate) unsafe fn store_word(reference: Reference, offset: usize, word: u64) {
    debug_assert!(reference.is_frame() && offset.is_multiple_of(8));
    // SAFETY: the caller's promise. Release: what the new word leads to is visible to who loads it.
    let target = unsafe { &*((reference.address() as usize + offset) as *const AtomicU64) };
    target.store(word.to_le(), Ordering::Release);
}
