//! The server as its clients see it, over loopback pipes on one thread.

mod common;
#[cfg(feature = "glommio")]
mod glommio;
mod grpc_calls;
mod grpc_wire;
mod http1;
mod limits;
mod memory;
