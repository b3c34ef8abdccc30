//! What three shipping groups on simulated disks do, step by step.

mod cluster;
#[path = "../cluster/faults.rs"]
#[allow(dead_code, reason = "the simulation of clusters needs more of it")]
mod faults;
#[path = "../cluster/node.rs"]
#[allow(dead_code, reason = "the simulation of clusters needs more of it")]
mod node;
#[path = "../cluster/random.rs"]
#[allow(dead_code, reason = "the same")]
mod random;
#[path = "../group/support/settings.rs"]
mod settings;

mod failover;
mod requests;
