//! watch: events until the server cancels it, the connection ends, or the user has seen enough. Interactive: any number of
//! watches, asked for line by line, on one stream.

mod exec;

use std::collections::{BTreeMap, VecDeque};
use std::env;

use clap::Parser as _;
use ringstone_net::client::{CallOptions, Client, RequestSender, ResponseReceiver};
use ringstone_net::{Method, Status};
use ringstone_proto::etcdserverpb::watch_request::RequestUnion;
use ringstone_proto::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::args::{Watch, WatchLine};
use super::connect::{Session, failed};
use super::output::{Answer, Output, print_line, quote};
use super::txn::split_words;
use super::{Failure, INTERRUPTED, INVALID_INPUT, Outcome, kv, unknown_word};

pub async fn watch(session: &Session, mut watch: Watch) -> Outcome {
    let environment = Environment::read()?;
    if watch.interactive {
        return interactive(session, &environment).await;
    }
    environment.complete(&mut watch, env::args().next_back().is_some_and(|word| word == "--"))?;
    let create = create_request(&watch)?;
    let mut stream = Stream::open(&session.client().await?, session.output).await?;
    stream.create(create, watch.exec).await?;
    while let Some(response) = stream.responses.next().await.map_err(|status| failed(&status))? {
        stream.handle(&response).await?;
        if response.canceled {
            break;
        }
    }
    Err(Failure::new(INTERRUPTED, "watch is canceled by the server"))
}

async fn interactive(session: &Session, environment: &Environment) -> Outcome {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut stream = Stream::open(&session.client().await?, session.output).await?;
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let unread = |why: String| Failure::new(INVALID_INPUT, format!("error reading watch request line: {why}"));
                let line = line.map_err(|error| unread(error.to_string()))?.ok_or_else(|| unread("EOF".to_owned()))?;
                stream.command(&line, environment).await?;
            }
            response = stream.responses.next() => match response.map_err(|status| failed(&status))? {
                Some(response) => stream.handle(&response).await?,
                None => return Err(Failure::new(INTERRUPTED, "the server ended the stream")),
            },
        }
    }
}

/// ETCDCTL_WATCH_KEY and ETCDCTL_WATCH_RANGE_END: what to watch where the words don't say it.
struct Environment(Vec<String>);

impl Environment {
    fn read() -> Result<Environment, Failure> {
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let (key, range_end) = (variable("ETCDCTL_WATCH_KEY"), variable("ETCDCTL_WATCH_RANGE_END"));
        if let (None, Some(end)) = (&key, &range_end) {
            let text = format!("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}", quote(end.as_bytes()));
            return Err(Failure::arguments(text));
        }
        Ok(Environment(key.into_iter().chain(range_end).collect()))
    }

    /// Adds its words to those of the user. `dangling`: a -- with nothing behind it.
    fn complete(&self, watch: &mut Watch, dangling: bool) -> Outcome {
        let bad = |why: &str| Err(Failure::arguments(format!("bad number of arguments{why}")));
        if dangling {
            return bad(" (found separator --, but no commands)");
        }
        match (self.0.is_empty(), watch.words.is_empty()) {
            (true, true) => bad(""),
            (false, false) => bad(" (found conflicting environment key)"),
            (true, false) => Ok(()),
            (false, true) => {
                watch.words.clone_from(&self.0);
                Ok(())
            }
        }
    }
}

fn create_request(watch: &Watch) -> Result<WatchCreateRequest, Failure> {
    if watch.words.len() > 1 && watch.prefix {
        return Err(Failure::arguments("`range_end` and `--prefix` are mutually exclusive"));
    }
    if watch.words.len() > 2 {
        return Err(Failure::arguments("bad number of arguments"));
    }
    let (key, range_end) = kv::key_range("watch", &watch.words, watch.prefix, false)?;
    Ok(WatchCreateRequest {
        key,
        range_end,
        start_revision: watch.rev,
        prev_kv: watch.prev_kv,
        progress_notify: watch.progress_notify,
        ..WatchCreateRequest::default()
    })
}

