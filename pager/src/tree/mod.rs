//! Trees of nodes: reading them from anywhere, changing them in the writer.

mod delete;
mod prune;
mod put;
mod read;
mod relocate;
mod split;
mod sums;

pub(crate) use read::{Nodes, Visit, aggregate, fetch, get, root_of, visit};
pub(crate) use relocate::{Bounds, Moved};
