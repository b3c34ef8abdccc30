//! A group on simulated disks, stopped, failed and damaged: one binary, for what these tests share is compiled long.

mod crash;
mod damage;
mod faults;
mod paths;
mod restore_crash;
mod support;
mod truncate;
