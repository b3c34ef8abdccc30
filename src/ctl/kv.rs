//! put, get, del, compaction.

use bytes::Bytes;
use ringstone_net::Method;
use ringstone_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RangeStreamResponse,
};
use tokio::io::AsyncReadExt as _;

use super::args::{Compaction, Del, Get, Put};
use super::connect::{Session, failed};
use super::output::{Answer, Format, print_line, quote};
use super::{BAD_FEATURE, ERROR, Failure, IO, Outcome};

/// The end of the range of all keys with a prefix; etcd's `\0` where there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

/// Key and end from the words and the flags that all range commands share.
pub fn key_range(command: &str, words: &[String], prefix: bool, from_key: bool) -> Result<(Bytes, Bytes), Failure> {
    if prefix && from_key {
        return Err(Failure::arguments("`--prefix` and `--from-key` cannot be set at the same time, choose one"));
    }
    let key = match words {
        [] => {
            let text = format!("{command} command needs one argument as key and an optional argument as range_end");
            return Err(Failure::arguments(text));
        }
        [_, _, ..] if prefix || from_key => {
            let text = "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";
            return Err(Failure::arguments(text));
        }
        [key, ..] => Bytes::copy_from_slice(key.as_bytes()),
    };
    let whole = Bytes::from_static(b"\0");
    Ok(match words.get(1) {
        Some(end) => (key, Bytes::copy_from_slice(end.as_bytes())),
        None if (prefix || from_key) && key.is_empty() => (whole.clone(), whole),
        None if prefix => (key.clone(), prefix_end(&key)),
        None if from_key => (key, whole),
        None => (key, Bytes::new()),
    })
}

/// `standard_input` is the value where the words have none.
pub fn put_request(put: &Put, standard_input: Option<Vec<u8>>) -> Result<PutRequest, Failure> {
    let missing = || Failure::arguments("put command needs 1 argument and input from stdin or 2 arguments");
    let key = put.words.first().ok_or_else(missing)?;
    if put.ignore_value && put.words.len() > 1 {
        return Err(Failure::arguments("put command needs only 1 argument when 'ignore-value' is set"));
    }
    let lease =
        lease_id(&put.lease).map_err(|why| Failure::arguments(format!("bad lease ID ({why}), expecting ID in Hex")))?;
    let value = match put.words.get(1) {
        Some(value) => value.clone().into_bytes(),
        None if put.ignore_value => Vec::new(),
        None => standard_input.ok_or_else(missing)?,
    };
    Ok(PutRequest {
        key: key.clone().into(),
        value: value.into(),
        lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    })
}

/// A lease id in hex, with Go's words for what is none.
pub fn lease_id(text: &str) -> Result<i64, String> {
    i64::from_str_radix(text, 16).map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
}

pub fn get_request(get: &Get) -> Result<RangeRequest, Failure> {
    let (key, range_end) = key_range("get", &get.words, get.prefix, get.from_key)?;
    if get.keys_only && get.count_only {
        let text = "`--keys-only` and `--count-only` cannot be set at the same time, choose one";
        return Err(Failure::arguments(text));
    }
    let serializable = match get.consistency.as_str() {
        "l" => false,
        "s" => true,
        other => return Err(Failure::new(BAD_FEATURE, format!("unknown consistency flag {other:?}"))),
    };
    let sort_target = match get.sort_by.to_uppercase().as_str() {
        "" | "KEY" => 0,
        "VERSION" => 1,
        "CREATE" => 2,
        "MODIFY" => 3,
        "VALUE" => 4,
        _ => return Err(Failure::new(BAD_FEATURE, format!("bad sort target {}", get.sort_by))),
    };
    let sort_order = match get.order.to_uppercase().as_str() {
        "" => 0,
        // Keys come in this order anyway.
        "ASCEND" => i32::from(sort_target != 0),
        "DESCEND" => 2,
        _ => return Err(Failure::new(BAD_FEATURE, format!("bad sort order {}", get.order))),
    };
    let filters = |name: &str, least: i64, most: i64| match most > 0 && least > most {
        true => Err(Failure::new(BAD_FEATURE, format!("getMin{name}(={least}) > getMax{name}(={most})"))),
        false => Ok((least.max(0), most.max(0))),
    };
    let (min_create_revision, max_create_revision) = filters("CreateRev", get.min_create_rev, get.max_create_rev)?;
    let (min_mod_revision, max_mod_revision) = filters("ModRev", get.min_mod_rev, get.max_mod_rev)?;
    Ok(RangeRequest {
        key,
        range_end,
        limit: get.limit,
        revision: get.rev.max(0),
        sort_order,
        sort_target,
        serializable,
        keys_only: get.keys_only,
        count_only: get.count_only,
        min_mod_revision,
        max_mod_revision,
        min_create_revision,
        max_create_revision,
    })
}

