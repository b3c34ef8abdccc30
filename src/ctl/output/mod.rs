//! How an answer is shown: etcdctl's five formats, byte for byte.
//!
//! A command makes an `Answer` and hands it to `Output::show`. Each format is one function over all answers: a new
//! answer does not compile before every format has said what it makes of it.

mod fields;
mod json;
mod protobuf;
mod quote;
mod simple;
mod table;
mod units;

use std::fmt;
use std::io::Write as _;

use ringstone_proto::etcdserverpb::{
    AlarmResponse, AlarmType, DeleteRangeResponse, HashKvResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, Member, MemberListResponse, PutResponse,
    RangeResponse, ResponseHeader, StatusResponse, TxnResponse, WatchResponse,
};
use ringstone_proto::mvccpb::Event;

use super::{BAD_FEATURE, Failure, Outcome};
pub use quote::quote;
pub use table::Table;
pub use units::{human_bytes, human_duration};

/// What `--write-out` may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Simple,
    Fields,
    Json,
    Protobuf,
    Table,
}

impl Format {
    pub fn parse(name: &str) -> Result<Format, Failure> {
        Ok(match name {
            "simple" => Format::Simple,
            "fields" => Format::Fields,
            "json" => Format::Json,
            "protobuf" => Format::Protobuf,
            "table" => Format::Table,
            _ => return Err(Failure::new(BAD_FEATURE, "unsupported output format")),
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Format::Simple => "simple",
            Format::Fields => "fields",
            Format::Json => "json",
            Format::Protobuf => "protobuf",
            Format::Table => "table",
        }
    }
}

/// Health of one endpoint; `took` is empty where it could not be asked.
#[derive(Debug, Default)]
pub struct Health {
    pub endpoint: String,
    pub healthy: bool,
    pub took: String,
    pub error: String,
}

/// The answer to a change of the members.
pub struct MembersChanged {
    /// For people.
    pub line: String,
    pub header: Option<ResponseHeader>,
    /// The one that was added.
    pub member: Option<Member>,
    pub members: Vec<Member>,
    /// The message.
    pub bytes: Vec<u8>,
}

/// What a command has to say.
pub enum Answer<'a> {
    Put(&'a PutResponse),
    Get { response: &'a RangeResponse, value_only: bool },
    Delete(&'a DeleteRangeResponse),
    Txn(&'a TxnResponse),
    Watch(&'a WatchResponse),
    Grant(&'a LeaseGrantResponse),
    Revoke { id: i64, response: &'a LeaseRevokeResponse },
    KeepAlive(&'a LeaseKeepAliveResponse),
    TimeToLive { response: &'a LeaseTimeToLiveResponse, keys: bool },
    Leases(&'a LeaseLeasesResponse),
    Members(&'a MemberListResponse),
    MembersChanged(&'a MembersChanged),
    Alarms(&'a AlarmResponse),
    Health(&'a [Health]),
    Status(&'a [(String, StatusResponse)]),
    HashKv(&'a [(String, HashKvResponse)]),
}

/// The flags that say how to show answers.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub format: Format,
    pub hex: bool,
}

impl Output {
    /// Prints an answer. A format that has no form for it is an error, as in etcdctl: after the command has done its work.
    pub fn show(&self, answer: &Answer) -> Outcome {
        let mut page = Page::default();
        let supported = match self.format {
            Format::Simple => simple::write(answer, self.hex, &mut page),
            Format::Fields => fields::write(answer, self.hex, &mut page),
            Format::Json => json::write(answer, self.hex, &mut page),
            Format::Protobuf => protobuf::write(answer, &mut page),
            Format::Table => table::write(answer, &mut page),
        };
        supported.map_err(|Unsupported| {
            Failure::new(BAD_FEATURE, format!("{} not supported as output format", self.format.name()))
        })?;
        print(&page.bytes);
        Ok(())
    }
}

/// The format has no form for this answer.
#[derive(Debug, PartialEq, Eq)]
struct Unsupported;

/// What will be printed at once.
#[derive(Default)]
struct Page {
    bytes: Vec<u8>,
}

impl Page {
    fn line(&mut self, line: impl fmt::Display) {
        self.raw(line.to_string().as_bytes());
    }

    /// A line of bytes that need not be text.
    fn raw(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
    }
}

/// Writes to standard output; whoever closed it has seen enough.
fn print(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

pub fn print_line(line: &str) {
    print(format!("{line}\n").as_bytes());
}

pub fn event_name(event: &Event) -> &'static str {
    if event.r#type == 0 { "PUT" } else { "DELETE" }
}

pub fn alarm_name(alarm: i32) -> String {
    AlarmType::try_from(alarm).map_or_else(|_| alarm.to_string(), |alarm| alarm.as_str_name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringstone_proto::etcdserverpb::AlarmMember;

    fn shown(answer: &Answer, write: fn(&Answer, bool, &mut Page) -> Result<(), Unsupported>) -> String {
        let mut page = Page::default();
        write(answer, true, &mut page).expect("supported");
        String::from_utf8(page.bytes).expect("text")
    }

    /// As etcdctl 3.7.3 printed it beside a server that was out of space, which the script's server is not.
    #[test]
    fn alarms() {
        let alarm = AlarmMember { member_id: 0x051f_37ac_2ec7_15af, alarm: AlarmType::Nospace as i32 };
        let response = AlarmResponse { header: None, alarms: vec![alarm] };
        let answer = Answer::Alarms(&response);
        assert_eq!(shown(&answer, simple::write), "memberID:369074907126371759 alarm:NOSPACE\n");
        let fields = "\"ClusterID\" : 0\n\"MemberID\" : 0\n\"RaftTerm\" : 0\n\"MemberID\" : 51f37ac2ec715af\n\"AlarmType\" : NOSPACE\n\n";
        assert_eq!(shown(&answer, fields::write), fields);
        assert_eq!(shown(&answer, json::write), "{\"alarms\":[{\"memberID\":369074907126371759,\"alarm\":1}]}\n");
        assert_eq!(table::write(&answer, &mut Page::default()), Err(Unsupported));
    }
}
