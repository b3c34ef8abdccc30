//! txn: comparisons and requests, read from standard input.

use clap::Parser as _;
use ringstone_net::Method;
use ringstone_proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::{Compare, RequestOp, TxnRequest, TxnResponse};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};

use super::args::{Txn, TxnCommand, TxnLine};
use super::connect::Session;
use super::output::{Answer, print_line, quote};
use super::{Failure, INVALID_INPUT, IO, Outcome, kv};

pub async fn txn(session: &Session, txn: Txn) -> Outcome {
    let prompt = |text: &str| {
        if txn.interactive {
            print_line(text);
        }
    };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    prompt("compares:");
    let compare = read_part(&mut lines, parse_compare).await?;
    prompt("success requests (get, put, del):");
    let success = read_part(&mut lines, parse_request).await?;
    prompt("failure requests (get, put, del):");
    let failure = read_part(&mut lines, parse_request).await?;
    let response: TxnResponse = session.call(Method::KvTxn, &TxnRequest { compare, success, failure }).await?;
    session.output.show(&Answer::Txn(&response))
}

/// What stands before an empty line. An end of the input is none: half a transaction is not carried out.
async fn read_part<T>(
    lines: &mut Lines<BufReader<Stdin>>,
    parse: fn(&str) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let mut parts = Vec::new();
    loop {
        let line = lines.next_line().await.map_err(|error| Failure::new(IO, format!("standard input: {error}")))?;
        let line = line.ok_or_else(|| Failure::new(INVALID_INPUT, "EOF"))?;
        match line.trim() {
            "" => return Ok(parts),
            line => parts.push(parse(line)?),
        }
    }
}

/// `target("key") op "value"`.
fn parse_compare(line: &str) -> Result<Compare, Failure> {
    let malformed = |what: &str| Failure::new(INVALID_INPUT, format!("malformed comparison: {line}{what}"));
    let (target_name, rest) = line.split_once('(').ok_or_else(|| malformed(""))?;
    // etcdctl shows how far it came.
    let got = |key: &str, operator: &str| {
        malformed(&format!("; got {target_name}({}) {operator} \"\"", quote(key.as_bytes())))
    };
    let (key, rest) = quoted(rest.trim_start()).ok_or_else(|| got("", ""))?;
    let rest = rest.strip_prefix(')').ok_or_else(|| got(&key, ""))?.trim_start();
    let (operator, rest) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
    let (value, rest) = quoted(rest.trim_start()).ok_or_else(|| got(&key, operator))?;
    if !rest.trim().is_empty() {
        return Err(malformed("; words follow the value"));
    }
    let result = match operator {
        "=" => 0,
        ">" => 1,
        "<" => 2,
        "!=" => 3,
        _ => return Err(malformed(&format!(" (unknown operator {operator})"))),
    };
    let no_number = || Failure::new(INVALID_INPUT, format!("invalid txn compare request: {line}"));
    let number = || value.parse::<i64>().map_err(|_| no_number());
    let (target, union) = match target_name {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number()?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number()?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number()?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.clone().into_bytes().into())),
        "lease" => {
            let id = i64::from_str_radix(&value, 16).map_err(|_| malformed(&format!(" ({value:?} is no lease id)")))?;
            (CompareTarget::Lease, TargetUnion::Lease(id))
        }
        _ => return Err(malformed(&format!(" (unknown target {target_name})"))),
    };
    Ok(Compare {
        result,
        target: target as i32,
        key: key.into_bytes().into(),
        range_end: Default::default(),
        target_union: Some(union),
    })
}

/// A string in double quotes with backslash escapes, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut out = String::new();
    let mut characters = inner.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((out, &inner[at + 1..])),
            '\\' => out.push(match characters.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                other => other,
            }),
            other => out.push(other),
        }
    }
    None
}

fn parse_request(line: &str) -> Result<RequestOp, Failure> {
    let invalid = || Failure::new(INVALID_INPUT, format!("invalid txn request: {line}"));
    let words = split_words(line).ok_or_else(invalid)?;
    if words.len() < 2 {
        return Err(Failure::new(INVALID_INPUT, format!("invalid txn compare request: {line}")));
    }
    let parsed = TxnLine::try_parse_from(words).map_err(|_| invalid())?;
    let request = match parsed.command {
        TxnCommand::Put(put) => Request::RequestPut(kv::put_request(&put, None)?),
        TxnCommand::Get(get) => Request::RequestRange(kv::get_request(&get)?),
        TxnCommand::Del(del) => Request::RequestDeleteRange(kv::del_request(&del)?),
    };
    Ok(RequestOp { request: Some(request) })
}

/// Words between spaces; quotes hold a word together.
pub fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let mut word = String::new();
        while !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
            if rest.starts_with('"') {
                let (part, behind) = quoted(rest)?;
                word.push_str(&part);
                rest = behind;
            } else if let Some(inner) = rest.strip_prefix('\'') {
                let (part, behind) = inner.split_once('\'')?;
                word.push_str(part);
                rest = behind;
            } else {
                let character = rest.chars().next()?;
                word.push(character);
                rest = &rest[character.len_utf8()..];
            }
        }
        words.push(word);
        rest = rest.trim_start();
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_read() {
        let compare = parse_compare(r#"mod("a \"b") > "7""#).expect("a comparison");
        assert_eq!((compare.result, compare.target, &compare.key[..]), (1, CompareTarget::Mod as i32, &b"a \"b"[..]));
        assert_eq!(compare.target_union, Some(TargetUnion::ModRevision(7)));
        for bad in [
            "bad",
            "value(a = 3",
            r#"foo("a") = "3""#,
            r#"mod("a") >= "3""#,
            r#"mod("a") = "x""#,
            r#"mod("a") = "3" 4"#,
        ] {
            assert_eq!(parse_compare(bad).map_err(|failure| failure.status), Err(INVALID_INPUT), "{bad}");
        }
    }

    #[test]
    fn requests_are_read() {
        let request = parse_request(r#"put "b c" 'q "x' --prev-kv"#).expect("a request");
        let Some(Request::RequestPut(put)) = request.request else { panic!("a put") };
        assert_eq!((&put.key[..], &put.value[..], put.prev_kv), (&b"b c"[..], &b"q \"x"[..], true));
        for bad in ["putt a", "put", "put a", r#"put "a"#, "get a --nope"] {
            assert!(parse_request(bad).is_err(), "{bad}");
        }
    }
}
