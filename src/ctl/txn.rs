//! txn: comparisons and requests, read from standard input.

use std::io::{BufRead, Write as _};

use clap::Parser as _;
use ringstone_net::Method;
use ringstone_proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use ringstone_proto::etcdserverpb::request_op::Request;
use ringstone_proto::etcdserverpb::response_op::Response;
use ringstone_proto::etcdserverpb::{Compare, RequestOp, TxnRequest, TxnResponse};

use super::args::{Txn, TxnCommand, TxnLine};
use super::connect::Session;
use super::{Failure, INVALID_INPUT, IO, Outcome, json, kv};

pub async fn txn(session: &Session, txn: Txn) -> Outcome {
    let prompt = |text: &str| {
        if txn.interactive {
            println!("{text}");
            let _ = std::io::stdout().flush();
        }
    };
    let mut input = std::io::stdin().lock();
    prompt("compares:");
    let compare = read_part(&mut input)?.iter().map(|line| parse_compare(line)).collect::<Result<Vec<_>, _>>()?;
    prompt("success requests (get, put, del):");
    let success = read_part(&mut input)?.iter().map(|line| parse_request(line)).collect::<Result<Vec<_>, _>>()?;
    prompt("failure requests (get, put, del):");
    let failure = read_part(&mut input)?.iter().map(|line| parse_request(line)).collect::<Result<Vec<_>, _>>()?;
    drop(input);
    let response: TxnResponse = session.call(Method::KvTxn, &TxnRequest { compare, success, failure }).await?;
    if session.is_json() {
        kv::print_line(&json::txn(&response));
    } else {
        print(session, &response);
    }
    Ok(())
}

fn print(session: &Session, response: &TxnResponse) {
    kv::print_line(if response.succeeded { "SUCCESS" } else { "FAILURE" });
    for op in &response.responses {
        kv::print_line("");
        match &op.response {
            Some(Response::ResponseRange(answer)) => kv::print_range(session, answer, false),
            Some(Response::ResponsePut(answer)) => kv::print_put(session, answer),
            Some(Response::ResponseDeleteRange(answer)) => kv::print_delete(session, answer),
            Some(Response::ResponseTxn(answer)) => print(session, answer),
            None => {}
        }
    }
}

/// Lines up to an empty one, or the end.
fn read_part(input: &mut impl BufRead) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    for line in input.lines() {
        let line = line.map_err(|error| Failure::new(IO, format!("standard input: {error}")))?;
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    Ok(lines)
}

/// `target("key") op "value"`.
fn parse_compare(line: &str) -> Result<Compare, Failure> {
    let malformed = |what: &str| Failure::new(INVALID_INPUT, format!("malformed comparison: {line}{what}"));
    let (target_name, rest) = line.split_once('(').ok_or_else(|| malformed(""))?;
    let (key, rest) = quoted(rest).ok_or_else(|| malformed("; the key is not quoted"))?;
    let rest = rest.strip_prefix(')').ok_or_else(|| malformed("; ) is missing behind the key"))?.trim_start();
    let (operator, rest) = rest.split_once(' ').ok_or_else(|| malformed("; the operator is missing"))?;
    let (value, rest) = quoted(rest.trim_start()).ok_or_else(|| malformed("; the value is not quoted"))?;
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
    let number = || value.parse::<i64>().map_err(|_| malformed(&format!(" ({value:?} is no number)")));
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
    let parsed = TxnLine::try_parse_from(words).map_err(|_| invalid())?;
    let request = match parsed.command {
        TxnCommand::Put(put) if put.words.len() < 2 && !put.ignore_value => return Err(invalid()),
        TxnCommand::Put(put) => Request::RequestPut(kv::put_request(&put)?),
        TxnCommand::Get(get) => Request::RequestRange(kv::get_request(&get)?),
        TxnCommand::Del(del) => Request::RequestDeleteRange(kv::del_request(&del)?),
    };
    Ok(RequestOp { request: Some(request) })
}

/// Words between spaces; quotes hold a word together.
fn split_words(line: &str) -> Option<Vec<String>> {
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