/// The watches of one stream, each with the command for its events, which may be none.
struct Stream {
    requests: RequestSender,
    responses: ResponseReceiver<WatchResponse>,
    output: Output,
    /// Asked for and not answered yet; the server answers in this order.
    asked: VecDeque<Vec<String>>,
    watches: BTreeMap<i64, Vec<String>>,
}

impl Stream {
    async fn open(client: &Client, output: Output) -> Result<Stream, Failure> {
        let mut options = CallOptions::default();
        // A member that lost its leader shall cancel rather than keep silent.
        options.metadata.insert("hasleader", "true".parse().expect("a header's value"));
        let opened = client.open::<WatchResponse>(Method::Watch, &options).await;
        let (requests, responses) = opened.map_err(|status| failed(&status))?;
        Ok(Stream { requests, responses, output, asked: VecDeque::new(), watches: BTreeMap::new() })
    }

    async fn create(&mut self, create: WatchCreateRequest, exec: Vec<String>) -> Outcome {
        self.asked.push_back(exec);
        self.send(RequestUnion::CreateRequest(create)).await.map_err(|status| failed(&status))
    }

    async fn send(&mut self, request: RequestUnion) -> Result<(), Status> {
        self.requests.send(&WatchRequest { request_union: Some(request) }).await
    }

    /// A line of the user. What is wrong with it is told and forgotten, unless etcdctl ends too.
    async fn command(&mut self, line: &str, environment: &Environment) -> Outcome {
        let words = split_words(line).unwrap_or_default();
        match words.first().map(String::as_str) {
            Some("watch") if words.len() < 2 && environment.0.is_empty() => {
                eprintln!("Invalid command {line} (command type or key is not provided)");
                Ok(())
            }
            Some("watch") => {
                let dangling = words.last().is_some_and(|word| word == "--");
                let parsed = WatchLine::try_parse_from(&words[1..]).map_err(|error| {
                    Failure::arguments(unknown_word(&error).unwrap_or_else(|| error.render().to_string()))
                })?;
                let mut watch = parsed.watch;
                environment.complete(&mut watch, dangling)?;
                match create_request(&watch) {
                    Ok(create) => self.create(create, watch.exec).await,
                    Err(failure) => {
                        eprintln!("Invalid command {line} ({})", failure.text);
                        Ok(())
                    }
                }
            }
            Some("progress") => {
                let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
                self.send(request).await.map_err(|status| failed(&status))
            }
            Some(_) => {
                eprintln!("Invalid command {line} (only support watch)");
                Ok(())
            }
            None => {
                eprintln!("Invalid command: {line} (watch and progress supported)");
                Ok(())
            }
        }
    }

    async fn handle(&mut self, response: &WatchResponse) -> Outcome {
        if response.created {
            let exec = self.asked.pop_front().unwrap_or_default();
            // The client library keeps the creation to itself.
            if !response.canceled {
                self.watches.insert(response.watch_id, exec);
                return Ok(());
            }
        }
        if response.canceled {
            eprintln!("watch was canceled ({})", reason(response));
            self.watches.remove(&response.watch_id);
        }
        // An answer to `progress` is for all watches; clientv3 hands it to each.
        let times = if response.watch_id == -1 && !response.canceled { self.watches.len() } else { 1 };
        for _ in 0..times {
            if let Some(revision) = progress(response) {
                print_line(&format!("progress notify: {revision}"));
            }
            self.output.show(&Answer::Watch(response))?;
        }
        match self.watches.get(&response.watch_id) {
            Some(command) => exec::run(command, response).await,
            None => Ok(()),
        }
    }
}

/// The revision of a progress notification.
fn progress(response: &WatchResponse) -> Option<i64> {
    let revision = response.header.as_ref()?.revision;
    let quiet = response.events.is_empty() && !response.canceled && response.compact_revision == 0;
    (quiet && revision != 0).then_some(revision)
}

fn reason(response: &WatchResponse) -> String {
    match response.compact_revision {
        0 if response.cancel_reason.is_empty() => "etcdserver: mvcc: required revision is a future revision".to_owned(),
        0 => response.cancel_reason.clone(),
        _ => "etcdserver: mvcc: required revision has been compacted".to_owned(),
    }
}
