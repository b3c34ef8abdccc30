//! The load generator: clients straight over h2, HdrHistogram, the server's CPU and memory; and the comparison with etcd.
//!
//! ```text
//!   Options -> session: connect, put all keys -> load: `connections` sockets x `in_flight` lanes, one thread
//!                                                  pace    when the next operation is due (closed or open loop)
//!                                                  work/   what one operation is
//!                                                  recorder  latencies by round and by call
//!           -> process figures before and after each round -> Report (table, JSON) -> session: delete the keys
//!   compare/   starts etcd and ringstone on the same core, runs the same Options against both in turn -> Markdown
//! ```
//!
//! Latency is measured on the generator's side: around each call in a closed loop, from the moment at which the call was
//! due in an open one (so a server that stalls is charged for those who wait behind it). CPU an operation comes in two
//! figures: the server process's own time, and all non-idle time of the machine less the generator's (kernel threads that
//! write back count).

pub mod compare;
mod error;
mod interrupt;
mod load;
mod options;
mod pace;
mod process;
mod recorder;
mod report;
mod session;
mod timer;
mod work;

pub use error::BenchError;
pub use load::run;
pub use options::{Options, Workload};
pub use report::{Partial, Report, Round};
