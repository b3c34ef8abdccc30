//! A group on simulated disks: storage that stops at any I/O, a driver, and what must be true of it.

pub mod disks;
pub mod journal;
pub mod life;
