//! Leases: what every member agrees on (`state`) and what only the leader does.

pub mod state;
