//! An mmap copy-on-write B+tree store of pages with an O(1) freelist.

pub mod api;
#[cfg(feature = "model")]
pub mod model;
