//! An mmap copy-on-write B+tree store of pages with an O(1) freelist.

pub mod api;
pub mod check;
mod checkpoint;
#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod crash_tests;
pub mod disk;
mod forest;
#[cfg(test)]
mod forged_tests;
#[cfg(test)]
mod format_tests;
mod frames;
pub mod freelist;
mod inspect;
pub mod layout;
mod limbo;
pub mod mapping;
pub mod meta;
#[cfg(any(test, feature = "model"))]
pub mod model;
mod node;
mod open;
mod pager;
#[cfg(test)]
mod pager_tests;
pub mod pins;
mod reader;
mod residency;
mod root;
mod shared;
pub mod sigbus;
mod tree;
#[cfg(test)]
mod tree_tests;

pub use checkpoint::{CheckpointDone, CheckpointError};
pub use inspect::{InspectError, inspect};
pub use open::{FileOptions, OpenError};
pub use pager::Pager;
pub use reader::{Pin, Reader};
