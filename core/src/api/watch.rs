//! The Watch service: a reader of requests and a writer of answers around the shard's hub.

use std::cell::Cell;
use std::rc::Rc;

use ringstone_net::{Framed, Held, RequestStream, ResponseSink, Status, decode_request};
use ringstone_proto::etcdserverpb::WatchRequest;
use ringstone_proto::etcdserverpb::watch_request::RequestUnion;

use super::Api;
use crate::shard::{Shard, boottime, random_bytes};
use crate::watch::StreamId;

/// About this many bytes of answers are taken from the hub at once.
const OUTPUT_BYTES: usize = 64 << 10;

/// Ends the stream's watches whichever way the call ends.
struct OpenStream {
    shard: Rc<Shard>,
    id: StreamId,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.shard.close_watch_stream(self.id);
    }
}

impl Api {
    pub(super) async fn watch(&self, requests: RequestStream, responses: ResponseSink) -> Result<(), Status> {
        let jitter = u64::from_le_bytes(random_bytes());
        let now_ms = u64::try_from(boottime().as_millis()).unwrap_or(u64::MAX);
        let id = self.shard.hub.borrow_mut().open_stream(now_ms, jitter);
        let stream = OpenStream { shard: Rc::clone(&self.shard), id };
        let failed = Cell::new(None);
        let reader = async {
            let held = responses.hold();
            let result = self.read_watch_requests(stream.id, requests, held).await;
            // The client's half-close does not end a watch: events go on.
            if let Err(status) = result {
                failed.set(Some(status));
            } else {
                std::future::pending::<()>().await;
            }
        };
        let writer = write_watch_answers(&self.shard, stream.id, responses.clone());
        futures_util::future::select(std::pin::pin!(reader), std::pin::pin!(writer)).await;
        Err(failed.take().unwrap_or(Status::CANCELED))
    }

    async fn read_watch_requests(
        &self,
        stream: StreamId,
        mut requests: RequestStream,
        mut held: Held,
    ) -> Result<(), Status> {
        loop {
            self.shard.watch_requests_wanted(stream).await;
            let Some(message) = requests.next().await else { return Ok(()) };
            let request: WatchRequest = decode_request(message?)?;
            let window = self.shard.window();
            {
                let mut hub = self.shard.hub.borrow_mut();
                match request.request_union {
                    Some(RequestUnion::CreateRequest(create)) => {
                        hub.create(stream, create, window.revision, window.compact_revision);
                    }
                    Some(RequestUnion::CancelRequest(cancel)) => hub.cancel(stream, cancel.watch_id),
                    Some(RequestUnion::ProgressRequest(_)) => hub.request_progress(stream, window.revision),
                    None => {}
                }
                held.set(hub.held_bytes(stream));
            }
            self.shard.hub_moved();
            // Thousands of requests may have come in one piece.
            glommio::yield_if_needed().await;
        }
    }
}

async fn write_watch_answers(shard: &Shard, stream: StreamId, responses: ResponseSink) {
    // What collects here while the client doesn't read.
    let (mut held, queue_bytes) = (responses.hold(), shard.hub.borrow().queue_bytes_max());
    loop {
        if !responses.has_room() {
            held.set(queue_bytes);
        }
        if responses.ready().await.is_err() {
            return;
        }
        held.set(0);
        let output = shard.hub.borrow_mut().poll_output(stream, OUTPUT_BYTES);
        match output {
            Some(output) => {
                shard.watch_output_taken(stream);
                if responses.send(Framed::from_pieces(output.pieces, output.frames)).await.is_err() {
                    return;
                }
            }
            None => {
                shard.watch_output_taken(stream);
                shard.watch_output_ready(stream).await;
            }
        }
    }
}
