//! What one operation of each workload is.

mod kubernetes;
mod kv;
mod lease;
mod watch;

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringstone_net::Status;
use ringstone_net::client::Client;

use crate::BenchError;
use crate::options::{Options, Workload};
use crate::pace::Pace;
use crate::recorder::{Call, Recorder};
use crate::session::key;

pub(crate) use lease::Leases;
pub(crate) use watch::Watchers;

/// After a call that failed, so that a server that is gone is not hammered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// A small generator of random numbers (splitmix64): the same seed asks for the same keys.
pub(crate) struct Random(u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// One of the calls that may be under way at a time.
pub(crate) struct Lane {
    client: Client,
    pub recorder: Rc<Recorder>,
    random: Random,
    /// This lane's number among all, and how many there are.
    number: u64,
    lanes: u64,
    keys: u64,
    value: Bytes,
    /// Leases of a lease run.
    leases: Rc<[i64]>,
}

/// What a lane carries from one operation to the next.
enum Work {
    Plain,
    CountOld(kv::Revision),
    Lease(lease::Renewals),
    Kubernetes(Box<kubernetes::State>),
}

/// An operation that succeeded.
struct Done {
    call: Call,
    ended: Instant,
}

impl Done {
    fn now(call: Call) -> Done {
        Done { call, ended: Instant::now() }
    }
}

impl Lane {
    pub fn new(number: usize, client: Client, options: &Options, recorder: Rc<Recorder>, leases: Rc<[i64]>) -> Lane {
        Lane {
            client,
            recorder,
            random: Random(options.seed.wrapping_add(number as u64).wrapping_mul(0x5851_f42d)),
            number: number as u64,
            lanes: options.lanes() as u64,
            keys: options.keys,
            value: Bytes::from(vec![b'v'; options.value_bytes]),
            leases,
        }
    }

    /// Runs until the pace ends.
    pub async fn run(mut self, workload: Workload, pace: Rc<Pace>) {
        let mut work = match workload {
            Workload::CountOld => Work::CountOld(kv::Revision::default()),
            Workload::Lease => Work::Lease(lease::Renewals::default()),
            Workload::Kubernetes => Work::Kubernetes(Box::default()),
            _ => Work::Plain,
        };
        while let Some(due) = pace.next().await {
            match self.once(workload, &mut work, due).await {
                Ok(done) => self.recorder.done(done.call, due, done.ended),
                Err(status) => {
                    self.recorder.failed(BenchError::Call { call: workload.name(), status });
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
        if let Work::Kubernetes(state) = work {
            kubernetes::end(&self, *state).await;
        }
    }

    async fn once(&mut self, workload: Workload, work: &mut Work, due: Instant) -> Result<Done, Status> {
        match work {
            Work::Lease(renewals) => return lease::renew(self, renewals).await,
            Work::Kubernetes(state) => return kubernetes::once(self, state).await,
            Work::CountOld(revision) => return kv::count_old(self, revision).await,
            Work::Plain => {}
        }
        match workload {
            Workload::Get => kv::get(self, false).await,
            Workload::SerializableGet => kv::get(self, true).await,
            Workload::Range | Workload::Range10000 => kv::range(self, workload.range_keys()).await,
            Workload::Txn => kv::txn(self).await,
            Workload::Delete => kv::delete(self).await,
            Workload::Watch => watch::stamped_put(self, due).await,
            Workload::Count => kv::count(self, 0).await.map(|(done, _)| done),
            Workload::Put | Workload::CountOld | Workload::Lease | Workload::Kubernetes => kv::put(self).await,
        }
    }

    fn random_key(&mut self) -> Bytes {
        key(self.random.below(self.keys))
    }

    /// A random key that no other lane takes; with more lanes than keys, some share one.
    fn own_number(&mut self) -> u64 {
        let mine = self.keys.saturating_sub(self.number % self.keys).div_ceil(self.lanes);
        (self.number % self.keys) + self.random.below(mine) * self.lanes
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn lanes_share_out_the_keys() {
        for (keys, lanes) in [(10u64, 3u64), (100, 100), (7, 20), (1, 1)] {
            for number in 0..lanes {
                let mine = keys.saturating_sub(number % keys).div_ceil(lanes);
                assert!(mine >= 1);
                assert!((number % keys) + (mine - 1) * lanes < keys, "{keys} {lanes} {number}");
            }
        }
    }
}
