//! `-w protobuf`: the message as it came, without an end of line.
//!
//! clientv3 wraps the answers of leases in structs of its own, of which Go's encoder finds the header only. Scripts that
//! read etcdctl's bytes find the same here.

use ringstone_proto::etcdserverpb::{ResponseHeader, WatchResponse};
use ringstone_proto::prost::Message;

use super::{Answer, Page, Unsupported};

pub fn write(answer: &Answer, page: &mut Page) -> Result<(), Unsupported> {
    page.bytes = match answer {
        Answer::Put(response) => response.encode_to_vec(),
        Answer::Get { response, .. } => response.encode_to_vec(),
        Answer::Delete(response) => response.encode_to_vec(),
        Answer::Txn(response) => response.encode_to_vec(),
        Answer::Watch(response) => watch(response),
        Answer::Grant(response) => header(response.header.as_ref()),
        Answer::KeepAlive(response) => header(response.header.as_ref()),
        Answer::TimeToLive { response, .. } => header(response.header.as_ref()),
        Answer::Leases(response) => header(response.header.as_ref()),
        Answer::MembersChanged(changed) => changed.bytes.clone(),
        Answer::Members(response) => response.encode_to_vec(),
        Answer::Alarms(response) => response.encode_to_vec(),
        Answer::Revoke { .. } | Answer::Health(_) | Answer::Status(_) | Answer::HashKv(_) => return Err(Unsupported),
    };
    Ok(())
}

fn header(header: Option<&ResponseHeader>) -> Vec<u8> {
    header.map(Message::encode_to_vec).unwrap_or_default()
}

/// What clientv3 knows of it.
fn watch(response: &WatchResponse) -> Vec<u8> {
    WatchResponse { watch_id: 0, cancel_reason: String::new(), fragment: false, ..response.clone() }.encode_to_vec()
}
