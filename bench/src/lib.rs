//! The load generator: closed-loop clients straight over h2, HdrHistogram, the server's CPU and memory.
//!
//! ```text
//!   Options -> preload -> run: `connections` sockets, `in_flight` calls on each, one thread -> Report (table, JSON)
//!                              process figures of the server before and after
//! ```
//!
//! Latency is measured around each call on the generator's side. CPU an operation comes in two figures: the server
//! process's own time, and all non-idle time of the machine less the generator's (kernel threads that write back count).

mod error;
mod load;
mod options;
mod process;
mod report;

pub use error::BenchError;
pub use load::run;
pub use options::{Options, Workload};
pub use report::Report;
