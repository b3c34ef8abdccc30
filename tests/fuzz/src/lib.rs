//! What each fuzzer does with its input, and where its seeds come from. One module a target: `run` takes bytes that may be
//! anything and panics if the code below does, or breaks a promise; `seeds` makes inputs by the real encoders.
//!
//! Checksums are made right again after the bytes were changed: otherwise no change would get past them.

pub mod entries;
pub mod grpc;
pub mod http1;
pub mod image;
pub mod input;
pub mod pages;
pub mod peer;
pub mod requests;
pub mod serve;
pub mod store;
pub mod wal;

/// A target with its function and its seeds.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target { name: "wal", run: wal::run, seeds: wal::seeds },
    Target { name: "pages", run: pages::run, seeds: pages::seeds },
    Target { name: "entries", run: entries::run, seeds: entries::seeds },
    Target { name: "requests", run: requests::run, seeds: requests::seeds },
    Target { name: "grpc", run: grpc::run, seeds: grpc::seeds },
    Target { name: "http1", run: http1::run, seeds: http1::seeds },
    Target { name: "image", run: image::run, seeds: image::seeds },
    Target { name: "peer", run: peer::run, seeds: peer::seeds },
];
