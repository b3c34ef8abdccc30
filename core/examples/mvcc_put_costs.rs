//! What a put costs in apply on the real trees, publishing every 100:
//! `cargo run --release -p ringstone-core --example mvcc_put_costs`.

#[path = "../tests/mvcc/support/mod.rs"]
mod support;

use ringstone_core::command::{ArchivedCommand, Command, Put, Range};
use ringstone_core::mvcc::apply;
use support::driver::{Store, pager};

fn main() {
    let mut store = Store::new(pager());
    let value = vec![7u8; 200];
    let count = 200_000u64;
    let commands: Vec<_> = (0..count)
        .map(|index| {
            let key = format!("/registry/pods/default/pod-{:08}", index.wrapping_mul(7919) % 100_000).into_bytes();
            let put = Put { key, value: value.clone(), ..Put::default() };
            rkyv::to_bytes::<rkyv::rancor::Error>(&Command::Put(put)).expect("commands serialize")
        })
        .collect();
    let start = std::time::Instant::now();
    for (index, bytes) in commands.iter().enumerate() {
        let command = rkyv::access::<ArchivedCommand, rkyv::rancor::Error>(bytes).expect("valid");
        apply(&mut store.trees, &mut store.state, command).expect("all pages are frames");
        if index % 100 == 99 {
            store.trees.publish();
        }
    }
    let put_ns = start.elapsed().as_nanos() as u64 / count;
    let start = std::time::Instant::now();
    let range = Range { key: vec![0], range_end: vec![0], ..Range::default() };
    let kvs = store.range_at_once(&range).kvs.len();
    println!("{put_ns} ns a put; a range of {kvs} keys takes {} us", start.elapsed().as_micros());
}