pub fn del_request(del: &Del) -> Result<DeleteRangeRequest, Failure> {
    if del.words.len() > 2 {
        let text = "del command needs one argument as key and an optional argument as range_end";
        return Err(Failure::arguments(text));
    }
    let (key, range_end) = key_range("del", &del.words, del.prefix, del.from_key)?;
    Ok(DeleteRangeRequest { key, range_end, prev_kv: del.prev_kv })
}

pub async fn put(session: &Session, put: Put) -> Outcome {
    let mut standard_input = None;
    if put.words.len() == 1 && !put.ignore_value {
        let mut value = Vec::new();
        let read = tokio::io::stdin().read_to_end(&mut value).await;
        read.map_err(|error| Failure::new(IO, format!("standard input: {error}")))?;
        standard_input = Some(value);
    }
    let response: PutResponse = session.call(Method::KvPut, &put_request(&put, standard_input)?).await?;
    session.output.show(&Answer::Put(&response))
}

pub async fn get(session: &Session, get: Get) -> Outcome {
    let request = get_request(&get)?;
    let response = match get.stream {
        true => range_stream(session, &request).await?,
        false => session.call(Method::KvRange, &request).await?,
    };
    if get.count_only && session.output.format != Format::Fields {
        return Err(Failure::arguments("--count-only is only for `--write-out=fields`"));
    }
    if get.print_value_only && session.output.format != Format::Simple {
        return Err(Failure::arguments("print-value-only is only for `--write-out=simple`"));
    }
    session.output.show(&Answer::Get { response: &response, value_only: get.print_value_only })
}

/// The parts of a stream as one answer.
async fn range_stream(session: &Session, request: &RangeRequest) -> Result<RangeResponse, Failure> {
    let client = session.client().await?;
    let opened = client.open::<RangeStreamResponse>(Method::KvRangeStream, &session.options()).await;
    let (mut requests, mut responses) = opened.map_err(|status| failed(&status))?;
    requests.send(request).await.map_err(|status| failed(&status))?;
    requests.finish();
    let mut whole = RangeResponse::default();
    while let Some(part) = responses.next().await.map_err(|status| failed(&status))? {
        let part = part.range_response.unwrap_or_default();
        whole.header = part.header.or(whole.header);
        whole.kvs.extend(part.kvs);
        whole.more |= part.more;
        whole.count = whole.count.max(part.count);
    }
    Ok(whole)
}

pub async fn del(session: &Session, del: Del) -> Outcome {
    let request = del_request(&del)?;
    if let [key, end] = del.words.as_slice()
        && !del.range
    {
        eprintln!(
            "Warning: Keys between {} and {} will be deleted. Please interrupt the command within next 2 seconds to \
             cancel. You can provide `--range` flag to avoid the delay.",
            quote(key.as_bytes()),
            quote(end.as_bytes())
        );
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
    let response: DeleteRangeResponse = session.call(Method::KvDeleteRange, &request).await?;
    session.output.show(&Answer::Delete(&response))
}

pub async fn compaction(session: &Session, compaction: Compaction) -> Outcome {
    let [revision] = compaction.words.as_slice() else {
        return Err(Failure::arguments("compaction command needs 1 argument"));
    };
    let revision = revision
        .parse::<i64>()
        .map_err(|_| Failure::new(ERROR, format!("strconv.ParseInt: parsing {revision:?}: invalid syntax")))?;
    let request = CompactionRequest { revision, physical: compaction.physical };
    let _: CompactionResponse = session.call(Method::KvCompact, &request).await?;
    print_line(&format!("compacted revision {revision}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_clientv3() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let range = |given: &[&str], prefix, from_key| {
            key_range("get", &words(given), prefix, from_key).ok().map(|(key, end)| (key.to_vec(), end.to_vec()))
        };
        let bytes = |key: &[u8], end: &[u8]| Some((key.to_vec(), end.to_vec()));
        assert_eq!(range(&["a"], false, false), bytes(b"a", b""));
        assert_eq!(range(&["a"], true, false), bytes(b"a", b"b"));
        assert_eq!(range(&[""], true, false), bytes(b"\0", b"\0"));
        assert_eq!(range(&["a"], false, true), bytes(b"a", b"\0"));
        assert_eq!(range(&["a", "c"], false, false), bytes(b"a", b"c"));
        assert_eq!(range(&["a", "c"], true, false), None);
        assert_eq!(range(&["a"], true, true), None);
        assert_eq!(prefix_end(b"a\xff"), Bytes::from_static(b"b"));
        assert_eq!(prefix_end(b"\xff"), Bytes::from_static(b"\0"));
    }
}
