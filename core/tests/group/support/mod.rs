//! A group on simulated disks: storage that stops or fails at any I/O, a driver, and what must be true of it.

#![allow(dead_code, reason = "several tests share it, and none of them needs all of it")]

pub mod disks;
pub mod history;
pub mod journal;
pub mod life;
pub mod paths;
pub mod settings;
pub mod snapshot;
