//! Uses a server through the `etcd-client` crate as an application would. The endpoint is the only argument.
//! Prints a line a check and ends with `client-rust: N passed, M failed`.

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions, LockOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use std::process::ExitCode;
use std::time::Duration;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn expect(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(what.into()) }
}

async fn pairs(client: &mut Client) -> Outcome {
    let first = client.put("rust/a", "1", None).await?;
    let second = client.put("rust/a", "2", Some(PutOptions::new().with_prev_key())).await?;
    let revision = |header: Option<&etcd_client::ResponseHeader>| header.map(|header| header.revision()).unwrap_or(0);
    expect(revision(second.header()) == revision(first.header()) + 1, "a put makes one revision")?;
    expect(second.prev_key().is_some_and(|pair| pair.value() == b"1"), "prev_kv")?;
    client.put("rust/b", "3", None).await?;
    let options = GetOptions::new().with_prefix().with_sort(SortTarget::Key, SortOrder::Descend).with_limit(1);
    let found = client.get("rust/", Some(options)).await?;
    expect(found.count() == 2 && found.more() && found.kvs()[0].key() == b"rust/b", "a sorted, limited range")?;
    let options = GetOptions::new().with_revision(revision(first.header()));
    expect(client.get("rust/a", Some(options)).await?.kvs()[0].value() == b"1", "a read at an old revision")?;
    let deleted = client.delete("rust/", Some(DeleteOptions::new().with_prefix().with_prev_key())).await?;
    expect(deleted.deleted() == 2 && deleted.prev_kvs().len() == 2, "a deleted prefix")
}

async fn transaction(client: &mut Client) -> Outcome {
    client.put("rust/txn", "old", None).await?;
    let swap = || {
        Txn::new()
            .when([Compare::value("rust/txn", CompareOp::Equal, "old")])
            .and_then([TxnOp::put("rust/txn", "new", None), TxnOp::get("rust/txn", None)])
            .or_else([TxnOp::get("rust/txn", None)])
    };
    let done = client.txn(swap()).await?;
    expect(done.succeeded() && done.op_responses().len() == 2, "the then branch")?;
    let refused = client.txn(swap()).await?;
    expect(!refused.succeeded(), "the else branch")?;
    match &refused.op_responses()[0] {
        TxnOpResponse::Get(found) => expect(found.kvs()[0].value() == b"new", "what the else branch read"),
        _ => Err("a get was asked for".into()),
    }
}

async fn watch(client: &mut Client) -> Outcome {
    let before = client.put("rust/w/0", "past", None).await?.header().map(|header| header.revision()).unwrap_or(0);
    let options = WatchOptions::new().with_prefix().with_prev_key().with_start_revision(before);
    let mut stream = client.watch("rust/w/", Some(options)).await?;
    let mut id = None;
    client.put("rust/w/1", "x", None).await?;
    client.delete("rust/w/1", None).await?;
    let mut events = Vec::new();
    while events.len() < 3 {
        let response = stream.message().await?.ok_or("the watch ended")?;
        id = Some(response.watch_id());
        events.extend(
            response
                .events()
                .iter()
                .map(|event| (event.event_type(), event.kv().map(|kv| kv.mod_revision()), event.prev_kv().is_some())),
        );
    }
    let expected = [(EventType::Put, false), (EventType::Put, false), (EventType::Delete, true)];
    for (index, (kind, previous)) in expected.into_iter().enumerate() {
        let revision = Some(before + i64::try_from(index)?);
        expect(events[index] == (kind, revision, previous), &format!("event {index} is {:?}", events[index]))?;
    }
    stream.cancel(id.ok_or("no watch id")?).await?;
    Ok(())
}

async fn lease(client: &mut Client) -> Outcome {
    let id = client.lease_grant(120, None).await?.id();
    client.put("rust/leased", "x", Some(PutOptions::new().with_lease(id))).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
    keeper.keep_alive().await?;
    expect(answers.message().await?.is_some_and(|answer| answer.ttl() == 120), "a keep-alive")?;
    let left = client.lease_time_to_live(id, Some(etcd_client::LeaseTimeToLiveOptions::new().with_keys())).await?;
    expect(left.granted_ttl() == 120 && left.keys() == [b"rust/leased".to_vec()], "its time to live")?;
    expect(client.leases().await?.leases().iter().any(|lease| lease.id() == id), "the list of leases")?;
    client.lease_revoke(id).await?;
    expect(client.get("rust/leased", None).await?.kvs().is_empty(), "a revoked lease takes its keys along")
}

async fn errors(client: &mut Client) -> Outcome {
    match client.get("rust/x", Some(GetOptions::new().with_revision(1 << 40))).await {
        Err(Error::GRpcStatus(status)) => expect(
            status.message() == "etcdserver: mvcc: required revision is a future revision",
            &format!("the text is {}", status.message()),
        ),
        other => Err(format!("a future revision answers {other:?}").into()),
    }
}

async fn maintenance(client: &mut Client) -> Outcome {
    let status = client.status().await?;
    expect(status.version().starts_with("3."), "a version")?;
    expect(status.leader() == status.header().map(|header| header.member_id()).unwrap_or(0), "it leads itself")?;
    expect(client.member_list().await?.members().len() == 1, "one member")?;
    let revision = client.put("rust/c", "1", None).await?.header().map(|header| header.revision()).unwrap_or(0);
    client.compact(revision, None).await?;
    expect(client.compact(revision, None).await.is_err(), "a second compaction at the same revision")
}

async fn lock(client: &mut Client) -> Outcome {
    let id = client.lease_grant(60, None).await?.id();
    let held = client.lock("rust/lock", Some(LockOptions::new().with_lease(id))).await?;
    expect(held.key().starts_with(b"rust/lock/"), "the key of a lock")?;
    client.unlock(held.key()).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let endpoint = arguments.next().expect("usage: client-rust ENDPOINT [--lock-service]");
    let lock_service = arguments.next().as_deref() == Some("--lock-service");
    let mut client = Client::connect([endpoint], None).await.expect("a connection");
    let (mut passed, mut failed) = (0, 0);
    macro_rules! check {
        ($name:ident) => {
            let outcome = match tokio::time::timeout(Duration::from_secs(20), $name(&mut client)).await {
                Ok(outcome) => outcome,
                Err(_) => Err("no answer within 20 s".into()),
            };
            match outcome {
                Ok(()) => {
                    passed += 1;
                    println!("ok      {}", stringify!($name));
                }
                Err(error) => {
                    failed += 1;
                    println!("FAILED  {}: {error}", stringify!($name));
                }
            }
        };
    }
    check!(pairs);
    check!(transaction);
    check!(watch);
    check!(lease);
    check!(errors);
    check!(maintenance);
    if lock_service {
        check!(lock);
    }
    println!("client-rust: {passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
