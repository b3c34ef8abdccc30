//! An mmap copy-on-write B+tree store of pages with an O(1) freelist.

pub mod api;
pub mod disk;
pub mod layout;
pub mod mapping;
#[cfg(feature = "model")]
pub mod model;
pub mod pins;
