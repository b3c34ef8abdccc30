//! Leases: what every member agrees on (`state`) and what only the leader does (`lessor`).

pub mod lessor;
pub mod state;
