//! etcd's API messages and its table of methods, generated from our own .proto files.
//!
//! - one module per proto package: [`etcdserverpb`], [`mvccpb`], [`authpb`], [`v3lockpb`], [`v3electionpb`], [`health`]
//! - [`Method`]: every rpc with its path, kind and names
//! - [`decode`]: the only safe way from foreign bytes to a message

mod decode;
mod method;
mod shape;

pub use decode::{DECODE_DEPTH_MAX, DecodeError, decode, decode_within};
pub use method::{Method, MethodKind};
pub use prost;
pub use shape::Described;

/// Keys, values and events.
#[allow(missing_docs, reason = "generated")]
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}
/// Users, roles and permissions.
#[allow(missing_docs, reason = "generated")]
pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}
/// The KV, Watch, Lease, Cluster, Maintenance and Auth services.
#[allow(missing_docs, reason = "generated")]
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}
/// The Lock service.
#[allow(missing_docs, reason = "generated")]
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}
/// The Election service.
#[allow(missing_docs, reason = "generated")]
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}
/// gRPC's standard health service.
#[allow(missing_docs, reason = "generated")]
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}
