//! Hardware probes and the settings that follow from them.
//!
//! ```text
//!   disk::probe(folder) -> DiskReport { one Measured a way } -> verdict() -> text for people
//! ```

pub mod disk;

pub use disk::{DiskReport, Measured, ProbeError, Verdict, probe};
