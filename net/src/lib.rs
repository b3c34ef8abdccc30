//! The wire: HTTP/2 and gRPC, HTTP/1.1 for clients, QUIC between members.
//!
//! Everything here lives on one thread (`!Send`): a server per shard, connections and calls as futures of that shard.
//!
//! ```text
//! socket -> server::serve_connection: the first bytes choose
//!             HTTP/2 preface -> http2 (turns of one task) -> call: head, admit, message, handler, answer
//!             anything else  -> http1                     -> Handler::http
//! ```
//!
//! - [`Handler`]: what a server does with calls; [`CallContext`], [`RequestStream`], [`ResponseSink`], [`Framed`]
//! - [`Server`] and [`serve_connection`]: a connection from its first byte to its last
//! - [`Limits`]: every bound, with its origin
//! - [`Memory`]: what all connections together may hold
//! - [`Admission`]: who may call what, one entry per method
//! - [`Code`] and [`Status`]: gRPC errors
//! - [`WireMetrics`]: counters of one shard, without locks
//! - [`client`]: a small gRPC client
//! - [`peer`]: the members among themselves
//! - [`Runtime`]: the three things that are asked of an executor
//! - `glommio_io` (feature `glommio`): glommio's sockets and executor behind these seams; `nap`: waiting without its rings

mod admission;
mod budget;
pub mod client;
mod context;
mod framed;
#[cfg(feature = "glommio")]
pub mod glommio_io;
mod handler;
mod limits;
mod memory;
mod metrics;
#[cfg(feature = "glommio")]
pub mod nap;
pub mod peer;
mod runtime;
mod server;
mod status;

pub use admission::{Admission, Entry, LearnerRule, admission};
pub use context::{CallContext, Metadata, Peer};
pub use framed::{Framed, decode_request};
pub use handler::{Handler, HttpRequest, HttpResponse, UnaryEnd};
pub use limits::Limits;
pub use memory::{Claim, Held, Memory, ShardMemory};
pub use metrics::{HANDLING_BOUNDS_S, HandlingTimes, MetricsSnapshot, WireMetrics};
pub use ringstone_proto::{Method, MethodKind};
pub use runtime::{LocalBoxFuture, Runtime, TokioRuntime};
pub use server::{ConnectionEnd, RequestStream, ResponseSink, Server, SinkError, serve_connection};
pub use status::{Code, Status};
