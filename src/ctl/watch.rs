//! watch: events until the server cancels it, the connection ends, or the user has seen enough.

use ringstone_net::Method;
use ringstone_net::client::CallOptions;
use ringstone_proto::etcdserverpb::watch_request::RequestUnion;
use ringstone_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use ringstone_proto::mvccpb::Event;

use super::args::Watch;
use super::connect::{Session, failed};
use super::{Failure, INTERRUPTED, Outcome, json, kv};

pub async fn watch(session: &Session, watch: Watch) -> Outcome {
    if watch.words.is_empty() {
        return Err(Failure::arguments("bad number of arguments"));
    }
    let (key, range_end) = kv::key_range("watch", &watch.words, watch.prefix, false)?;
    let create = WatchCreateRequest {
        key,
        range_end,
        start_revision: watch.rev,
        prev_kv: watch.prev_kv,
        progress_notify: watch.progress_notify,
        ..WatchCreateRequest::default()
    };
    let client = session.client().await?;
    let options = CallOptions::default();
    let opened = client.open::<WatchResponse>(Method::Watch, &options).await;
    let (mut requests, mut responses) = opened.map_err(|status| failed(&status))?;
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.send(&request).await.map_err(|status| failed(&status))?;
    while let Some(response) = responses.next().await.map_err(|status| failed(&status))? {
        // The client library keeps the creation to itself.
        if response.created && !response.canceled {
            continue;
        }
        if response.canceled {
            eprintln!("watch was canceled ({})", reason(&response));
        }
        if session.is_json() {
            kv::print_line(&response_json(&response));
        } else {
            print(session, &response);
        }
        if response.canceled {
            break;
        }
    }
    Err(Failure::new(INTERRUPTED, "watch is canceled by the server"))
}

fn reason(response: &WatchResponse) -> String {
    match response.compact_revision {
        0 if response.cancel_reason.is_empty() => "etcdserver: mvcc: required revision is a future revision".to_owned(),
        0 => response.cancel_reason.clone(),
        _ => "etcdserver: mvcc: required revision has been compacted".to_owned(),
    }
}

fn print(session: &Session, response: &WatchResponse) {
    if response.events.is_empty() && !response.canceled {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        kv::print_line(&format!("progress notify: {revision}"));
    }
    for event in &response.events {
        kv::print_line(if event.r#type == 0 { "PUT" } else { "DELETE" });
        if let Some(previous) = &event.prev_kv {
            kv::print_key_value(session, previous, false);
        }
        if let Some(current) = &event.kv {
            kv::print_key_value(session, current, false);
        }
    }
}

fn event_json(event: &Event) -> String {
    json::Object::new()
        .number("type", event.r#type)
        .object("kv", event.kv.as_ref().map(json::key_value))
        .object("prev_kv", event.prev_kv.as_ref().map(json::key_value))
        .end()
}

/// clientv3's WatchResponse, whose fields have no JSON names.
fn response_json(response: &WatchResponse) -> String {
    let events = match response.events.is_empty() {
        true => "null".to_owned(),
        false => json::list(response.events.iter().map(event_json).collect()),
    };
    json::Object::new()
        .field("Header", json::header(response.header.as_ref()).unwrap_or_else(|| "{}".to_owned()))
        .field("Events", events)
        .field("CompactRevision", response.compact_revision.to_string())
        .field("Canceled", response.canceled.to_string())
        .field("Created", response.created.to_string())
        .field("CancelReason", json::text(&response.cancel_reason))
        .end()
}
