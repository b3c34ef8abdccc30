//! The write-ahead log: a state machine, and its io_uring adapter.
//!
//! It keeps records in order and makes them durable in batches, one sync each. It knows nothing of consensus, of what a
//! payload means, or of the network. No clock, no thread: time is an argument, and operations go through [`disk::Disk`].
//!
//! | file | concern |
//! |---|---|
//! | [`log`] | the state machine: records in, operations out |
//! | [`prepare`](crate) | the next segment, ready before it is needed |
//! | [`recovery`], [`repair`](crate) | where the log ends, what may be cut; the writes that make it so |
//! | [`scan`] | blocks of a segment, classified |
//! | [`mod@format`] | what stands where (`docs/format-wal.md`) |
//! | [`record`], [`batch`], [`carry`](crate) | records, units of blocks, what outlives its segment |
//! | [`segment`], [`pace`](crate) | what may be recycled, how much a replay would read |
//! | [`disk`] | the trait, its io_uring disk and its simulated disk |
//! | [`inspect()`], [`sync_probe`](mod@sync_probe) | tools |
//!
//! A caller's loop, with any disk:
//!
//! ```
//! use ringstone_wal::{Kind, Log, Options, Record, disk::{Disk, sim::SimDisk}, format::Identity};
//!
//! let mut disk = SimDisk::new(1);
//! let options = Options { create: true, segment_bytes: 64 << 10, ..Options::new(Identity([1; 16])) };
//! let (mut log, _) = Log::open(&mut disk, options, &mut |_record| {}).unwrap();
//! let batch = log.append(Record { group: 1, kind: Kind::Entry, term: 1, index: 1, payload: b"x" }).unwrap();
//! while log.synced() < batch {
//!     while let Some((token, io)) = log.poll_io() {
//!         disk.submit(token, io);
//!     }
//!     disk.flush().unwrap();
//!     while let Some(completion) = disk.poll_completion() {
//!         log.completed(completion);
//!     }
//!     assert!(log.failure().is_none());
//! }
//! ```

pub mod batch;
pub mod buffer;
mod carry;
pub mod disk;
mod drive;
pub mod error;
pub mod format;
pub mod inspect;
pub mod log;
pub mod options;
mod pace;
mod prepare;
pub mod record;
pub mod recovery;
mod repair;
pub mod scan;
pub mod segment;
pub mod sync_probe;

pub use drive::{run_until, run_until_idle};
pub use error::{Damage, DamageCause, RingError, WalError};
pub use format::Identity;
pub use inspect::{InspectSummary, inspect};
pub use log::{BatchNumber, Log};
pub use options::Options;
pub use record::{Kind, Record};
pub use recovery::{Outcome, Recovered, read_only};
pub use repair::give_up;
pub use segment::HolderId;
pub use sync_probe::{Choice, SyncProbe, better, choose_way, sync_probe};
