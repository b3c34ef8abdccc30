//! Where deltas stand: the memory of a frame of one page, divided into places of one size.
//!
//! ```text
//!  0      4        8        16            64
//!  | free | class  | place  | zeros       | places ...
//! ```
//! `free` has a bit for each place that is free, `place` says where in the list of its class a slab with free places is. The
//! writer alone looks at a slab's head; readers see the places that deltas are in. Who takes the slab for the frame that its
//! memory once was (`checkpoint/switch.rs` does) finds the level of a leaf there, and leaves it alone.

use core::ptr::NonNull;

use crate::node::{DELTA_BYTES, PAGE_BYTES};

/// Bytes in front of the places: a node's header is shorter.
const HEAD_BYTES: usize = 64;
const CLASSES: usize = DELTA_BYTES.len();

const _: () = assert!(size_of::<Head>() <= HEAD_BYTES && crate::node::at::SLOTS <= HEAD_BYTES);

#[repr(C)]
struct Head {
    free: u32,
    class: u32,
    place: usize,
}

fn all_free(class: usize) -> u32 {
    (1 << ((PAGE_BYTES - HEAD_BYTES) / DELTA_BYTES[class])) - 1
}

/// The slabs that have a free place, by class.
#[derive(Default)]
pub(super) struct Slabs {
    open: [Vec<NonNull<u8>>; CLASSES],
}

impl Slabs {
    pub fn has_room(&self, class: usize) -> bool {
        !self.open[class].is_empty()
    }

    /// # Safety
    /// `slab` is a slab of ours (its memory lives and is aligned to pages), and no other reference to its head is alive.
    unsafe fn head<'a>(slab: NonNull<u8>) -> &'a mut Head {
        // SAFETY: the caller's promise; the head was written by `add`.
        unsafe { slab.cast::<Head>().as_mut() }
    }

    /// Divides the memory of a page.
    ///
    /// # Safety
    /// `memory` is that of one page, aligned to pages, initialised, and nobody else's until [`Slabs::release`] gives it back.
    pub unsafe fn add(&mut self, class: usize, memory: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { memory.write_bytes(0, HEAD_BYTES) };
        let head = Head { free: all_free(class), class: class as u32, place: self.open[class].len() };
        // SAFETY: the same; a page's start is aligned for it.
        unsafe { memory.cast::<Head>().write(head) };
        self.open[class].push(memory);
    }

    /// A place in a slab that has one.
    pub fn take(&mut self, class: usize) -> NonNull<u8> {
        let slab = *self.open[class].last().expect("callers add a slab first");
        // SAFETY: a slab of the list.
        let head = unsafe { Slabs::head(slab) };
        let place = head.free.trailing_zeros() as usize;
        head.free &= head.free - 1;
        if head.free == 0 {
            self.open[class].pop();
        }
        // SAFETY: places stand inside of the slab.
        unsafe { slab.add(HEAD_BYTES + place * DELTA_BYTES[class]) }
    }

    /// Takes a place back. Returns the memory of its slab where nothing is left in it.
    ///
    /// # Safety
    /// `place` came from [`Slabs::take`] of this, and is released once.
    pub unsafe fn release(&mut self, place: NonNull<u8>) -> Option<NonNull<u8>> {
        let offset = place.as_ptr() as usize % PAGE_BYTES;
        // SAFETY: slabs are aligned to pages, and a place stands inside of its slab.
        let slab = unsafe { place.sub(offset) };
        // SAFETY: the slab of a place that is taken.
        let head = unsafe { Slabs::head(slab) };
        let class = head.class as usize;
        let open = &mut self.open[class];
        if head.free == 0 {
            head.place = open.len();
            open.push(slab);
        }
        head.free |= 1 << ((offset - HEAD_BYTES) / DELTA_BYTES[class]);
        if head.free != all_free(class) {
            return None;
        }
        let at = head.place;
        open.swap_remove(at);
        if let Some(moved) = open.get(at) {
            // SAFETY: another slab of the list.
            unsafe { Slabs::head(*moved) }.place = at;
        }
        Some(slab)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; PAGE_BYTES]);

    #[test]
    fn places_do_not_overlap_and_an_empty_slab_is_given_back() {
        let mut pages: Vec<Box<Page>> = (0..6).map(|_| Box::new(Page([7; PAGE_BYTES]))).collect();
        for (class, bytes) in DELTA_BYTES.into_iter().enumerate() {
            let (mut slabs, mut free) = (Slabs::default(), Vec::new());
            free.extend(pages.iter_mut().map(|page| NonNull::from(&mut page.0).cast::<u8>()));
            let mut taken: Vec<NonNull<u8>> = Vec::new();
            let mut random = 12_345_u64;
            for _ in 0..3000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let number = (random >> 33) as usize;
                let is_full = !slabs.has_room(class) && free.is_empty();
                if !taken.is_empty() && (is_full || number.is_multiple_of(2)) {
                    let place = taken.swap_remove(number / 2 % taken.len());
                    // SAFETY: taken below, released once.
                    let back = unsafe { slabs.release(place) };
                    free.extend(back);
                } else {
                    if !slabs.has_room(class) {
                        let memory = free.pop().expect("not full");
                        // SAFETY: a page of ours that is in no slab.
                        unsafe { slabs.add(class, memory) };
                    }
                    let place = slabs.take(class);
                    let start = place.as_ptr() as usize;
                    assert!(start.is_multiple_of(8) && start % PAGE_BYTES >= HEAD_BYTES);
                    assert!(start % PAGE_BYTES + bytes <= PAGE_BYTES);
                    let is_apart = |other: &NonNull<u8>| (other.as_ptr() as usize).abs_diff(start) >= bytes;
                    assert!(taken.iter().all(is_apart));
                    taken.push(place);
                }
                let in_use: std::collections::HashSet<usize> =
                    taken.iter().map(|place| place.as_ptr() as usize / PAGE_BYTES).collect();
                assert_eq!(in_use.len() + free.len(), 6, "a slab is in use while a place of it is");
            }
        }
    }
}
