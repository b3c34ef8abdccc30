//! The whole program, with real processes. All of it is one binary: what waits for something does not hold up the others, and
//! the program's crates are linked once.
#![allow(clippy::unwrap_used, reason = "a test")]

mod auto_compaction;
mod bad_input;
mod bench_tool;
mod ctl;
mod ctl_recipes;
mod followers;
#[path = "../golden/mod.rs"]
mod golden;
mod joining;
mod large_answers;
mod members;
mod new_cluster;
mod peer_trouble;
mod repair;
mod rollback;
mod seats;
mod slow_requests;
mod support;
