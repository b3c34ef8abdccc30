//! make-mirror: all keys at one revision, page by page, then every event behind it, to another server.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ringstone_net::Method;
use ringstone_net::client::Client;
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
    WatchResponse,
};
use ringstone_proto::mvccpb::event::EventType;

use super::args::MakeMirror;
use super::concurrency::Following;
use super::connect::{Session, failed};
use super::output::print_line;
use super::{BAD_FEATURE, Failure, Outcome, kv};

/// Keys of a page.
const PAGE_KEYS: i64 = 1_000;
/// How often the number of mirrored changes is printed.
const REPORT: Duration = Duration::from_secs(30);

struct Mirror<'a> {
    session: &'a Session,
    to: Client,
    prefix: Bytes,
    destination: Bytes,
    operations_max: usize,
    total: Rc<Cell<u64>>,
}

/// Ends with an error alone: the source or the destination went away, or the history that is needed is compacted.
pub async fn make_mirror(session: &Session, flags: MakeMirror) -> Outcome {
    let [to] = flags.words.as_slice() else {
        return Err(Failure::arguments("make-mirror takes one destination argument"));
    };
    if flags.no_dest_prefix && !flags.dest_prefix.is_empty() {
        let text = "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one";
        return Err(Failure::arguments(text));
    }
    if !flags.dest_insecure_transport {
        return Err(Failure::new(BAD_FEATURE, "TLS is not built yet: use http:// endpoints"));
    }
    let from = session.client().await?;
    let destination = match (flags.no_dest_prefix, flags.dest_prefix.is_empty()) {
        (true, _) => "",
        (false, true) => &flags.prefix,
        (false, false) => &flags.dest_prefix,
    };
    let mirror = Mirror {
        session,
        to: session.client_of(to).await?,
        prefix: flags.prefix.clone().into(),
        destination: destination.to_owned().into(),
        operations_max: flags.max_txn_ops.max(1),
        total: Rc::default(),
    };
    let total = Rc::clone(&mirror.total);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(REPORT).await;
            print_line(&total.get().to_string());
        }
    });
    let (key, range_end) = match flags.prefix.is_empty() {
        true => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        false => (mirror.prefix.clone(), kv::prefix_end(&mirror.prefix)),
    };
    // With a revision the destination has what is older already.
    let start = match flags.rev {
        ..=1 => mirror.copy(&from, key.clone(), &range_end).await? + 1,
        revision => revision,
    };
    let mut following = Following::open(&from, key, range_end, start).await?;
    loop {
        mirror.apply(following.next().await?).await?;
    }
}

impl Mirror<'_> {
    fn renamed(&self, key: &[u8]) -> Bytes {
        [&self.destination[..], key.strip_prefix(&self.prefix[..]).unwrap_or(key)].concat().into()
    }

    fn count(&self) {
        self.total.set(self.total.get() + 1);
    }

    /// Copies what there is; gives the revision that it was read at.
    async fn copy(&self, from: &Client, mut key: Bytes, range_end: &Bytes) -> Result<i64, Failure> {
        let options = self.session.options();
        let mut revision = 0;
        loop {
            let range = RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: PAGE_KEYS,
                revision,
                ..RangeRequest::default()
            };
            let page: RangeResponse =
                from.unary(Method::KvRange, &range, &options).await.map_err(|status| failed(&status))?;
            if revision == 0 {
                revision = page.header.as_ref().map_or(0, |header| header.revision);
            }
            let next = page.kvs.last().map(|last| [&last.key[..], b"\0"].concat());
            for pair in page.kvs {
                let put = PutRequest { key: self.renamed(&pair.key), value: pair.value, ..PutRequest::default() };
                let put = self.to.unary::<_, PutResponse>(Method::KvPut, &put, &options).await;
                put.map_err(|status| failed(&status))?;
                self.count();
            }
            match next.filter(|_| page.more) {
                Some(next) => key = next.into(),
                None => return Ok(revision),
            }
        }
    }

    /// One transaction for each revision, or more where it has too many operations.
    async fn apply(&self, response: WatchResponse) -> Outcome {
        let (mut operations, mut revision) = (Vec::new(), 0);
        for event in response.events {
            let Some(pair) = event.kv else { continue };
            let is_next = revision != 0 && pair.mod_revision > revision;
            if is_next || operations.len() >= self.operations_max {
                self.commit(std::mem::take(&mut operations)).await?;
            }
            revision = pair.mod_revision;
            let key = self.renamed(&pair.key);
            let request = match event.r#type == EventType::Delete as i32 {
                true => Request::RequestDeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() }),
                false => Request::RequestPut(PutRequest { key, value: pair.value, ..PutRequest::default() }),
            };
            operations.push(RequestOp { request: Some(request) });
            self.count();
        }
        self.commit(operations).await
    }

    async fn commit(&self, success: Vec<RequestOp>) -> Outcome {
        if success.is_empty() {
            return Ok(());
        }
        let txn = TxnRequest { success, ..TxnRequest::default() };
        let done = self.to.unary::<_, TxnResponse>(Method::KvTxn, &txn, &self.session.options()).await;
        done.map(drop).map_err(|status| failed(&status))
    }
}
