//! An mmap copy-on-write B+tree store of pages with an O(1) freelist.
//!
//! ```text
//!  owner                     Pager (one thread)                                  Readers (one a thread)
//!  put, delete, ...    ->    forest: trees in frames, edited in place
//!  publish             ->    root record, one pointer store        ------>       pin -> get, visit, aggregate
//!  checkpoint_begin    ->    the published state, pinned
//!  poll_io, completed  <->   pages, free maps, sync, meta, sync
//!  Absent(pages): read them, bring_in_done                          <------       the same
//! ```
//! Positions of a state, in their order: unpublished, published, checkpointed (durable). Nothing in here does I/O but
//! [`StdDisk`](disk::StdDisk), [`Pager::create`] and [`Pager::open`] through the [`Disk`](disk::Disk) that they are given,
//! and the tools [`check`] and [`inspect()`]; nothing knows the time. The file's format: `docs/format-pages.md`.

pub mod api;
pub mod check;
mod checkpoint;
#[cfg(test)]
mod checkpoint_tests;
mod chunks;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod delta_tests;
pub mod disk;
pub mod eviction;
mod forest;
#[cfg(test)]
mod forged_tests;
#[cfg(test)]
mod format_tests;
mod frames;
pub mod freelist;
mod inspect;
pub mod layout;
mod leaving;
mod limbo;
pub mod mapping;
pub mod meta;
#[cfg(any(test, feature = "model"))]
pub mod model;
mod node;
mod open;
mod page_bits;
mod pager;
#[cfg(test)]
mod pager_tests;
pub mod pins;
mod reader;
mod residency;
mod root;
mod shared;
mod shrink;
#[cfg(test)]
mod shrink_tests;
pub mod sigbus;
#[cfg(test)]
mod spill_tests;
pub mod transfer;
mod tree;
#[cfg(test)]
mod tree_tests;

pub use checkpoint::{CheckpointDone, CheckpointError, CheckpointProgress};
pub use inspect::{InspectError, inspect};
pub use open::{FileOptions, OpenError};
pub use pager::Pager;
pub use reader::{Pin, Reader};
pub use shrink::ShrinkStep;
