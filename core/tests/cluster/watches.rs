//! Clients that watch: through the shipping hub of the member that they are connected to; when it ends they go on at
//! another one, behind what they have seen. What they are told must be all changes of their range, once, in order.

use prost::Message as _;
use ringstone_core::watch::StreamId;
use ringstone_pager::api::Damage;
use ringstone_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};

use super::history::History;
use super::node::Life;

pub struct Watch {
    pub key: Vec<u8>,
    pub range_end: Vec<u8>,
    /// Member and life.
    pub at: Option<(u64, u64)>,
    stream: Option<StreamId>,
    /// The next revision that it has not seen.
    next: i64,
    from: i64,
    told: Vec<(i64, Vec<u8>, Option<Vec<u8>>)>,
    /// From, to: compacted before it was read.
    gaps: Vec<(i64, i64)>,
    pub resumed: u64,
}

impl Watch {
    pub fn new(key: &[u8], range_end: &[u8]) -> Watch {
        Watch {
            key: key.to_vec(),
            range_end: range_end.to_vec(),
            at: None,
            stream: None,
            next: 2,
            from: 2,
            told: Vec::new(),
            gaps: Vec::new(),
            resumed: 0,
        }
    }

    pub fn connect(&mut self, id: u64, life_number: u64, life: &mut Life, now_ms: u64) {
        let stream = life.hub.open_stream(now_ms, 7);
        let (key, range_end) = (self.key.clone().into(), self.range_end.clone().into());
        let request = WatchCreateRequest { key, range_end, start_revision: self.next, ..Default::default() };
        let state = life.group.state();
        let (published, compacted) = (state.revision, state.compact_revision);
        life.hub.create(stream, request, published, compacted);
        (self.at, self.stream) = (Some((id, life_number)), Some(stream));
        self.resumed += 1;
    }

    /// Takes what there is. One that is cancelled connects again.
    pub fn take(&mut self, life: &mut Life) -> Result<(), Damage> {
        let Some(stream) = self.stream else { return Ok(()) };
        loop {
            life.catch_up_watches()?;
            let Some(output) = life.hub.poll_output(stream, 4096) else {
                if life.hub.needs_catch_up() {
                    continue;
                }
                return Ok(());
            };
            let bytes: Vec<u8> = output.pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            let mut rest = &bytes[..];
            while let Some((head, behind)) = rest.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                let response = WatchResponse::decode(&behind[..length]).expect("the hub's own");
                rest = &behind[length..];
                if !self.told(&response) {
                    life.hub.close_stream(stream);
                    (self.at, self.stream) = (None, None);
                    return Ok(());
                }
            }
        }
    }

    fn told(&mut self, response: &WatchResponse) -> bool {
        if response.canceled {
            assert!(response.compact_revision >= self.next, "cancelled for no reason: {response:?}");
            self.gaps.push((self.next, response.compact_revision));
            self.next = response.compact_revision;
            return false;
        }
        for event in &response.events {
            let kv = event.kv.as_ref().expect("an event has a key");
            assert!(kv.mod_revision >= self.next, "a watch goes back: {} < {}", kv.mod_revision, self.next);
            let value = (event.r#type == 0).then(|| kv.value.to_vec());
            self.told.push((kv.mod_revision, kv.key.to_vec(), value));
        }
        if let Some(last) = self.told.last().filter(|_| !response.events.is_empty()) {
            self.next = last.0 + 1;
        }
        true
    }

    pub fn seen(&self) -> usize {
        self.told.len()
    }

    /// All of its range up to `revision`, but what was compacted, once and in order.
    pub fn check(&self, history: &History, revision: i64) {
        let in_range = |key: &[u8]| key >= self.key.as_slice() && key < self.range_end.as_slice();
        let in_gap = |at: i64| self.gaps.iter().any(|(from, to)| (*from..*to).contains(&at));
        let expected: Vec<_> = history
            .changes
            .range(self.from..=revision)
            .filter(|(at, _)| !in_gap(**at))
            .flat_map(|(at, changes)| changes.iter().map(move |change| (*at, change)))
            .filter(|(_, change)| in_range(&change.key))
            .map(|(at, change)| (at, change.key.clone(), change.value.clone()))
            .collect();
        for (position, expected) in expected.iter().enumerate() {
            assert_eq!(self.told.get(position), Some(expected), "event {position} of a watch");
        }
        assert_eq!(self.told.len(), expected.len(), "a watch was told more than there was");
    }
}
