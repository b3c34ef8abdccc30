//! The parts of the store's model test.
#![allow(dead_code, reason = "each test uses its part")]

pub mod driver;
pub mod model;
pub mod paged;
pub mod strategy;
