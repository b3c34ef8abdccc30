//! Keys with their revisions, in the trees of a pager, beside a plain model.

mod model;
mod read_txn;
mod support;
